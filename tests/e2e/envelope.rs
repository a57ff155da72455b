//! The envelope: what it gives back, whose answer it takes, what it says of failures.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, assert_json, on_each_broker};

on_each_broker!(
    ids_come_back_as_they_came,
    what_is_echoed,
    every_envelope_has_its_time,
    the_first_response_by_priority_then_id_wins,
    one_failure_does_not_fail_what_another_answered,
    a_declared_command_goes_to_its_plugin_alone,
    an_undeclared_command_is_offered_in_order_until_one_answers,
    nobody_answers,
    a_plugin_fails_as_it_likes,
    results_that_cannot_be_sent,
    results_keep_their_types,
);

fn ids_come_back_as_they_came(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("any", "function on_command(cmd) return { id = cmd.id } end")]);
    let longest = "x".repeat(128);
    for id in [json!("a"), json!(""), json!(longest), json!(0), json!(-5), json!(i64::MAX), json!(u64::MAX)] {
        let answer = jarvis.ask("command/request", json!({ "id": id, "name": "x" }));
        assert_eq!(answer["id"], id);
        if id != json!(u64::MAX) {
            assert_eq!(answer["data"]["id"], id, "the hook sees it as well");
        }
    }
    let made = |payload: Value| {
        let id = jarvis.ask("command/request", payload)["id"].as_str().unwrap().to_owned();
        let uuid: uuid::Uuid = id.parse().unwrap();
        assert_eq!(uuid.get_version_num(), 7, "{id}");
        uuid
    };
    let first = made(json!({ "name": "x" }));
    assert!(first < made(json!({ "name": "x", "id": null })), "later ids are larger");
}

fn what_is_echoed(broker: &Broker) {
    let code = "function on_chat() return { ok = true } end function on_command() return {} end
        function on_automation() return {} end";
    let jarvis = Bridge::start(broker, &[("any", code)]);
    let echo = json!({
        "transaction": { "any": ["json", 1] }, "conversation_id": "c", "user": "ada", "site": "kitchen",
    });
    for (channel, mut payload) in [
        ("chat", json!({ "content": "Hello" })),
        ("command", json!({ "name": "x" })),
        ("automation", json!({ "name": "x" })),
    ] {
        payload.as_object_mut().unwrap().extend(echo.as_object().unwrap().clone());
        jarvis.check(&format!("{channel}/request"), payload, echo.clone());
    }
    // Where the payload belongs to somebody else, only the transaction is the bridge's to give back.
    for topic in ["command/request/x", "event/request/x", "bridge/request/info"] {
        let answer = jarvis.ask(topic, echo.clone());
        let expected = json!({ "transaction": echo["transaction"], "conversation_id": null, "user": null, "site": null });
        assert_json(&answer, &expected);
    }
    // Also where the request fails.
    jarvis.check(
        "command/request",
        json!({ "id": 4, "transaction": "t", "user": "ada" }),
        json!({
            "id": 4, "status": "error", "transaction": "t", "user": "ada",
        }),
    );
}

fn every_envelope_has_its_time(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("any", "function on_command() jarvis.sleep(0.05) return {} end")]);
    let answer = jarvis.ask("command/request", "x");
    let timestamp = answer["timestamp"].as_str().unwrap();
    assert!(
        chrono::DateTime::parse_from_rfc3339(timestamp).is_ok() && timestamp.ends_with('Z'),
        "{timestamp}"
    );
    let (all, own) = (&answer["duration_ms"], &answer["results"][0]["duration_ms"]);
    assert!(own.as_f64().unwrap() >= 50.0 && all.as_f64() >= own.as_f64(), "{answer:#}");
}

fn the_first_response_by_priority_then_id_wins(broker: &Broker) {
    let says = |priority: i64, result: &str| {
        format!("-- @priority {priority}\nfunction on_chat() return {result} end")
    };
    let check = |plugins: &[(&str, &str)], response: Value, data: Value, order: Value| {
        let jarvis = Bridge::start(broker, plugins);
        let answer = jarvis.ask("chat/request", "Hello");
        assert_json(&answer, &json!({ "status": "ok", "response": response, "data": data }));
        let plugins: Vec<&Value> =
            answer["results"].as_array().unwrap().iter().map(|result| &result["plugin"]).collect();
        assert_eq!(json!(plugins), order);
    };
    check(
        &[
            ("a", &says(0, "{ n = 1 }")),
            ("b", &says(5, r#"{ response = "late" }"#)),
            ("z", &says(-5, "{ response = 5 }")),
            ("y", &says(1, r#"{ response = "first" }"#)),
            ("silent", &says(0, "nil")),
        ],
        json!("first"),
        json!({ "response": "first" }),
        json!(["z", "a", "y", "b"]),
    );
    check(
        &[("b", &says(0, r#"{ response = "b" }"#)), ("a", &says(0, r#"{ response = "a" }"#))],
        json!("a"),
        json!({ "response": "a" }),
        json!(["a", "b"]),
    );
    check(
        &[("b", &says(0, "{ n = 1 }")), ("a", &says(0, "{ n = 2 }"))],
        Value::Null,
        json!({ "n": 2 }),
        json!(["a", "b"]),
    );
    check(&[("a", &says(0, "nil"))], Value::Null, Value::Null, json!([]));
}

fn one_failure_does_not_fail_what_another_answered(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[
            ("broken", "function on_chat() error('no milk') end"),
            ("good", "function on_chat() return { response = 'hello' } end"),
        ],
    );
    let failed = json!({
        "plugin": "broken", "status": "error", "code": "hook_error", "data": null,
        "error": "plugin `broken`: on_chat failed: broken.lua:6: no milk",
    });
    let expected = json!({
        "status": "ok", "response": "hello", "error": null, "code": null,
        "results": [failed, { "plugin": "good", "status": "ok", "data": { "response": "hello" } }],
    });
    jarvis.check("chat/request", "Hello", expected);
}

fn a_declared_command_goes_to_its_plugin_alone(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[
            ("greedy", "-- @priority -10\nfunction on_command(cmd) return { response = 'greedy' } end"),
            (
                "owner",
                "-- @commands light, lights/off\nfunction on_command(cmd) return { response = 'owner' } end",
            ),
            ("mute", "-- @commands mute\nfunction on_command(cmd) return nil end"),
            ("broken", "-- @commands broken\nfunction on_command(cmd) error('oops') end"),
        ],
    );
    let asked = |name: &str, expected: Value| drop(jarvis.check("command/request", name, expected));
    asked("light", json!({ "response": "owner", "results": [{ "plugin": "owner" }] }));
    asked("lights/off", json!({ "response": "owner", "results": [{ "plugin": "owner" }] }));
    asked("other", json!({ "response": "greedy", "results": [{ "plugin": "greedy" }] }));
    asked(
        "broken",
        json!({
            "status": "error", "code": "hook_error", "error": "plugin `broken`: on_command failed: broken.lua:7: oops",
            "results": [{ "plugin": "broken", "status": "error" }],
        }),
    );
    asked(
        "mute",
        json!({
            "status": "error", "code": "unknown_command", "results": [],
            "error": "the plugin that declares `mute` returned nil for it",
        }),
    );
}

fn an_undeclared_command_is_offered_in_order_until_one_answers(broker: &Broker) {
    let answers = |priority: i64, name: &str| {
        format!(
            "-- @priority {priority}
            function on_command(cmd)
                jarvis.events.emit('asked', {{}})
                if cmd.name == '{name}' then return {{ by = jarvis.plugin.id }} end
            end"
        )
    };
    let jarvis = Bridge::start(
        broker,
        &[("a", &answers(2, "one")), ("b", &answers(0, "two")), ("c", &answers(1, "one"))],
    );
    jarvis.check("command/request", "one", json!({ "data": { "by": "c" }, "results": [{ "plugin": "c" }] }));
    jarvis.settle();
    let asked = |plugin: &str| jarvis.waiting(&format!("jarvis/event/{plugin}/asked")).len();
    assert_eq!((asked("b"), asked("c"), asked("a")), (1, 1, 0));
    // One that fails is passed over; what it said stays in the results.
    jarvis.write_plugin("c", "-- @priority 1\nfunction on_command(cmd) error('not today') end");
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_reloaded", "data": { "id": "c" } }));
    let expected = json!({
        "status": "ok", "data": { "by": "a" },
        "results": [{ "plugin": "c", "status": "error" }, { "plugin": "a", "status": "ok" }],
    });
    jarvis.check("command/request", "one", expected);
}

fn nobody_answers(broker: &Broker) {
    let jarvis =
        Bridge::start(broker, &[("other", "function on_command() end function filter_message() end")]);
    let expected = json!({
        "status": "error", "code": "unknown_command", "name": "dance", "response": null, "data": null, "results": [],
        "error": "nobody answers the command `dance`: no plugin declares it or returned something for it",
    });
    jarvis.check("command/request", "dance", expected);
    let nothing = json!({ "status": "ok", "response": null, "data": null, "results": [], "code": null });
    jarvis.check("chat/request", "Hello", nothing.clone());
    jarvis.check("automation/request", "morning", nothing);
}

fn a_plugin_fails_as_it_likes(broker: &Broker) {
    let code = r#"
function on_command(cmd)
    if cmd.name == "message" then error("no milk") end
    if cmd.name == "without_line" then error("no milk", 0) end
    if cmd.name == "chosen" then error({ message = "the door is locked", code = "locked" }) end
    if cmd.name == "chosen_message" then error({ message = "the door is locked" }) end
    if cmd.name == "reason" then return nil, "the door is locked" end
    if cmd.name == "reason_with_code" then return nil, { message = "the door is locked", code = "locked" } end
    if cmd.name == "number" then error(5) end
    if cmd.name == "nothing" then error() end
    if cmd.name == "index" then local x; x.y = 1 end
    if cmd.name == "os" then os.exit() end
    if cmd.name == "deep" then local function f() f() f() end f() end
end
"#;
    let jarvis = Bridge::start(broker, &[("fails", code)]);
    let own = |text: &str| format!("plugin `fails`: on_command failed: {text}");
    let cases = [
        ("message", "hook_error", own("fails.lua:7: no milk")),
        ("without_line", "hook_error", own("no milk")),
        ("chosen", "locked", "the door is locked".into()),
        ("chosen_message", "hook_error", "the door is locked".into()),
        ("reason", "hook_error", "the door is locked".into()),
        ("reason_with_code", "locked", "the door is locked".into()),
        ("number", "hook_error", own("5")),
        ("nothing", "hook_error", own("error object is a nil value")),
        ("index", "hook_error", own("fails.lua:15: attempt to index a nil value (local 'x')")),
        (
            "os",
            "hook_error",
            own(
                "fails.lua:16: attempt to index a nil value (global 'os'); `os` does not exist in plugins: use jarvis.time for clocks and dates",
            ),
        ),
        ("deep", "memory_limit", "~of memory (limits.memory)".into()),
    ];
    for (name, code, error) in cases {
        let result = json!({ "plugin": "fails", "status": "error", "code": code, "error": error });
        let expected = json!({
            "status": "error", "name": name, "code": code, "error": error, "response": null, "results": [result],
        });
        jarvis.check("command/request", name, expected);
    }
}

fn results_that_cannot_be_sent(broker: &Broker) {
    let code = r#"
local function nested(depth) if depth == 0 then return {} end return { a = nested(depth - 1) } end
local bad = {
    text = function() return "text" end,
    number = function() return 5 end,
    boolean = function() return true end,
    nan = function() return { temps = { 1, 2, 0/0 } } end,
    infinite = function() return { x = 1/0 } end,
    call = function() return { f = print } end,
    cycle = function() local t = {} t.t = t return t end,
    mixed = function() return { 1, 2, x = 3 } end,
    binary = function() return { x = "\xff" } end,
    deep = function() return nested(40) end,
    large = function() return { x = string.rep("x", 300000) } end,
    many = function() local t = {} for i = 1, 20001 do t[i] = 1 end return t end,
}
function on_command(cmd) return bad[cmd.name]() end
"#;
    let jarvis = Bridge::start(broker, &[("bad", code)]);
    let own = |text: &str| format!("plugin `bad`: {text}");
    let sent = |text: &str| own(&format!("the result of on_command{text}"));
    let returned = |kind: &str| {
        own(&format!(
            "on_command must return a table, as in `return {{ response = \"…\" }}`, or nil; it returned a {kind}"
        ))
    };
    let deepest = ["a"; 32].join(".");
    let cases = [
        ("text", "invalid_result", returned("string")),
        ("number", "invalid_result", returned("number")),
        ("boolean", "invalid_result", returned("boolean")),
        ("nan", "invalid_result", sent(": `temps[3]` is not a number (NaN)")),
        ("infinite", "invalid_result", sent(": `x` is infinite")),
        ("call", "invalid_result", sent(": `f` is a function, which cannot be sent")),
        ("cycle", "invalid_result", sent(": `t` contains itself")),
        (
            "mixed",
            "invalid_result",
            sent(" mixes numbers and names as keys: it can be a list or an object, not both"),
        ),
        ("binary", "invalid_result", sent(": `x` is a string that is not UTF-8")),
        ("deep", "invalid_result", sent(&format!(": `{deepest}` is nested deeper than 32 (limits.depth)"))),
        ("large", "too_large", sent(": `x` makes it larger than 262144 bytes (limits.result)")),
        ("many", "too_large", "~has more than 20000 values (limits.nodes)".into()),
    ];
    for (name, code, error) in cases {
        jarvis.check("command/request", name, json!({ "status": "error", "code": code, "error": error }));
    }
}

fn results_keep_their_types(broker: &Broker) {
    let code = r#"
function on_command(cmd)
    return {
        int = 1, large = math.maxinteger, float = 1.5, whole = 2.0, yes = true, text = "ä\n\0", empty = {},
        list = { 1, "two", { three = 3 } }, none = jarvis.json.array(), null = jarvis.json.null, back = cmd.args,
    }
end
"#;
    let jarvis = Bridge::start(broker, &[("types", code)]);
    let args =
        json!({ "n": 1, "f": 0.5, "list": [1, [2]], "object": {}, "text": "é", "null": null, "yes": false });
    let answer = jarvis.ask("command/request/x", args);
    let expected = json!({
        "int": 1, "large": i64::MAX, "float": 1.5, "whole": 2.0, "yes": true, "text": "ä\n\0", "empty": {},
        "list": [1, "two", { "three": 3 }], "none": [], "null": null,
        "back": { "n": 1, "f": 0.5, "list": [1, [2]], "object": {}, "text": "é", "yes": false },
    });
    assert_eq!(answer["data"], expected);
}
