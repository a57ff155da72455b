//! Headers as people write them, and exactly what they are told.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Fault, Manifest, parse};

const GOOD: &str =
    "-- @id weather\n-- @name Weather\n-- @version 1.2.0\n-- @author Ada\n-- @description Frost\n";

fn texts(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}

fn good(header: &str) -> Manifest {
    let parsed = parse("weather.lua", header);
    assert_eq!(parsed.warnings, [], "{header}");
    parsed.manifest.unwrap()
}

/// The faults of a header that begins with five good lines, so that `more` begins in line 6.
#[track_caller]
fn check(more: &str, expect: &[&str]) {
    let faults = parse("weather.lua", &format!("{GOOD}{more}")).manifest.map(|_| ()).unwrap_err();
    assert_eq!(texts(&faults), expect, "{more}");
}

#[test]
fn a_full_header() {
    let manifest = good(
        "-- @id weather
-- @name Weather station
-- @version 1.2.0-beta.1
-- @author Ada <ada@example.com>
-- @description Answers /weather -- and warns about frost
-- @license MIT
-- @priority -10
-- @commands weather, forecast,
-- @commands lights/off
-- @subscribe zigbee2mqtt/+, weather/#
-- @emits frost, weather:changed
-- @permissions http:api.open-meteo.com, mqtt.publish:{config.light}/set
-- @permissions mqtt.subscribe:weather/#
-- @timeout 2s
-- @memory 8 MiB
-- @config city = \"Lyon\"
-- @config light = 'zigbee2mqtt/hall_light' -- where it blinks
-- @config days = 3

--- @param message table
--- @return table|nil
function on_chat(message) end
-- @id other
",
    );
    assert_eq!(manifest.id.as_str(), "weather");
    assert_eq!(manifest.name, "Weather station");
    assert_eq!(manifest.version, semver::Version::parse("1.2.0-beta.1").unwrap());
    assert_eq!(manifest.author, "Ada <ada@example.com>");
    assert_eq!(manifest.description, "Answers /weather -- and warns about frost");
    assert_eq!(manifest.license.as_deref(), Some("MIT"));
    assert_eq!(manifest.priority, -10);
    assert_eq!(manifest.commands, ["weather", "forecast", "lights/off"]);
    assert_eq!(
        manifest.subscribe.iter().map(|filter| filter.as_str()).collect::<Vec<_>>(),
        ["zigbee2mqtt/+", "weather/#"]
    );
    assert_eq!(manifest.emits, ["frost", "weather:changed"]);
    assert_eq!((manifest.timeout_ms, manifest.memory), (Some(2000), Some(8_388_608)));
    assert_eq!(json!(manifest.config), json!({"city": "Lyon", "light": "zigbee2mqtt/hall_light", "days": 3}));

    let permissions = |config| {
        let permissions = manifest.permissions(&config).unwrap();
        permissions.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        permissions(BTreeMap::new()),
        [
            "http:api.open-meteo.com",
            "mqtt.publish:zigbee2mqtt/hall_light/set",
            "mqtt.subscribe:weather/#",
            "mqtt.subscribe:zigbee2mqtt/+",
        ]
    );
    assert!(
        permissions(BTreeMap::from([("light".into(), json!("a/b"))]))
            .contains(&"mqtt.publish:a/b/set".into())
    );
}

/// The headers of the three examples in the Jarvis document, and how their code begins.
#[test]
fn the_documented_plugins_are_read() {
    let check = |id: &str, name: &str, description: &str, code: &str| {
        let manifest = good(&format!(
            "-- @id {id}\n-- @name {name}\n-- @version 1.0.0\n-- @author Team\n-- @description {description}\n\n{code}"
        ));
        assert_eq!((manifest.id.as_str(), manifest.name.as_str()), (id, name));
        assert_eq!((manifest.author.as_str(), manifest.description.as_str()), ("Team", description));
        assert_eq!(manifest.permissions(&BTreeMap::new()), Ok(Vec::new()));
    };
    check(
        "welcome",
        "Welcome",
        "Greet new users",
        "function on_chat(message)\n    if message.role == \"user\" then",
    );
    check(
        "commands",
        "Commands",
        "Custom commands",
        "function on_command(cmd)\n    if cmd.name == \"help\" then",
    );
    check(
        "filters",
        "Filters",
        "Message/response filters",
        "function filter_message(message)\n    -- Convert to",
    );
}

#[test]
fn windows_line_ends_and_tight_comments() {
    let header = GOOD.replace("-- @", "--@").replace('\n', "\r\n");
    assert_eq!(good(&format!("\n\n{header}")).name, "Weather");
    assert_eq!(good(&GOOD.replace("-- @", "---   @")).description, "Frost");
}

#[test]
fn everything_missing_is_named_at_once() {
    for text in ["", "print('hello')\n", "-- only words\n", "x = 1\n-- @id late\n"] {
        let faults = parse("weather.lua", text).manifest.unwrap_err();
        assert_eq!(
            texts(&faults),
            [
                "weather.lua: missing `@id`: add a line such as `-- @id weather`",
                "weather.lua: missing `@name`: add a line such as `-- @name Weather`",
                "weather.lua: missing `@version`: add a line such as `-- @version 1.0.0`",
                "weather.lua: missing `@author`: add a line such as `-- @author Ada`",
                "weather.lua: missing `@description`: add a line such as `-- @description Answers /weather`",
            ]
        );
    }
}

#[test]
fn all_faults_of_a_header_at_once() {
    let header =
        "-- @id 2x\n-- @name\n-- @version 1.0\n-- @description x\n-- @priority high\n-- @version 2.0.0\n";
    let faults = parse("weather.lua", header).manifest.unwrap_err();
    assert_eq!(
        texts(&faults),
        [
            "weather.lua: missing `@author`: add a line such as `-- @author Ada`",
            "weather.lua:1: `2x` is not a plugin id: start with a letter a-z, for example `weather`",
            "weather.lua:2: `@name` is empty: write it as in `-- @name Weather`",
            "weather.lua:3: `@version 1.0` is not a version: write three numbers, as in `1.0.0`",
            "weather.lua:5: `@priority high` is not a whole number: write one such as `10` or `-10`; lower comes first",
            "weather.lua:6: `@version` stands in line 3 too: keep one of the two",
        ]
    );
}

#[test]
fn each_fault_says_what_to_write() {
    check(
        "-- @timeout soon",
        &["weather.lua:6: `@timeout soon` is not a time: write `2s`, `500ms` or plain seconds"],
    );
    check(
        "-- @memory lots",
        &["weather.lua:6: `@memory lots` is not a size: write `8 MiB` or bytes, as in `8388608`"],
    );
    check("-- @commands /go", &["weather.lua:6: `/go` is not a command: write it without `/`, as in `go`"]);
    check(
        "-- @commands a b",
        &[
            "weather.lua:6: `a b` is not a command: write letters, digits, `_`, `.` and `-`, levels separated by `/`, \
         and a comma between two commands",
        ],
    );
    check(
        "-- @commands , ,",
        &["weather.lua:6: `@commands` is empty: write it as in `-- @commands weather, forecast`"],
    );
    check(
        "-- @subscribe a#",
        &["weather.lua:6: `a#` is not a topic filter: `#` must be the whole last level, as in `a/#`"],
    );
    check(
        "-- @subscribe {config.light}/x",
        &[
            "weather.lua:6: `{config.light}/x` has a place for a value, which only `@permissions` can have: call \
         `jarvis.mqtt.subscribe` in `on_startup` instead",
        ],
    );
    check(
        "-- @emits a/b",
        &[
            "weather.lua:6: `a/b` is not an event's name: write at most 64 letters, digits, `_`, `.`, `:` and `-`",
        ],
    );
}

#[test]
fn faults_of_permissions_defaults_and_later_keys() {
    check(
        "-- @permissions network",
        &[
            "weather.lua:6: `network` is not a permission: write `http:<host[:port]>`, `mqtt.publish:<filter>` or \
         `mqtt.subscribe:<filter>`",
        ],
    );
    check(
        "-- @permissions http:{city}",
        &["weather.lua:6: `http:{city}` has a `{` that begins no value: write it as in `{config.light}`"],
    );
    check(
        "-- @config city = Lyon",
        &["weather.lua:6: `Lyon` is not a value: write text in quotes, as in `@config city = \"Lyon\"`"],
    );
    check(
        "-- @config a = 1\n-- @config a = 2",
        &["weather.lua:7: `@config a` stands in line 6 too: keep one of the two"],
    );
    check("-- @name B\u{1b}[31m", &["weather.lua:6: `@name` has a control character in it: remove it"]);
    for key in ["requires", "depends", "extends", "exports", "start"] {
        let fault = format!(
            "weather.lua:6: `@{key}` is not supported by this version of jarvis-bridge: remove the line"
        );
        check(&format!("-- @{key} x"), &[&fault]);
    }
}

#[test]
fn unknown_keys_warn_and_do_no_harm() {
    let check = |line: &str, expect: &[&str]| {
        let parsed = parse("weather.lua", &format!("{GOOD}{line}"));
        assert_eq!(texts(&parsed.warnings), expect);
        assert!(parsed.manifest.is_ok(), "{line}");
    };
    check(
        "-- @permission http:x",
        &["weather.lua:6: `@permission` is not known and was ignored: did you mean `@permissions`?"],
    );
    check(
        "-- @desc x",
        &["weather.lua:6: `@desc` is not known and was ignored: did you mean `@description`?"],
    );
    check(
        "-- @Commands x",
        &["weather.lua:6: `@Commands` is not known and was ignored: did you mean `@commands`?"],
    );
    check("-- @emit: x", &["weather.lua:6: `@emit:` is not known and was ignored: did you mean `@emits`?"]);
    check("-- @homepage x", &["weather.lua:6: `@homepage` is not known and was ignored"]);
    check("-- @x y", &["weather.lua:6: `@x` is not known and was ignored"]);
    check("-- @commands a, a", &["weather.lua:6: the command `a` is named twice"]);
    for annotation in [
        "param x string",
        "return x",
        "class X",
        "field x",
        "type X",
        "diagnostic disable",
        "alias x",
        "module 'x'",
        "meta",
    ] {
        check(&format!("---@{annotation}"), &[]);
    }
}

#[test]
fn a_misspelt_key_is_named_where_it_is_missed() {
    let header = GOOD.replace("@id", "@ID").replace("@author", "@autor");
    let parsed = parse("weather.lua", &header);
    assert_eq!(
        texts(&parsed.manifest.unwrap_err()),
        [
            "weather.lua: missing `@id`: line 1 says `@ID`, write `@id`",
            "weather.lua: missing `@author`: line 4 says `@autor`, write `@author`",
        ]
    );
    assert_eq!(
        texts(&parsed.warnings),
        [
            "weather.lua:1: `@ID` is not known and was ignored: did you mean `@id`?",
            "weather.lua:4: `@autor` is not known and was ignored: did you mean `@author`?",
        ]
    );
}

#[test]
fn permissions_need_their_values() {
    let check = |defaults: &str, config: serde_json::Value, expect: Result<&[&str], &[&str]>| {
        let manifest =
            good(&format!("{GOOD}-- @permissions mqtt.publish:{{config.a}}/{{config.b}}\n{defaults}"));
        let config: BTreeMap<_, _> = serde_json::from_value(config).unwrap();
        let found = manifest.permissions(&config);
        let found = found.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
        let found = found.map_err(|faults| texts(&faults));
        assert_eq!(
            found.as_deref().map_err(Vec::as_slice),
            match &expect {
                Ok(list) => Ok(list.iter().map(ToString::to_string).collect::<Vec<_>>()),
                Err(list) => Err(list.iter().map(ToString::to_string).collect::<Vec<_>>()),
            }
            .as_deref()
            .map_err(Vec::as_slice)
        );
    };
    check("", json!({"a": "x", "b": 7}), Ok(&["mqtt.publish:x/7"]));
    check("-- @config a = \"x\"\n-- @config b = \"y\"", json!({"b": "z"}), Ok(&["mqtt.publish:x/z"]));
    check(
        "-- @config a = \"x\"",
        json!({}),
        Err(&[
            "weather.lua:6: the permission needs `{config.b}`, which is empty: set `b` under `[plugins.weather]` in the \
         configuration",
        ]),
    );
    check(
        "-- @config a = \"\"",
        json!({"b": 1}),
        Err(&[
            "weather.lua:6: the permission needs `{config.a}`, which is empty: set `a` under `[plugins.weather]` in the \
         configuration",
        ]),
    );
    check(
        "",
        json!({"a": true}),
        Err(&[
            "weather.lua:6: the permission needs `{config.a}` as a text or number: set `a` under `[plugins.weather]` in \
         the configuration",
        ]),
    );
    check(
        "",
        json!({"a": "#", "b": "x"}),
        Err(&[
            "weather.lua:6: `mqtt.publish:#/x` is not a permission: `#/x` is not a topic filter: `#` must be the whole \
         last level, as in `a/#`",
        ]),
    );
    // A value is one text: it opens no place of its own and adds no permission.
    check("", json!({"a": "{config.b}", "b": "x,http:y"}), Ok(&["mqtt.publish:{config.b}/x,http:y"]));
}

#[test]
fn hostile_headers_are_bounded() {
    let last = |more: &str| {
        let faults = parse("weather.lua", &format!("{GOOD}{more}")).manifest.unwrap_err();
        assert!(faults.len() <= 60, "{}", faults.len());
        assert!(faults.iter().all(|fault| fault.message.len() < 1000));
        faults.last().unwrap().to_string()
    };
    let keys = "-- @homepage x\n".repeat(200);
    assert_eq!(last(&keys), "weather.lua:201: more than 200 lines with an `@key`: shorten the header");
    let long = format!("-- @license {}", "x".repeat(4097));
    assert_eq!(last(&long), "weather.lua:6: `@license` has 4097 bytes, at most 4096 are allowed");
    let items = format!("-- @emits {}", (0..257).map(|n| format!("e{n},")).collect::<String>());
    assert_eq!(
        last(&items),
        "weather.lua:6: more than 256 items in the lists of this header: shorten `@emits`"
    );
    let bad = format!("-- @commands {}\n", "/,".repeat(200)).repeat(2);
    assert_eq!(last(&bad), "weather.lua: and 207 more");
    let warnings = parse("weather.lua", &format!("{GOOD}{keys}")).warnings;
    assert_eq!(texts(&warnings).last().unwrap(), "weather.lua: and 145 more");
    let deep = format!("-- @config a = {}", "[".repeat(4000));
    assert!(last(&deep).contains("is not JSON"));
    let key = format!("-- @{} x", "i".repeat(100_000));
    assert_eq!(parse("weather.lua", &format!("{GOOD}{key}")).warnings.len(), 1);
}
