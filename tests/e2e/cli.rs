//! The command line: what each subcommand prints, where it prints it, and how it ends.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, assert_json, free_port, on_each_broker, plugin_source};

on_each_broker!(
    call_works_beside_a_running_bridge,
    plugin_list_asks_the_running_bridge,
    health_asks_the_running_bridge
);

/// Counts its calls and gives back what it got.
const COUNTS: &str = r#"
-- @permissions mqtt.publish:out/#
local function did(what, value)
    local n = jarvis.state.incr("n")
    jarvis.mqtt.publish("out/did", what)
    return { did = what, n = n, got = value }
end
function on_chat(m) local r = did("chat", m) r.response = "You said " .. m.content return r end
function on_command(cmd) if cmd.name == "help" then return did("command", cmd) end end
function on_automation(a) return did("automation", a) end
function on_startup() jarvis.state.set("started", true) return { ready = true } end
function on_shutdown() return did("shutdown") end
function filter_message(m) m.content = m.content:upper() return m end
function filter_response(r) if r.content == "stop" then return false end r.content = r.content .. "!" return r end
function health() return true end
"#;

/// Standard output, where the program ended with this code.
#[track_caller]
fn printed(output: &Output, code: i32) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{error}");
    out
}

#[track_caller]
fn complained(output: &Output, code: i32) -> String {
    printed(output, code);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn setup() -> Setup {
    Setup::new(&Broker::Embedded).plugin("counts", COUNTS)
}

#[test]
fn call_runs_each_hook_once_and_commits_nothing() {
    let setup = setup();
    let cases = [
        (
            "on_chat",
            r#"{"id":"m","content":"Hello"}"#,
            json!({ "id": "m", "hook": "on_chat", "response": "You said Hello", "data": { "did": "chat", "n": 1 } }),
        ),
        ("on_chat", "Hello", json!({ "response": "You said Hello", "data": { "got": { "role": "user" } } })),
        (
            "on_command",
            r#"{"name":"help"}"#,
            json!({ "hook": "on_command", "name": "help", "data": { "n": 1 } }),
        ),
        (
            "on_command",
            "/help me please",
            json!({ "data": { "got": { "args": { "words": ["me", "please"] } } } }),
        ),
        (
            "on_automation",
            r#"{"name":"morning","status":"finished"}"#,
            json!({ "hook": "on_automation", "name": "morning", "data": { "got": { "status": "finished" } } }),
        ),
        ("on_startup", "", json!({ "hook": "on_startup", "data": { "ready": true } })),
        ("on_shutdown", "", json!({ "hook": "on_shutdown", "data": { "did": "shutdown" } })),
        ("filter_message", "Hello", json!({ "hook": "filter_message", "data": { "content": "HELLO" } })),
        (
            "filter_response",
            r#"{"content":"Hello"}"#,
            json!({ "hook": "filter_response", "data": { "content": "Hello!" } }),
        ),
    ];
    for (hook, payload, expected) in cases {
        // Each time the first time: nothing of the call before was kept.
        let output = setup.call(&["call", hook, payload]);
        let answer = json_of(&printed(&output, 0));
        assert_json(&answer, &json!({ "status": "ok", "results": "*" }));
        assert_json(&answer, &expected);
        let remarks = String::from_utf8(output.stderr).unwrap();
        let publishes = answer["data"]["did"].as_str().map(|did| format!("(would publish out/did {did})"));
        let told: Vec<&str> = remarks.lines().filter(|line| line.starts_with("(would")).collect();
        assert_eq!(told, publishes.as_slice(), "{hook}: what the call itself would do, and nothing else");
    }
    let line = printed(&setup.call(&["call", "on_command", "help", "--json", "--plugin", "counts"]), 0);
    assert_eq!(line.trim_end().lines().count(), 1);
    assert_json(&json_of(&line), &json!({ "status": "ok", "results": [{ "plugin": "counts" }] }));
}

#[test]
fn call_ends_with_1_where_the_envelope_says_error() {
    let setup = setup().plugin("broken", "function on_automation() error('no milk') end");
    let cases: [(&[&str], &str, &str); 7] = [
        (&["on_command", "dance"], "unknown_command", "nobody answers the command `dance`"),
        (&["on_command", "{'name': 1}"], "invalid_payload", "use `| to_json`"),
        (&["on_command", ""], "invalid_payload", "the command is empty"),
        (&["on_automation", "x", "--plugin", "broken"], "hook_error", "broken.lua:6: no milk"),
        (&["on_automation", "x", "--plugin", "nobody"], "unknown_plugin", "there is no plugin `nobody`"),
        (&["filter_response", "stop"], "cancelled", "plugin `counts` stopped the message"),
        (&["on_dance", ""], "invalid_payload", "there is no hook `on_dance`, did you mean `on_chat`?"),
    ];
    for (arguments, code, error) in cases {
        let arguments = [&["call"], arguments].concat();
        let answer = json_of(&printed(&setup.call(&arguments), 1));
        let expected = json!({ "status": "error", "code": code, "error": format!("~{error}") });
        assert_json(&answer, &expected);
    }
}

#[test]
fn call_says_which_plugins_were_refused() {
    let setup = setup().file("twin.lua", &plugin_source("counts", "")).plugin("syntax", "function (");
    let output = setup.call(&["call", "on_command", "help"]);
    let remarks = complained(&output, 0);
    assert!(remarks.contains("twin.lua: `@id counts` is the id of `counts.lua` already"), "{remarks}");
    assert!(remarks.contains("syntax.lua:6:"), "{remarks}");
}

fn call_works_beside_a_running_bridge(broker: &Broker) {
    let jarvis = Setup::new(broker).plugin("counts", COUNTS).start();
    assert_eq!(jarvis.run("help", json!({}))["n"], 1);
    for _ in 0..2 {
        let answer = json_of(&printed(&jarvis.call(&["call", "on_command", "help"]), 0));
        assert_eq!(answer["data"]["n"], 2, "a copy of the state as it is");
    }
    assert_eq!(jarvis.run("help", json!({}))["n"], 2, "and only of a copy");
    assert_eq!(jarvis.waiting("out/did").len(), 2);
}

fn plugin_list_asks_the_running_bridge(broker: &Broker) {
    let jarvis = Setup::new(broker).plugin("counts", COUNTS).plugin("broken", "error('no milk')").start();
    let list = json_of(&printed(&jarvis.call(&["plugin", "list", "--json"]), 0));
    let expected = json!([
        { "id": "broken", "state": "error", "last_error": "~broken.lua:6: no milk" },
        { "id": "counts", "version": "1.0.0", "state": "ready", "hooks": "*" },
    ]);
    assert_json(&list, &expected);
    let output = jarvis.call(&["plugin", "list"]);
    let table = printed(&output, 0);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..3], ["broken", "1.0.0", "error"]);
    assert_eq!(rows[1][..4], ["counts", "1.0.0", "ready", "filter_message,"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn plugin_list_reads_the_directory_where_no_bridge_runs() {
    let port = free_port();
    let setup = setup()
        .plugin("broken", "while true do end")
        .file("headless.lua", "x = 1")
        .set("BROKER__LISTEN", &format!("127.0.0.1:{port}"));
    let output = setup.call(&["plugin", "list", "--json"]);
    let expected = json!([
        { "id": "broken", "state": "discovered", "hooks": [] },
        { "id": "counts", "state": "discovered", "last_error": null },
        { "id": "headless", "state": "error", "last_error": "~missing `@id`" },
    ]);
    assert_json(&json_of(&printed(&output, 0)), &expected);
    let remark = String::from_utf8(output.stderr).unwrap();
    assert!(remark.contains(&format!("the broker at 127.0.0.1:{port} cannot be reached")), "{remark}");
    assert!(remark.contains("this is what lies in"), "{remark}");
    let empty = Setup::new(&Broker::Embedded).set("BROKER__LISTEN", &format!("127.0.0.1:{port}"));
    assert_eq!(printed(&empty.call(&["plugin", "list"]), 0), "no plugins\n");
}

fn health_asks_the_running_bridge(broker: &Broker) {
    let jarvis = Setup::new(broker).plugin("counts", COUNTS).start();
    let line = printed(&jarvis.call(&["health", "--json"]), 0);
    assert_eq!(line.trim_end().lines().count(), 1);
    let expected = json!({ "uptime_s": "*", "mqtt": "*", "plugins": { "counts": { "calls": "*" } } });
    assert_json(&json_of(&line), &expected);
    assert_json(&json_of(&printed(&jarvis.call(&["health"]), 0)), &expected);
}

#[test]
fn health_fails_where_no_bridge_answers() {
    let port = free_port();
    let setup = setup().set("BROKER__LISTEN", &format!("127.0.0.1:{port}"));
    let error = complained(&setup.call(&["health"]), 1);
    assert!(error.contains(&format!("the broker at 127.0.0.1:{port} cannot be reached")), "{error}");
    let Some(Broker::Mosquitto(mosquitto)) = Broker::mosquitto() else { return };
    let url = format!("mqtt://127.0.0.1:{}", mosquitto.port);
    let error = complained(&setup.call(&["health", "--broker", &url]), 1);
    assert!(error.contains("no bridge answers on `jarvis/bridge/request/health`"), "{error}");
}

#[test]
fn config_show_names_every_source_and_masks_secrets() {
    let setup = Setup::new(&Broker::Embedded)
        .configuration(
            "[mqtt]\nurl = \"mqtt://ada:s3cret@nas\"\npassword = \"s3cret\"\n\n[plugins.weather]\ncity = \"Lyon\"\napi_key = \"s3cret\"\ntoken_file = \"token\"\n",
        )
        .set("CHAT__TIMEOUT", "30");
    std::fs::write(setup.path().join("token"), "s3cret").unwrap();
    let text = printed(&setup.call(&["config", "show", "--log-level", "debug"]), 0);
    assert!(!text.contains("s3cret"), "{text}");
    let line = |start: &str| {
        text.lines().find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
    };
    assert!(line("timeout = 30").ends_with("# JARVIS__CHAT__TIMEOUT"), "{text}");
    assert!(line("level = \"debug\"").ends_with("# --log-level"), "{text}");
    assert!(line("city = \"Lyon\"").contains("jarvis.toml:6"), "{text}");
    assert!(line("payload = 262144").ends_with("# default"), "{text}");
    assert!(line("url = ").contains("nas") && line("url = ").contains("jarvis.toml:2"), "{text}");
    for section in ["[mqtt]", "[chat]", "[limits]", "[plugins.weather]"] {
        line(section);
    }
    // What it prints can be read again.
    toml_reads(&text);
    let shown = json_of(&printed(&setup.call(&["config", "show", "--json"]), 0));
    assert!(!shown.to_string().contains("s3cret"), "{shown:#}");
    let expected = json!({
        "chat": { "timeout": { "value": 30, "source": "JARVIS__CHAT__TIMEOUT" } },
        "plugins": { "weather": { "city": { "value": "Lyon", "source": "~jarvis.toml:6" } } },
    });
    assert_json(&shown, &expected);
}

fn toml_reads(text: &str) {
    text.parse::<toml::Table>().unwrap_or_else(|error| panic!("{error}: {text}"));
}

#[test]
fn faults_of_the_configuration_are_told_all_at_once() {
    let setup = Setup::new(&Broker::Embedded)
        .configuration("[mqtt]\nkeep_alive = \"long\"\nbase_topik = \"x\"\n\n[chatt]\ntimeout = 5\n")
        .set("LIMITS__DEPTH", "deep")
        .set("LOCATION__TIMEZONE", "Mars/Olympus");
    for arguments in
        [&["run"][..], &["config", "show"], &["call", "on_chat", "x"], &["plugin", "list"], &["health"]]
    {
        let arguments = [arguments, &["--broker", "nas"]].concat();
        let output = setup.call(&arguments);
        assert_eq!(printed(&output, 2), "");
        let error = String::from_utf8(output.stderr).unwrap();
        for words in [
            "6 faults in the configuration:",
            "jarvis.toml:2",
            "jarvis.toml:3",
            "`mqtt.base_topic`",
            "jarvis.toml:5",
            "`[chat]`",
            "JARVIS__LIMITS__DEPTH",
            "JARVIS__LOCATION__TIMEZONE",
            "--broker",
        ] {
            assert!(error.contains(words), "{words}: {error}");
        }
    }
    let missing = Setup::new(&Broker::Embedded);
    let output = missing.call(&["run", "--log-level", "inof"]);
    let error = complained(&output, 2);
    assert!(error.contains("`inof` is no log level"), "{error}");
}

fn bare(setup: &Setup, arguments: &[&str]) -> Output {
    setup.bare_command(arguments).output().unwrap()
}

#[test]
fn help_and_version_are_everywhere() {
    let setup = Setup::new(&Broker::Embedded);
    let help = |arguments: &[&str], words: &[&str]| {
        for flag in ["--help", "-h"] {
            let text = printed(&bare(&setup, &[arguments, &[flag]].concat()), 0);
            for word in ["Usage:", "--config", "--broker"].iter().chain(words) {
                assert!(text.contains(word), "{arguments:?} {flag}: no {word} in {text}");
            }
        }
    };
    help(&[], &["run", "demo", "call", "plugin", "health", "config", "Exit codes:"]);
    help(&["run"], &[]);
    help(&["demo"], &[]);
    help(&["call"], &["--json", "--plugin", "on_command"]);
    help(&["plugin"], &["list"]);
    help(&["plugin", "list"], &["--json"]);
    help(&["health"], &["--json"]);
    help(&["config"], &["show"]);
    help(&["config", "show"], &["--json"]);
    for flag in ["--version", "-V"] {
        let text = printed(&bare(&setup, &[flag]), 0);
        assert_eq!(text, format!("jarvis-bridge {}\n", env!("CARGO_PKG_VERSION")));
    }
    for wrong in [&[][..], &["dance"], &["run", "--loud"], &["call"], &["plugin"], &["config", "hide"]] {
        let output = bare(&setup, wrong);
        assert_eq!(printed(&output, 2), "", "{wrong:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn demo_shows_three_answers_and_leaves_nothing_behind() {
    let setup = Setup::new(&Broker::Embedded);
    let mut command = setup.bare_command(&["demo"]);
    let scratch = setup.path().join("tmp");
    std::fs::create_dir(&scratch).unwrap();
    let text = printed(&command.env("TMPDIR", &scratch).output().unwrap(), 0);
    for words in [
        "the shipped plugins: automations, commands, custom, filters, welcome",
        "$ mosquitto_pub -q 1 -t jarvis/chat/request -m",
        "$ mosquitto_pub -q 1 -t jarvis/command/request -m",
        "$ mosquitto_pub -q 1 -t jarvis/automation/request -m",
        "Hello! Type /help to see what I can do. 🤖",
        "Commands: /help, /status, /about",
        "\"runs\": 1",
        "That was it.",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    assert_eq!(text.matches("\"status\": \"ok\"").count(), 6, "three envelopes with one result each: {text}");
    assert_eq!(std::fs::read_dir(&scratch).unwrap().count(), 0);
    assert!(!setup.path().join("data").exists() && !setup.path().join(".local").exists());
}

#[test]
fn the_banner_says_what_is_served() {
    let jarvis: Bridge = setup().plugin("broken", "error('no milk')").start();
    jarvis.output.expect("automation/request -m");
    let text = jarvis.output.text();
    let (version, port) = (env!("CARGO_PKG_VERSION"), jarvis.port);
    let broker = format!("broker   mqtt://127.0.0.1:{port} (its own, on this machine only)");
    for words in [
        &format!("jarvis-bridge {version}"),
        &broker,
        "jarvis/{chat,command,automation,event,bridge}/request/#",
        "counts 1.0.0: ",
        "broken.lua:6: no milk",
    ] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    let empty =
        Setup::new(&Broker::Embedded).set("MQTT__BASE_TOPIC", "home/jarvis").set("RELOAD__WATCH", "false");
    let launched = empty.launch(&["run"]);
    launched.output.expect("-t home/jarvis/automation/request -m");
    let text = launched.output.text();
    for words in ["none yet: put a .lua file there", "(reload is off)", "home/jarvis/{chat,"] {
        assert!(text.contains(words), "no {words} in {text}");
    }
}
