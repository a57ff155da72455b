//! What plugins can do by themselves: log, timers, other plugins' commands, helpers.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, assert_json, on_each_broker};

on_each_broker!(
    log_lines_bear_the_plugin,
    log_floods_are_cut_for_the_flooder_alone,
    timers_fire,
    a_timer_is_a_hook_of_its_own,
    sleep_waits_and_has_its_bound,
    say_goes_through_the_filters,
    command_runs_another_plugins_command,
    commands_in_a_circle_are_refused,
    json_time_uuid_and_plugin,
    the_string_helpers,
    mistakes_raise_at_the_plugins_line,
);

/// Calls the global function that bears the command's name.
const BY_NAME: &str = "function on_command(cmd) return _G[cmd.name](cmd.args) end\n";

fn by_name(code: &str) -> String {
    format!("{code}\n{BY_NAME}")
}

fn log_lines_bear_the_plugin(broker: &Broker) {
    let code = r#"
function talk()
    jarvis.log("plain")
    jarvis.log("with fields", { room = "hall", n = 2 })
    jarvis.log.debug("debugging")
    jarvis.log.info("informing")
    jarvis.log.warn("warning")
    jarvis.log.error("erring")
    jarvis.log({ a = { 1, 2 } })
    jarvis.log("two\nlines")
    print("printed", 1, true, nil)
    return {}
end
"#;
    let setup = Setup::new(broker).plugin("talker", &by_name(code)).set("LOG__LEVEL", "debug");
    let jarvis = setup.start();
    jarvis.run("talk", json!({}));
    let level = |text: &str| {
        let line = jarvis.log.expect(text);
        assert!(line.contains("plugin=\"talker\""), "{line}");
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(level("plugin: plain"), "INFO");
    assert_eq!(level("plugin: debugging"), "DEBUG");
    assert_eq!(level("plugin: informing"), "INFO");
    assert_eq!(level("plugin: warning"), "WARN");
    assert_eq!(level("plugin: erring"), "ERROR");
    assert_eq!(level("plugin: {\"a\":[1,2]}"), "INFO");
    assert_eq!(level("plugin: printed 1 true nil"), "INFO");
    let line = jarvis.log.expect("plugin: with fields");
    assert!(line.contains("hall"), "{line}");
    let line = jarvis.log.expect("plugin: two");
    assert!(line.contains("lines"), "a line of a plugin's never becomes two of the log: {line}");
}

fn log_floods_are_cut_for_the_flooder_alone(broker: &Broker) {
    let flood = "function flood() for i = 1, 500 do jarvis.log('flood ' .. i) end return {} end";
    let jarvis = Bridge::start(
        broker,
        &[
            ("flooder", &by_name(flood)),
            ("quiet", "-- @commands hello\nfunction on_command() jarvis.log('I am heard') return {} end"),
        ],
    );
    jarvis.run("flood", json!({}));
    jarvis.run("hello", json!({}));
    jarvis.log.expect("I am heard");
    let lines = jarvis.log.text();
    assert!(lines.contains("plugin: flood 1 ") && !lines.contains("plugin: flood 101 "), "{lines}");
    jarvis.log.expect("lines were dropped: at most 50 a second (limits.logs_per_second)");
}

fn timers_fire(broker: &Broker) {
    let code = r#"
local function tick(name) return function(data) jarvis.events.emit(name, { data = data }) end end
function after(args) return { id = jarvis.timer.after(args.delay, tick("after"), { data = args.data }) } end
function every() return { id = jarvis.timer.every(0.1, tick("every"), { name = "every" }) } end
function cancel(args) return { cancelled = jarvis.timer.cancel(args.timer) } end
function again() jarvis.timer.after(0.05, tick("old"), { name = "x" }) jarvis.timer.after("50ms", tick("new"), { name = "x" }) return {} end
function failing() jarvis.timer.after(0, tick("never")) error("no") end
"#;
    let jarvis = Bridge::start(broker, &[("timers", &by_name(code))]);
    let fired = |name: &str| jarvis.next(&format!("jarvis/event/timers/{name}")).json()["data"].clone();
    jarvis.run("after", json!({ "delay": 0.05, "data": { "n": [1] } }));
    assert_eq!(fired("after"), json!({ "data": { "n": [1] } }));
    jarvis.run("after", json!({ "delay": "10ms" }));
    assert_eq!(fired("after"), json!({}));

    jarvis.run("every", json!({}));
    for _ in 0..3 {
        fired("every");
    }
    assert_eq!(jarvis.run("cancel", json!({ "timer": "every" })), json!({ "cancelled": true }));
    assert_eq!(jarvis.run("cancel", json!({ "timer": "every" })), json!({ "cancelled": false }));
    let id = jarvis.run("after", json!({ "delay": 3600 }))["id"].clone();
    assert_eq!(jarvis.run("cancel", json!({ "timer": id })), json!({ "cancelled": true }));

    jarvis.run("again", json!({}));
    fired("new");
    assert_json(&jarvis.ask("command/request", "failing"), &json!({ "status": "error" }));
    jarvis.run("after", json!({ "delay": 0.15 }));
    fired("after");
    for name in ["old", "never"] {
        assert!(jarvis.waiting(&format!("jarvis/event/timers/{name}")).is_empty(), "{name}");
    }
    // One tick may have been on its way when it was cancelled; none comes after that.
    jarvis.waiting("jarvis/event/timers/every");
    jarvis.run("after", json!({ "delay": 0.25 }));
    fired("after");
    assert!(jarvis.waiting("jarvis/event/timers/every").is_empty());
}

fn a_timer_is_a_hook_of_its_own(broker: &Broker) {
    let code = r#"
jarvis.timer.every(0.1, function()
    if jarvis.state.incr("n") == 2 then jarvis.events.emit("lost", {}) error("in the timer") end
    jarvis.events.emit("tick", { n = jarvis.state.get("n") })
end)
function n() return { n = jarvis.state.get("n") } end
"#;
    let jarvis = Bridge::start(broker, &[("timers", &by_name(code))]);
    let tick = || jarvis.next("jarvis/event/timers/tick").json()["data"]["n"].clone();
    assert_eq!(tick(), 1);
    jarvis.log.expect("plugin `timers`: a timer failed: timers.lua:7: in the timer");
    // The second one is rolled back each time, and the timer goes on.
    jarvis.log.expect("hook=\"a timer\"");
    assert_eq!(jarvis.run("n", json!({})), json!({ "n": 1 }));
    assert!(jarvis.waiting("jarvis/event/timers/lost").is_empty());
}

fn sleep_waits_and_has_its_bound(broker: &Broker) {
    let code = r#"
function nap() local before = jarvis.time.ms() jarvis.sleep(0.2) return { ms = jarvis.time.ms() - before } end
function too_long() jarvis.sleep(5.1) end
"#;
    // What waits costs no time of its own.
    let setup = Setup::new(broker).plugin("sleeper", &by_name(code)).set("LIMITS__HOOK_WALL_MS", "100");
    let jarvis = setup.start();
    assert!(jarvis.run("nap", json!({}))["ms"].as_u64().unwrap() >= 200);
    let error = "plugin `sleeper`: on_command failed: sleeper.lua:7: jarvis.sleep waits at most 5 seconds: use jarvis.timer.after, which blocks nobody";
    jarvis.check("command/request", "too_long", json!({ "code": "hook_error", "error": error }));
}

fn say_goes_through_the_filters(broker: &Broker) {
    let code = r#"
function speak(args) jarvis.say(args.text, args.to) return {} end
function fail() jarvis.say("never") error("no") end
"#;
    let filter = r#"
function filter_response(r)
    if r.content:find("secret") then return false end
    r.content = r.content:upper()
    return r
end
"#;
    let jarvis = Bridge::start(broker, &[("speaker", &by_name(code)), ("filter", filter)]);
    jarvis.run("speak", json!({ "text": "hello", "to": { "site": "hall" } }));
    let heard = jarvis.next("jarvis/chat/notification").json();
    assert_json(&heard, &json!({ "content": "HELLO", "plugin": "speaker", "site": "hall", "user": null }));
    jarvis.run("speak", json!({ "text": "a secret" }));
    jarvis.check("command/request", "fail", json!({ "status": "error" }));
    jarvis.run("speak", json!({ "text": "last" }));
    assert_json(&jarvis.next("jarvis/chat/notification").json(), &json!({ "content": "LAST" }));
}

fn command_runs_another_plugins_command(broker: &Broker) {
    let asker = r#"
function sum(args) return { sum = jarvis.command("add", args).sum } end
function ask(args) local result, why = jarvis.command(args.name, args.args) return { result = result, why = why } end
"#;
    let adder = r#"
-- @commands add, fails, chosen, silent
function on_command(cmd)
    if cmd.name == "fails" then error("no milk") end
    if cmd.name == "chosen" then return nil, "out of milk" end
    if cmd.name ~= "add" then return nil end
    return { sum = cmd.args.a + cmd.args.b }
end
"#;
    let jarvis = Bridge::start(broker, &[("asker", &by_name(asker)), ("adder", adder)]);
    assert_eq!(jarvis.run("sum", json!({ "a": 2, "b": 3 })), json!({ "sum": 5 }));
    let why = |name: &str| jarvis.run("ask", json!({ "name": name }))["why"].as_str().unwrap().to_owned();
    assert_eq!(why("fails"), "plugin `adder`: on_command failed: adder.lua:8: no milk");
    assert_eq!(why("chosen"), "out of milk");
    assert_eq!(why("silent"), "nobody answers the command `silent`");
    assert_eq!(why("nobody_has_it"), "nobody answers the command `nobody_has_it`");
}

fn commands_in_a_circle_are_refused(broker: &Broker) {
    let caller = |own: &str, other: &str| {
        format!(
            "-- @commands {own}\nfunction on_command(cmd) local r, why = jarvis.command('{other}') return {{ r = r, why = why }} end"
        )
    };
    let jarvis = Bridge::start(
        broker,
        &[
            ("self", &caller("mirror", "mirror")),
            ("a", &caller("to_b", "to_c")),
            ("b", &caller("to_c", "to_b")),
        ],
    );
    let expected = "`self` may not run `mirror`: its plugin `self` waits for this very call (self → self)";
    let answer = jarvis.ask("command/request", "mirror").to_string();
    assert!(answer.contains(expected), "{answer}");
    let expected = "`b` may not run `to_b`: its plugin `a` waits for this very call (a → b → a)";
    let answer = jarvis.ask("command/request", "to_b").to_string();
    assert!(answer.contains(expected), "{answer}");
}

fn json_time_uuid_and_plugin(broker: &Broker) {
    let code = r#"
function about()
    local p = jarvis.plugin
    return { id = p.id, name = p.name, version = p.version, author = p.author, description = p.description }
end
function json()
    local value, why = jarvis.json.decode("{broken")
    return {
        text = jarvis.json.encode({ a = { 1, 2 }, s = "ä", null = jarvis.json.null }),
        list = jarvis.json.encode(jarvis.json.array({})),
        value = jarvis.json.decode('{"n":1,"f":1.5,"list":[],"object":{},"null":null}'),
        broken = value == nil and why,
    }
end
function time()
    local t = 1795169730
    return {
        now = jarvis.time.now(), ms = jarvis.time.ms(), iso = jarvis.time.iso(t),
        date = jarvis.time.date("%Y-%m-%d %H:%M:%S", t), parts = jarvis.time.parts(t),
        between = jarvis.time.between("00:00", "00:00"), day = jarvis.time.between("00:00", "23:59:59"),
    }
end
function uuid() return { one = jarvis.uuid(), other = jarvis.uuid() } end
"#;
    let setup = Setup::new(broker).plugin("knows", &by_name(code)).set("LOCATION__TIMEZONE", "Europe/Paris");
    let jarvis = setup.start();
    let expected = json!({
        "id": "knows", "name": "The plugin knows", "version": "1.0.0", "author": "Somebody", "description": "Is tried",
    });
    assert_eq!(jarvis.run("about", json!({})), expected);

    let answer = jarvis.run("json", json!({}));
    let text: Value = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, json!({ "a": [1, 2], "s": "ä", "null": null }));
    let expected = json!({
        "list": "[]", "value": { "n": 1, "f": 1.5, "list": [], "object": {}, "null": null },
        "broken": "~not JSON: ",
    });
    assert_json(&answer, &expected);

    let answer = jarvis.run("time", json!({}));
    let parts = json!({
        "year": 2026, "month": 11, "day": 20, "hour": 11, "min": 15, "sec": 30, "wday": 6, "yday": 324,
        "isdst": false, "weekday": "friday", "offset": 3600,
    });
    let expected = json!({
        "iso": "2026-11-20T11:15:30+01:00", "date": "2026-11-20 11:15:30", "parts": parts, "between": false,
    });
    assert_json(&answer, &expected);
    let now = chrono::Utc::now().timestamp();
    assert!((now - answer["now"].as_i64().unwrap()).abs() < 60, "{answer}");
    assert!((now - answer["ms"].as_i64().unwrap() / 1000).abs() < 60, "{answer}");

    let answer = jarvis.run("uuid", json!({}));
    let uuid = |name: &str| answer[name].as_str().unwrap().parse::<uuid::Uuid>().unwrap();
    assert_eq!(uuid("one").get_version_num(), 7);
    assert!(uuid("one") < uuid("other"));
}

fn the_string_helpers(broker: &Broker) {
    let code = r#"
function strings()
    return {
        trim = string.trim("  a b\t\n"), method = ("  x "):trim(),
        split = ("a,b,,c"):split(","), words = string.split("  one  two "), most = string.split("a:b:c", ":", 2),
        starts = ("hello"):starts_with("he"), ends = ("hello"):ends_with("lo"), no = ("hello"):starts_with("lo"),
    }
end
"#;
    let jarvis = Bridge::start(broker, &[("strings", &by_name(code))]);
    let expected = json!({
        "trim": "a b", "method": "x", "split": ["a", "b", "", "c"], "words": ["one", "two"], "most": ["a", "b:c"],
        "starts": true, "ends": true, "no": false,
    });
    assert_eq!(jarvis.run("strings", json!({})), expected);
}

fn mistakes_raise_at_the_plugins_line(broker: &Broker) {
    let cases = [
        ("jarvis.state.set()", "jarvis.state.set wants a string as the key, got nil"),
        ("jarvis.state.set('k', print)", "jarvis.state.set `k` is a function, which cannot be sent"),
        ("jarvis.state.set('', 1)", "jarvis.state.set wants a key of 1 to 256 bytes, got 0"),
        ("jarvis.state.incr('k', 'x')", "jarvis.state.incr wants a number as what to add"),
        ("jarvis.config.get(5)", "jarvis.config.get wants a string as the key, got number"),
        (
            "jarvis.events.emit('a b', {})",
            "jarvis.events.emit cannot emit `a b`: an event's name is 1 to 64 of A-Z a-z 0-9 _ . : -",
        ),
        ("jarvis.events.on('x')", "jarvis.events.on wants a function as what to call, got nil"),
        ("jarvis.mqtt.publish('a/#', 'x')", "~"),
        ("jarvis.mqtt.publish('a', 'x', { quos = 1 })", "~may not publish to `a`"),
        (
            "jarvis.timer.after('soon', print)",
            "jarvis.timer.after cannot read `soon` as the delay: write seconds, or \"2m30s\"",
        ),
        ("jarvis.timer.every(0, print)", "jarvis.timer.every wants at least 0.1 seconds between two calls"),
        ("jarvis.say('')", "jarvis.say wants a text of 1 to 262144 bytes (limits.result)"),
        ("jarvis.command('x', 5)", "jarvis.command wants a table as the command's arguments"),
        (
            "jarvis.time.iso('now')",
            "jarvis.time.iso wants seconds since 1970, as jarvis.time.now() gives them",
        ),
        (
            "jarvis.time.between('late', '06:30')",
            "jarvis.time.between cannot read `late` as a time of day: write \"22:30\"",
        ),
        ("jarvis.http.get('http://example.com/')", "~add `http:example.com` to its @permissions"),
        ("jarvis.new = 1", "`jarvis` is read-only"),
        ("jarvis.state.get = print", "`jarvis.state` is read-only"),
        ("jarvis.plugin.id = 'other'", "`jarvis.plugin` is read-only"),
        ("string.trim = print", "`string` is read-only"),
    ];
    let functions: String =
        cases.iter().enumerate().map(|(i, (code, _))| format!("function f{i}()\n{code}\nend\n")).collect();
    let jarvis = Bridge::start(broker, &[("wrong", &by_name(&functions))]);
    for (index, (code, error)) in cases.iter().enumerate() {
        let line = 7 + 3 * index;
        let answer = jarvis.ask("command/request", format!("f{index}").as_str());
        let text = answer["error"].as_str().unwrap_or_else(|| panic!("{code}: {answer:#}"));
        let own = text.strip_prefix(&format!("plugin `wrong`: on_command failed: wrong.lua:{line}: "));
        let own = own.unwrap_or_else(|| panic!("{code}: {text} (line {line})"));
        match error.strip_prefix('~') {
            Some(part) => assert!(own.contains(part), "{code}: {own}"),
            None => assert_eq!(own, *error, "{code}"),
        }
    }
}
