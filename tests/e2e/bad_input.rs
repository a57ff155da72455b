//! What comes in and cannot be used: each with the exact answer.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Publish, Setup, assert_json, on_each_broker, plugin_source};

on_each_broker!(
    broken_json_says_where,
    payloads_of_the_wrong_kind_name_the_field,
    empty_payloads,
    bytes_that_are_no_text,
    a_payload_of_two_megabytes,
    topics_that_lead_nowhere,
    a_topic_of_sixty_kilobytes,
    a_retained_request_runs_once_and_warns,
    a_request_retained_before_the_bridge_came_is_no_request,
    plugin_files_that_are_refused,
    a_duplicate_id_is_refused,
    a_command_declared_twice_is_refused,
);

const ECHO: (&str, &str) = (
    "echo",
    "function on_chat(m) return { response = m.content } end
    function on_command(cmd) return { name = cmd.name } end
    function on_automation(a) return { name = a.name } end",
);

/// Publishes and expects this error on the fixed topic; then the bridge must still be well.
fn check(jarvis: &Bridge, path: &str, payload: &[u8], code: &str, error: &str) {
    jarvis.publish(&format!("jarvis/{path}"), payload.to_vec());
    let fixed = path.replace("/request", "/response");
    let answer = jarvis.next(&format!("jarvis/{fixed}")).json();
    let expected = json!({ "id": "*", "status": "error", "code": code, "error": error, "response": null, "results": [] });
    assert_json(&answer, &expected);
}

fn broken_json_says_where(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let python = "the payload is not valid JSON: key must be a string at line 1 column 2; this is Python's notation: in Home Assistant use `| to_json`";
    let cases = [
        (
            r#"{"content": "Hello""#,
            "the payload is not valid JSON: EOF while parsing an object at line 1 column 19",
        ),
        ("{\n  \"content\": Hello\n}", "the payload is not valid JSON: expected value at line 2 column 14"),
        ("[1, 2", "the payload is not valid JSON: EOF while parsing a list at line 1 column 5"),
        (
            r#"{"content": "a"} and more"#,
            "the payload is not valid JSON: trailing characters at line 1 column 18",
        ),
        ("{'content': 'Hello'}", python),
        ("{}{", "the payload is not valid JSON: trailing characters at line 1 column 3"),
    ];
    for path in [
        "chat/request",
        "command/request",
        "command/request/x",
        "automation/request",
        "event/request/x",
        "bridge/request/info",
    ] {
        for (payload, error) in cases {
            check(&jarvis, path, payload.as_bytes(), "invalid_payload", error);
        }
    }
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    check(
        &jarvis,
        "chat/request",
        deep.as_bytes(),
        "invalid_payload",
        "the payload is nested deeper than 64 levels",
    );
}

fn payloads_of_the_wrong_kind_name_the_field(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let content = "`content` is missing: send `{\"content\": \"Hello\"}`, or the text `Hello`";
    let name = "`name` is missing: send `{\"name\": \"help\"}`, or the text `help`";
    let automation = "`name` is missing: send `{\"name\": \"morning\", \"status\": \"finished\"}`";
    let not_a_name = "`a b` is not a name: only letters, digits, `_`, `.` and `-`, and `/` between levels";
    let cases = [
        ("chat", r#"{"text":"Hello"}"#, content),
        ("chat", r#"{"content":5}"#, "`content` must be a string, it is a number"),
        ("chat", r#"{"content":null}"#, "`content` must be a string, it is null"),
        ("chat", r#"{"content":" \n"}"#, "`content` is empty: there is nothing to answer"),
        ("chat", r#"["Hello"]"#, "a chat message is an object with `content`, or text; this is an array"),
        (
            "chat",
            r#"{"content":"x","role":"system"}"#,
            "`role` must be \"user\" or \"assistant\", it is \"system\"",
        ),
        ("command", "{}", name),
        ("command", r#"{"name":["help"]}"#, "`name` must be a string, it is an array"),
        ("command", r#"{"name":"a b"}"#, &format!("`name`: {not_a_name}")),
        (
            "command",
            r#"{"name":"x","args":5}"#,
            "`args` must be an object, an array or a string, it is a number",
        ),
        ("command", "[]", "a command is an object with `name`, or text; this is an array"),
        ("command", "!", "`!` is not a name: only letters, digits, `_`, `.` and `-`, and `/` between levels"),
        ("automation", "{}", automation),
        ("automation", r#"{"name":true}"#, "`name` must be a string, it is a boolean"),
        ("automation", r#"{"name":"a b"}"#, &format!("`name`: {not_a_name}")),
        ("automation", r#"{"name":"x","status":1}"#, "`status` must be a string, it is a number"),
        ("automation", r#"{"name":"x","type":{}}"#, "`type` must be a string, it is an object"),
        ("automation", "[]", "an automation is an object with `name`; this is an array"),
    ];
    for (channel, payload, error) in cases {
        check(&jarvis, &format!("{channel}/request"), payload.as_bytes(), "invalid_payload", error);
    }
    for (id, kind) in [
        (json!(1.5), "a fraction"),
        (json!(true), "a boolean"),
        (json!([1]), "an array"),
        (json!({ "a": 1 }), "an object"),
    ] {
        let payload = json!({ "id": id, "content": "x", "name": "x" }).to_string();
        for channel in ["chat", "command", "automation"] {
            let error = format!("`id` must be a string or an integer, it is {kind}");
            check(&jarvis, &format!("{channel}/request"), payload.as_bytes(), "invalid_payload", &error);
        }
    }
    let payload = json!({ "id": "x".repeat(129), "content": "x" }).to_string();
    let error = "`id` has 129 bytes, at most 128 are allowed";
    check(&jarvis, "chat/request", payload.as_bytes(), "invalid_payload", error);
}

fn empty_payloads(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let cases = [
        ("chat/request", "`content` is empty: there is nothing to answer"),
        ("chat/request/assistant", "`content` is empty: there is nothing to answer"),
        ("command/request", "the command is empty: send its name, as in `help`"),
        ("automation/request", "`name` is missing: send `{\"name\": \"morning\", \"status\": \"finished\"}`"),
        ("event/request", "the event's name is missing: publish to `event/request/<event_name>`"),
        (
            "bridge/request/plugin/info",
            "`id` is missing: send the plugin's id as text, or `{\"id\": \"weather\"}`",
        ),
    ];
    for (path, error) in cases {
        if path == "chat/request/assistant" {
            jarvis.publish("jarvis/chat/request/assistant", "");
            assert_json(&jarvis.next("jarvis/chat/response").json(), &json!({ "error": error }));
            continue;
        }
        check(&jarvis, path, b"", "invalid_payload", error);
    }
    // A named topic says all there is to say.
    for (path, name) in [("command/request/x", "x"), ("automation/request/x", "x"), ("event/request/x", "x")]
    {
        jarvis.check(path, "", json!({ "status": "ok", "name": name }));
    }
}

fn bytes_that_are_no_text(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let error = "the payload is not UTF-8: byte 3 cannot be read";
    for path in [
        "chat/request",
        "command/request",
        "command/request/x",
        "automation/request",
        "event/request/x",
        "bridge/request/info",
    ] {
        check(&jarvis, path, b"abc\xff\xfe", "invalid_payload", error);
    }
    // A byte-order mark is what some editors write and nobody means.
    jarvis.check("chat/request", "\u{feff}Hello", json!({ "response": "Hello" }));
}

fn a_payload_of_two_megabytes(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let (size, limit) = (2 * 1024 * 1024, 262_144);
    let error =
        |size: usize| format!("the payload has {size} bytes, at most {limit} are taken (limits.payload)");
    for path in [
        "chat/request",
        "command/request",
        "command/request/x",
        "automation/request",
        "event/request/x",
        "bridge/request/info",
    ] {
        check(&jarvis, path, &vec![b'x'; size], "too_large", &error(size));
    }
    check(&jarvis, "chat/request", &vec![b'x'; limit + 1], "too_large", &error(limit + 1));
    let longest = "x".repeat(limit);
    jarvis.publish("jarvis/chat/request", longest.as_str());
    let answer = jarvis.next("jarvis/chat/response").json();
    // The answer to it is no longer than a result may be either.
    assert_json(&answer, &json!({ "status": "error", "code": "too_large", "error": "~plugin `echo`: " }));
}

fn topics_that_lead_nowhere(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let cases = [
        (
            "comand/request",
            "bridge/response/comand",
            "unknown_channel",
            "there is no channel `comand`: did you mean `command`?",
        ),
        (
            "weather/request/lyon",
            "bridge/response/weather",
            "unknown_channel",
            "there is no channel `weather`: there are chat, command, automation, event, bridge",
        ),
        (
            "command/request//x",
            "bridge/response/command",
            "unknown_channel",
            "the topic has an empty level behind `command/request`",
        ),
        (
            "command/request/x/",
            "bridge/response/command",
            "unknown_channel",
            "the topic has an empty level behind `command/request`",
        ),
        (
            "chat/request/",
            "bridge/response/chat",
            "unknown_channel",
            "the topic has an empty level behind `chat/request`",
        ),
        (
            "chat/request/user",
            "bridge/response/chat",
            "unknown_channel",
            "there is no `chat/request/user`: use `chat/request`",
        ),
        (
            "command/request/a b",
            "command/response",
            "invalid_payload",
            "`a b` is not a name: only letters, digits, `_`, `.` and `-`, and `/` between levels",
        ),
        (
            "command/request/a$",
            "command/response",
            "invalid_payload",
            "`a$` is not a name: only letters, digits, `_`, `.` and `-`, and `/` between levels",
        ),
        (
            "event/request/a/b",
            "event/response/a/b",
            "invalid_payload",
            "`a/b` is not an event's name: 1 to 64 letters, digits, `_`, `.`, `:` or `-`",
        ),
    ];
    for (path, fixed, code, error) in cases {
        jarvis.publish(&format!("jarvis/{path}"), "{}");
        let answer = jarvis.next(&format!("jarvis/{fixed}")).json();
        assert_json(&answer, &json!({ "status": "error", "code": code, "error": error, "response": null }));
    }
    let expected = json!({
        "status": "error", "code": "unknown_command",
        "error": "nobody answers the command `dance`: no plugin declares it or returned something for it",
    });
    std::fs::remove_file(jarvis.setup().plugins().join("echo.lua")).unwrap();
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_unloaded" }));
    jarvis.check("command/request/dance", "", expected);
}

fn a_topic_of_sixty_kilobytes(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO]);
    let name = "x".repeat(60_000);
    for channel in ["command", "automation"] {
        jarvis.publish(&format!("jarvis/{channel}/request/{name}"), "{}");
        let expected = json!({
            "status": "error", "code": "invalid_payload",
            "error": "the name has 60000 bytes, at most 128 are allowed",
        });
        assert_json(&jarvis.next(&format!("jarvis/{channel}/response")).json(), &expected);
    }
    jarvis.publish(&format!("jarvis/{name}/request"), "{}");
    let lost = json!({ "status": "error", "code": "unknown_channel" });
    let topic = format!("jarvis/bridge/response/{name}");
    assert_json(&jarvis.next(&topic).json(), &lost);
    jarvis.check("command/request", "still_there", json!({ "status": "ok" }));
}

fn a_retained_request_runs_once_and_warns(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[("count", "function on_command(cmd) return { n = jarvis.state.incr('n'), name = cmd.name } end")],
    );
    let mut retained = Publish::new("jarvis/command/request/open", "{}");
    retained.retain = true;
    jarvis.send(retained.clone());
    assert_json(&jarvis.next("jarvis/command/response/open").json(), &json!({ "data": { "n": 1 } }));
    jarvis.log.expect("clear it with `mosquitto_pub -r -n -t 'jarvis/command/request/open'` topic=\"jarvis/command/request/open\"");
    // The clearing is no request, nor is a new subscription one.
    let jarvis = if broker.is_embedded() { jarvis } else { jarvis.restart() };
    retained.payload.clear();
    jarvis.send(retained);
    jarvis.check("command/request/last", "", json!({ "data": { "n": 2, "name": "last" } }));
    assert!(jarvis.waiting("jarvis/command/response/open").is_empty());
}

fn a_request_retained_before_the_bridge_came_is_no_request(broker: &Broker) {
    let Broker::Mosquitto(mosquitto) = broker else {
        // The embedded broker has nothing before the bridge comes.
        return;
    };
    let early = crate::harness::Client::v5(mosquitto.port);
    let mut retained = Publish::new("jarvis/command/request/open", "{}");
    retained.retain = true;
    early.send(retained);
    early.next("jarvis/command/request/open");
    let jarvis = Bridge::start(
        broker,
        &[("count", "function on_command() return { n = jarvis.state.incr('n') } end")],
    );
    jarvis.check("command/request/first", "", json!({ "data": { "n": 1 } }));
}

fn plugin_files_that_are_refused(broker: &Broker) {
    let header = plugin_source("x", "");
    let without = |key: &str| {
        header.lines().filter(|line| !line.contains(key)).map(|line| format!("{line}\n")).collect::<String>()
    };
    let with = |from: &str, to: &str| header.replace(from, to);
    let cases = [
        ("syntax", plugin_source("syntax", "\nfunction on_chat(\nend"), "~syntax.lua:7: "),
        ("fails", plugin_source("fails", "error('no milk')"), "~fails.lua:6: no milk"),
        ("no_header", "function on_chat() end".into(), "~no_header.lua: "),
        ("no_id", without("@id"), "~`@id`"),
        ("no_name", without("@name"), "~`@name`"),
        ("no_version", without("@version"), "~`@version`"),
        ("no_author", without("@author"), "~`@author`"),
        ("no_description", without("@description"), "~`@description`"),
        ("bad_id", with("@id x", "@id Weather Station"), "~bad_id.lua:1: "),
        ("bad_version", with("1.0.0", "one"), "~bad_version.lua:3: "),
        ("bytecode", "\u{1b}Lua".into(), "bytecode.lua: is Lua bytecode: put the source here"),
        (
            "start_fails",
            plugin_source("start_fails", "function on_startup() error('no') end"),
            "~start_fails.lua:6: no",
        ),
    ];
    let mut setup = Setup::new(broker).plugin(ECHO.0, ECHO.1);
    for (file, source, _) in &cases {
        setup = setup.file(&format!("{file}.lua"), source);
    }
    let jarvis = setup.start();
    let list = jarvis.ask("bridge/request/plugin/list", "");
    for (file, _, error) in &cases {
        let row = list["data"].as_array().unwrap().iter().find(|row| row["id"] == *file);
        let row = row.unwrap_or_else(|| panic!("{file} is not in {list:#}"));
        assert_json(row, &json!({ "state": "error", "last_error": error }));
        // What follows in further lines is the traceback, which the log has in a field.
        jarvis.log.expect(row["last_error"].as_str().and_then(|text| text.lines().next()).unwrap());
        let retained = jarvis.next(&format!("jarvis/bridge/plugin/{file}")).json();
        assert_json(&retained, &json!({ "id": file, "state": "error", "last_error": error }));
    }
    // The others load.
    jarvis.check("chat/request", "Hello", json!({ "response": "Hello" }));
}

fn a_duplicate_id_is_refused(broker: &Broker) {
    let setup = Setup::new(broker)
        .file("a.lua", &plugin_source("twin", "function on_command() return { from = 'a' } end"))
        .file("b.lua", &plugin_source("twin", "function on_command() return { from = 'b' } end"));
    let jarvis = setup.start();
    let error = "b.lua: `@id twin` is the id of `a.lua` already: give this plugin an id of its own";
    jarvis.expect(
        "jarvis/bridge/plugins",
        json!([{ "id": "b", "name": "b.lua", "state": "error", "last_error": error }, { "id": "twin", "state": "ready", "last_error": null }]),
    );
    jarvis.log.expect(error);
    jarvis.check("command/request/x", "", json!({ "data": { "from": "a" } }));
}

fn a_command_declared_twice_is_refused(broker: &Broker) {
    let light = "-- @commands light\nfunction on_command() return { from = jarvis.plugin.id } end";
    let jarvis = Bridge::start(broker, &[("a", light), ("b", light)]);
    let error = "b.lua: the command `light` is declared by `a.lua` already: remove it from one of the two";
    let expected: Value =
        json!([{ "id": "a", "state": "ready" }, { "id": "b", "state": "error", "last_error": error }]);
    jarvis.expect("jarvis/bridge/plugins", expected);
    jarvis.log.expect(error);
    jarvis.check("command/request/light", "", json!({ "data": { "from": "a" } }));
}
