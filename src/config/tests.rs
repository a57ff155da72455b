//! What a user writes, and the value or the exact words that come of it.

use std::{collections::BTreeSet, fs, path::Path};

use super::{Config, DEFAULTS, Fault, Faults, Flag, Sources, rules::RULES, show, show_json};

type Variables<'a> = &'a [(&'a str, &'a str)];
type Flags<'a> = &'a [(&'static str, &'a str, &'static str)];

/// Loads a file of this text, named `jarvis.toml` in messages.
fn load(toml: &str, variables: Variables<'_>, flags: Flags<'_>) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    load_in(directory.path(), toml, variables, flags)
}

fn load_in(
    directory: &Path,
    toml: &str,
    variables: Variables<'_>,
    flags: Flags<'_>,
) -> Result<Config, String> {
    let file = directory.join("jarvis.toml");
    fs::write(&file, toml).unwrap();
    let home = [("HOME", "/home/ada"), ("TZ", "Europe/Paris")];
    let environment = home.iter().chain(variables).map(|(n, v)| ((*n).into(), (*v).into())).collect();
    let flags = flags.iter().map(|&(key, value, name)| Flag { key, value: value.into(), name }).collect();
    let sources = Sources { file: Some(file), environment, flags };
    Config::load(&sources)
        .map_err(|faults| faults.to_string().replace(&format!("{}/", directory.display()), ""))
}

/// What `config show --json` says of a key: its value and where it came from.
fn shown(config: &Config, key: &str) -> (serde_json::Value, String) {
    let pointer = format!("/{}", key.replace('.', "/"));
    let json = show_json(config);
    let setting = json.pointer(&pointer).unwrap_or_else(|| panic!("no {key}"));
    (setting["value"].clone(), setting["source"].as_str().unwrap().rsplit('/').next().unwrap().into())
}

#[test]
fn defaults_alone_are_sound() {
    let config = load("", &[], &[]).unwrap();
    assert_eq!(config.mqtt.url, None);
    assert_eq!(config.mqtt.base_topic.as_str(), "jarvis");
    assert_eq!(config.mqtt.keep_alive.as_secs(), 30);
    assert_eq!(
        config.mqtt.reply_topics.iter().map(|f| f.as_str()).collect::<Vec<_>>(),
        ["jarvis/reply/#", "jarvis/+/response/#"]
    );
    assert_eq!(config.paths.plugins, std::env::current_dir().unwrap().join("plugins"));
    assert_eq!(config.paths.data, Path::new("/home/ada/.local/share/jarvis-bridge"));
    assert_eq!(config.broker.listen.to_string(), "127.0.0.1:1883");
    assert_eq!(config.limits.plugin.cpu_ms, 250);
    assert_eq!(config.limits.payload, 262_144);
    assert_eq!(config.http.timeout.as_millis(), 10_000);
    assert_eq!(config.location.timezone, "Europe/Paris");
    assert!(config.reload.watch && config.chat.slash_commands && config.plugins.is_empty());
}

#[test]
fn the_later_layer_wins_and_every_value_knows_its_place() {
    let toml = "[mqtt]\nurl = \"mqtt://file\"\nkeep_alive = 10\n\n[limits]\nhook_cpu_ms = 1\n";
    let config = load(
        toml,
        &[("JARVIS__MQTT__KEEP_ALIVE", "20"), ("JARVIS__LIMITS__HOOK_CPU_MS", "500")],
        &[("limits.hook_cpu_ms", "900", "--cpu")],
    )
    .unwrap();
    let check = |key: &str, value: serde_json::Value, source: &str| {
        assert_eq!(shown(&config, key), (value, source.to_owned()), "{key}");
    };
    check("mqtt.url", "mqtt://file".into(), "jarvis.toml:2");
    check("mqtt.keep_alive", 20.into(), "JARVIS__MQTT__KEEP_ALIVE");
    check("limits.hook_cpu_ms", 900.into(), "--cpu");
    check("limits.depth", 32.into(), "default");
    check("location.timezone", "Europe/Paris".into(), "default, from $TZ");
    assert_eq!((config.limits.plugin.cpu_ms, config.mqtt.keep_alive.as_secs()), (900, 20));
}

#[test]
fn the_environment_is_read_by_the_type_of_the_key() {
    let check = |name: &str, text: &str, key: &str, expect: serde_json::Value| {
        let config = load("", &[(name, text)], &[]).unwrap();
        let (value, _) = shown(&config, key);
        assert_eq!(value, expect, "{name}={text}");
    };
    check("JARVIS__MQTT__USERNAME", "0123", "mqtt.username", "0123".into());
    check("JARVIS__MQTT__CLIENT_ID", "true", "mqtt.client_id", "true".into());
    check("JARVIS__LIMITS__DEPTH", "5", "limits.depth", 5.into());
    check("JARVIS__RELOAD__WATCH", "false", "reload.watch", false.into());
    let topics: serde_json::Value = serde_json::json!(["a/#", "b"]);
    check("JARVIS__MQTT__REPLY_TOPICS", "a/#, b", "mqtt.reply_topics", topics.clone());
    check("JARVIS__MQTT__REPLY_TOPICS", "[\"a/#\", 'b']", "mqtt.reply_topics", topics);
    check("JARVIS__PLUGINS__WEATHER__CITY", "Lyon", "plugins.weather.city", "Lyon".into());
    check("JARVIS__PLUGINS__WEATHER__DAYS", "3", "plugins.weather.days", 3.into());
    check("JARVIS__PLUGINS__WEATHER__ZIP", "01000", "plugins.weather.zip", "01000".into());
    check("JARVIS__PLUGINS__WEATHER__A__B", "1.5", "plugins.weather.a.b", 1.5.into());
    let password = load("", &[("JARVIS__MQTT__PASSWORD", "0123")], &[]).unwrap().mqtt.password;
    assert_eq!(password.as_deref(), Some("0123"));
}

/// The one fault of a configuration, word for word.
fn check_fault(toml: &str, variables: Variables<'_>, flags: Flags<'_>, expect: &str) {
    let error = load(toml, variables, flags).expect_err(toml);
    assert_eq!(error, format!("1 fault in the configuration:\n  {expect}"));
}

#[test]
fn what_nobody_knows_is_refused_with_what_was_meant() {
    let file = |toml: &str, expect: &str| check_fault(toml, &[], &[], expect);
    file("[mqtt]\nulr = 1", "jarvis.toml:2: unknown key `mqtt.ulr`, did you mean `mqtt.url`?");
    file("[mqtt]\ntopic = 1", "jarvis.toml:2: unknown key `mqtt.topic`, did you mean `mqtt.base_topic`?");
    file(
        "[mqtt]\ntimezone = 1",
        "jarvis.toml:2: unknown key `mqtt.timezone`, did you mean `location.timezone`?",
    );
    file("[mqtt]\nfrobnicate = 1", "jarvis.toml:2: unknown key `mqtt.frobnicate`");
    file("\n[mqqt]\na = 1\nb = 2", "jarvis.toml:2: unknown section `[mqqt]`, did you mean `[mqtt]`?");
    file("[xyzzy]", "jarvis.toml:1: unknown section `[xyzzy]`");
    file("[plugin.weather]\na = 1", "jarvis.toml:1: unknown section `[plugin]`, did you mean `[plugins]`?");
    file("url = \"mqtt://nas\"", "jarvis.toml:1: unknown key `url`, did you mean `mqtt.url`?");
    file("plugins = \"x\"", "jarvis.toml:1: `plugins` is a section: write `[plugins]` and its keys below it");
}

#[test]
fn values_of_the_wrong_type_or_size_say_what_is_right() {
    let file = |toml: &str, expect: &str| check_fault(toml, &[], &[], expect);
    file(
        "[mqtt]\nkeep_alive = \"30\"",
        "jarvis.toml:2: `mqtt.keep_alive` is the text \"30\", expected a whole number from 5 to 65535",
    );
    file(
        "[mqtt]\nkeep_alive = 7.5",
        "jarvis.toml:2: `mqtt.keep_alive` is the number 7.5, expected a whole number from 5 to 65535",
    );
    file("[mqtt]\nkeep_alive = 4", "jarvis.toml:2: `mqtt.keep_alive` is 4, allowed are 5 to 65535");
    file("[reload]\nwatch = 1", "jarvis.toml:2: `reload.watch` is the number 1, expected true or false");
    file("[mqtt.url]\nx = 1", "jarvis.toml:1: `mqtt.url` is a table, expected a text in quotes");
    file("[mqtt]\npassword = 1234", "jarvis.toml:2: `mqtt.password` is a number, expected a text in quotes");
    file(
        "[mqtt]\nreply_topics = \"a\"",
        "jarvis.toml:2: `mqtt.reply_topics` is the text \"a\", expected a list of texts, as in [\"a\", \"b\"]",
    );
    file(
        "[mqtt]\nreply_topics = [\n  \"a\",\n  \"b#\",\n]",
        "jarvis.toml:4: `mqtt.reply_topics` cannot be used: `b#` is not a topic filter: `#` must be the whole last level, as in `a/#`",
    );
    file(
        "[chat]\nassistant = \"extern\"",
        "jarvis.toml:2: `chat.assistant` is \"extern\", allowed are \"none\", \"external\"",
    );
    file(
        "[limits]\nmemory = 99999999",
        "jarvis.toml:2: `limits.memory` is 99999999, but `limits.max_memory` (default) is only 67108864",
    );
    file(
        "[limits]\nmax_memory = 2000000",
        "jarvis.toml:2: `limits.memory` is 16777216, but `limits.max_memory` (jarvis.toml:2) is only 2000000",
    );
    file(
        "[limits]\nstate = 99999999999999999999",
        "jarvis.toml:2: the whole number 99999999999999999999 needs more than 64 bits",
    );
}

#[test]
fn plugins_variables_and_flags_have_faults_of_their_own() {
    let file = |toml: &str, expect: &str| check_fault(toml, &[], &[], expect);
    file(
        "[plugins.Weather]\na = 1",
        "jarvis.toml:1: `Weather` is not a plugin id: start with a letter a-z, for example `weather`",
    );
    file(
        "[plugins]\nweather = 1",
        "jarvis.toml:2: `plugins.weather` holds values for a plugin: write `[plugins.weather]` and them below it",
    );
    file("[plugins.a]\nb = [1, nan]", "jarvis.toml:2: `plugins.a.b` has a number that JSON has not");
    check_fault(
        "",
        &[("JARVIS__MQTT__KEEPALIVE", "30")],
        &[],
        "JARVIS__MQTT__KEEPALIVE: unknown key `mqtt.keepalive`, did you mean `mqtt.keep_alive`?",
    );
    check_fault(
        "",
        &[("JARVIS__MQTT__KEEP_ALIVE", "soon")],
        &[],
        "JARVIS__MQTT__KEEP_ALIVE: `mqtt.keep_alive` is the text \"soon\", expected a whole number from 5 to 65535",
    );
    check_fault(
        "",
        &[("JARVIS__MQTT", "x")],
        &[],
        "JARVIS__MQTT: names no key: write `JARVIS__SECTION__KEY` or `JARVIS__PLUGINS__ID__KEY`",
    );
    check_fault(
        "",
        &[],
        &[("bridge.health_interval", "0", "--health")],
        "--health: `bridge.health_interval` is 0, allowed are 1 to 86400",
    );
}

#[test]
fn texts_that_are_more_than_texts() {
    let check = |key: &str, text: &str, expect: &str| {
        let (section, name) = key.split_once('.').unwrap();
        let error = load(&format!("[{section}]\n{name} = {text:?}"), &[], &[]).expect_err(text);
        let start = format!("1 fault in the configuration:\n  jarvis.toml:2: `{key}` {expect}");
        assert!(error.starts_with(&start), "{error}");
    };
    check("mqtt.url", "nas:1883", "has no scheme, write `mqtt://host`");
    check("mqtt.url", "mqtts://nas", "begins with `mqtts://`, but only plain MQTT over TCP is supported");
    check("mqtt.url", "http://nas", "begins with an unknown scheme");
    check("mqtt.url", "mqtt://", "names no host");
    check("mqtt.url", "mqtt://ada:pw@:1883", "names no host");
    check("mqtt.url", "mqtt://nas:0", "has no port from 1 to 65535");
    check("mqtt.url", "mqtt://nas:port", "has no port from 1 to 65535");
    check("mqtt.url", "mqtt://nas/topic", "has more behind the scheme than host and port");
    check("mqtt.url", "mqtt://[::1", "has a `[` without its `]`");
    check("mqtt.url", "mqtt://::1", "names no host");
    check("mqtt.base_topic", "", "cannot be used");
    check("mqtt.base_topic", "a/+", "cannot be used: `a/+` is not a topic: `+` and `#` are wildcards");
    check("mqtt.base_topic", "$jarvis", "cannot be used");
    check("mqtt.base_topic", "/jarvis", "has an empty level");
    check("mqtt.base_topic", "jarvis/", "has an empty level");
    check("mqtt.base_topic", &"x".repeat(129), "is 129 bytes long, at most 128");
    check("broker.listen", "localhost", "is no address with a port");
    check(
        "broker.listen",
        "0.0.0.0:1883",
        "is no loopback address, and the embedded broker takes no password",
    );
    check("location.timezone", "Mars/Olympus", "is no IANA time zone, write it as in `Europe/Paris`");
    check("location.timezone", "europe/paris", "is no IANA time zone, write `Europe/Paris`");
    check("log.level", "inof", "cannot be used: `inof` is no log level");
    check("paths.plugins", "", "is empty");
    for url in ["mqtt://nas", "tcp://nas:1", "mqtt://[::1]:1883", "mqtt://ada:p@w@nas/", "mqtt://10.0.0.1"] {
        let config = load(&format!("[mqtt]\nurl = {url:?}"), &[], &[]).unwrap();
        assert_eq!(config.mqtt.url.as_deref(), Some(url));
    }
}

#[test]
fn all_faults_come_at_once_in_the_order_of_the_layers_and_lines() {
    let toml = "[mqtt]\nkeep_alive = 1\nulr = 2\n\n[xyzzy]\n\n[chat]\ntimeout = 0\n\n[broker]\nlisten = 5\n";
    let error =
        load(toml, &[("JARVIS__LOG__LEVEL", "loud")], &[("limits.depth", "1000", "--depth")]).unwrap_err();
    let places =
        error.lines().skip(1).map(|line| line.trim().split(": ").next().unwrap()).collect::<Vec<_>>();
    assert!(error.starts_with("7 faults in the configuration:\n"), "{error}");
    assert_eq!(
        places,
        [
            "jarvis.toml:2",
            "jarvis.toml:3",
            "jarvis.toml:5",
            "jarvis.toml:8",
            "jarvis.toml:11",
            "JARVIS__LOG__LEVEL",
            "--depth"
        ]
    );
}

#[test]
fn what_is_no_toml_is_shown_with_its_line_but_never_a_secret() {
    let check = |toml: &str, expect: &str| check_fault(toml, &[], &[], expect);
    check(
        "[mqtt]\nkeep_alive = = 3",
        "jarvis.toml:2:14: this is no TOML: extra `=`, expected nothing\n    2 | keep_alive = = 3\n                     ^",
    );
    check(
        "[mqtt]\nurl = \"a\"\nurl = \"b\"",
        "jarvis.toml:3:1: this is no TOML: duplicate key\n    3 | url = \"b\"\n        ^",
    );
    let places = load("a = = 1\n[b\nc = 1\n", &[], &[]).unwrap_err();
    assert!(places.contains("jarvis.toml:1:5: ") && places.find(":1:5") < places.find(":2:3"), "{places}");
    assert!(load("\u{feff}[mqtt]\nkeep_alive = 9", &[], &[]).is_ok(), "a byte-order mark is no fault");
    let error = load("[mqtt]\npassword = \"hunter2\n", &[], &[]).unwrap_err();
    assert!(error.contains("2 | password = ***") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_named_file_must_exist() {
    let sources = Sources { file: Some("/nonexistent/x.toml".into()), ..Sources::default() };
    let Faults(faults) = Config::load(&sources).unwrap_err();
    assert_eq!(faults[0].place, "--config");
    assert_eq!(
        faults[0].text,
        "`/nonexistent/x.toml` cannot be read: No such file or directory (os error 2)"
    );
    let environment = [("JARVIS_CONFIG".into(), "/nonexistent/y.toml".into())].into();
    let Faults(faults) = Config::load(&Sources { environment, ..Sources::default() }).unwrap_err();
    assert_eq!(faults[0].place, "JARVIS_CONFIG");
    // Without $HOME there is no place for state either, and both are said.
    assert!(matches!(&faults[1], Fault { text, .. } if text.starts_with("`paths.data` is empty")));
}

#[test]
fn paths_in_a_file_start_from_that_file() {
    let directory = tempfile::tempdir().unwrap();
    let load =
        |toml: &str, variables: Variables<'_>| load_in(directory.path(), toml, variables, &[]).unwrap().paths;
    let paths = load("[paths]\nplugins = \"mine\"\ndata = \"~/state\"", &[]);
    assert_eq!(paths.plugins, directory.path().join("mine"));
    assert_eq!(paths.data, Path::new("/home/ada/state"));
    let paths = load("", &[("JARVIS__PATHS__PLUGINS", "mine"), ("STATE_DIRECTORY", "/var/lib/jarvis")]);
    let here = std::env::current_dir().unwrap().join("mine");
    assert_eq!((paths.plugins, paths.data.as_path()), (here, Path::new("/var/lib/jarvis")));
}

#[test]
fn secrets_come_from_files_and_are_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("note"), "hunter2\n").unwrap();
    let toml = "[mqtt]\nurl = \"mqtt://ada:hunter2@nas\"\npassword = \"hunter2\"\n\n[plugins.weather]\n\
                city = \"Paris\"\nnote_file = \"note\"\ndoor_pin = \"hunter2\"\n[plugins.weather.tokens]\nred = \"hunter2\"\n";
    let config =
        load_in(directory.path(), toml, &[("JARVIS__PLUGINS__WEATHER__API_KEY", "hunter2")], &[]).unwrap();
    let weather = &config.plugins["weather"].0;
    assert_eq!((&weather["note"], &weather["city"]), (&"hunter2".into(), &"Paris".into()));
    assert!(!weather.contains_key("note_file"));
    for text in [show(&config), show_json(&config).to_string(), format!("{config:?}"), format!("{config:#?}")]
    {
        assert!(!text.contains("hunter2") && text.contains("mqtt://ada:***@nas"), "{text}");
    }
    assert_eq!(shown(&config, "plugins.weather.note").0, "***");
    assert_eq!(shown(&config, "plugins.weather.city"), ("Paris".into(), "jarvis.toml:6".into()));
    assert!(
        show_json(&config)["plugins"]["weather"]["note"]["source"]
            .as_str()
            .unwrap()
            .contains("jarvis.toml:7, from ")
    );
}

#[test]
fn files_of_secrets_that_cannot_be_had_are_named() {
    let check = |toml: &str, expect: &str| {
        let error = load(toml, &[], &[]).expect_err(toml);
        assert_eq!(error, format!("1 fault in the configuration:\n  jarvis.toml:2: {expect}"));
    };
    check(
        "[plugins.a]\nkey_file = \"gone\"",
        "`plugins.a.key_file`: `gone` cannot be read: No such file or directory (os error 2)",
    );
    check("[plugins.a]\nkey_file = 3", "`plugins.a.key_file` must name a file, because it ends in `_file`");
    check(
        "[plugins.a]\nkey_file = \"x\"\nkey = \"y\"",
        "`plugins.a.key_file` and `key` name the same value, keep one of them",
    );
    check(
        "[plugins.a]\nkey_file = \"/dev/zero\"",
        "`plugins.a.key_file`: `/dev/zero` has more than 65536 bytes, that is no secret",
    );
}

#[test]
fn what_show_prints_is_toml_that_means_the_same() {
    let toml = "[mqtt]\nbase_topic = \"home/jarvis\"\n[plugins.a]\n\"odd name\" = \"a\\nb # c \\u007f\"\nn = [1, 2.5, {x = true}]\nt = {u = 1, v = {w = \"\"}}\n";
    let config = load(toml, &[], &[("log.level", "debug", "--log")]).unwrap();
    let text = show(&config);
    let plugins = std::env::current_dir().unwrap().join("plugins");
    assert!(text.starts_with(&format!("[paths]\nplugins = {plugins:?}  # default\n")), "{text}");
    assert!(text.contains("\nlevel = \"debug\"  # --log\n"), "{text}");
    let again = load(&text, &[], &[]).unwrap();
    assert_eq!(again.plugins, config.plugins);
    assert_eq!((again.mqtt, again.paths, again.limits), (config.mqtt, config.paths, config.limits));
}

#[test]
fn the_shipped_file_the_rules_and_the_structs_have_the_same_keys() {
    // The structs deny unknown and missing fields, so `defaults_alone_are_sound` compares them; here the rest.
    let mut section = "";
    let mut keys = Vec::new();
    for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        }
        if let Some((name, _)) = line.split_once(" = ") {
            keys.push(format!("{section}.{name}"));
        }
    }
    assert_eq!(keys, RULES.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
}

#[test]
fn every_shipped_key_is_explained() {
    let mut explained = false;
    for line in DEFAULTS.lines() {
        match line {
            "" => explained = false,
            _ if line.starts_with("# ") => explained = true,
            _ if line.starts_with('[') => explained = false,
            // Keys that follow each other share the comment above the first.
            _ => assert!(explained, "no comment above `{line}`"),
        }
    }
}

#[test]
fn embedders_without_a_configuration_get_the_shipped_figures() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let sources = Sources {
        file: Some(file.path().to_owned()),
        environment: std::collections::BTreeMap::new(),
        flags: vec![Flag { key: "paths.data", value: "/data".into(), name: "--data-dir" }],
    };
    let config = Config::load(&sources).unwrap();
    assert_eq!(config.limits.plugin, crate::model::Limits::default());
    assert_eq!(config.mqtt.base_topic, crate::model::Topic::default());
    let settings = crate::plugin::Settings::default();
    assert_eq!(config.limits.max_timeout_ms, settings.max_timeout_ms);
    assert_eq!(config.limits.max_memory, settings.max_memory);
    assert_eq!(config.bridge.health_interval, settings.health_interval);
    let breaker = config.breaker;
    assert_eq!(
        (breaker.failures, breaker.pause, breaker.kills, breaker.kills_within),
        (
            settings.breaker.failures,
            settings.breaker.pause,
            settings.breaker.kills,
            settings.breaker.kills_within
        ),
    );
    assert_eq!(config.limits.plugins, settings.max_plugins);
    let http = crate::effects::http::Config::default();
    assert_eq!(
        (config.http.timeout, config.http.max_timeout, config.http.max_body, config.http.redirects),
        (http.timeout, http.max_timeout, http.max_body, http.redirects),
    );
}
