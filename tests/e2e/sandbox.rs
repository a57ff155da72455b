//! What a plugin cannot do, and what becomes of one that tries: limits, rollback, kill.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, assert_json, on_each_broker, workers_of};

on_each_broker!(
    what_is_absent,
    what_is_present,
    plugins_do_not_see_each_other,
    a_worker_has_no_files_and_no_environment_of_ours,
    a_failed_hook_has_done_nothing,
    a_stopped_hook_has_done_nothing,
    an_endless_loop_is_stopped_while_others_answer,
    no_trick_swallows_the_stop,
    a_memory_bomb_is_stopped_and_the_plugin_works_again,
    what_cannot_be_stopped_is_killed_and_the_rest_of_the_mail_is_answered,
    a_worker_that_dies_is_replaced,
    an_endless_file_is_refused,
    a_flood_of_effects_is_refused,
);

fn what_is_absent(broker: &Broker) {
    let code = r#"
local absent = {}
for _, name in ipairs({ "os", "io", "load", "loadstring", "loadfile", "dofile", "require", "package", "debug", "warn" }) do
    absent[name] = _G[name] == nil
end
absent["string.dump"] = string.dump == nil
function on_command(cmd)
    if cmd.name == "absent" then return absent end
    if cmd.name == "gc" then setmetatable({}, { __gc = function() end }) end
    if cmd.name == "collect" then collectgarbage() end
    if cmd.name == "strings" then getmetatable("").__index = {} end
    if cmd.name == "jarvis" then setmetatable(jarvis, {}) end
end
"#;
    let jarvis = Bridge::start(broker, &[("curious", code)]);
    let answer = jarvis.run("absent", json!({}));
    assert_eq!(answer.as_object().unwrap().len(), 11);
    assert!(answer.as_object().unwrap().values().all(|absent| *absent == json!(true)), "{answer:#}");
    for (name, error) in [
        ("gc", "curious.lua:13: `__gc` cannot be set in plugins"),
        ("collect", "curious.lua:14: plugins may only ask collectgarbage(\"count\"): Lua collects by itself"),
        ("strings", "curious.lua:15: attempt to index a boolean value"),
        ("jarvis", "curious.lua:16: cannot change a protected metatable"),
    ] {
        let expected = json!({ "code": "hook_error", "error": format!("~{error}") });
        jarvis.check("command/request", name, expected);
    }
}

fn what_is_present(broker: &Broker) {
    let code = r#"
function on_command()
    local co = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b * 2 end)
    local sorted = { 3, 1, 2 }
    table.sort(sorted, function(a, b) return a > b end)
    local caught, problem = pcall(error, { code = 5 })
    return {
        co = { co(1), co(21) }, sorted = sorted, concat = table.concat({ 1, 2 }, "-"), pi = math.floor(math.pi),
        utf8 = utf8.len("äö"), match = ("key=value"):match("(%w+)=(%w+)"), format = ("%05.1f"):format(2.25),
        gsub = (("a b"):gsub("%s", "_")), caught = caught, problem = problem, unpack = { table.unpack({ 1, 2 }) },
        select = select('#', 1, 2, 3), tonumber = tonumber("0x10"), type = type(next), version = _VERSION,
        count = collectgarbage("count") > 0, xpcall = select(2, xpcall(error, function(e) return "handled " .. e end, "x")),
    }
end
"#;
    let jarvis = Bridge::start(broker, &[("uses", code)]);
    let expected = json!({
        "co": [2, 42], "sorted": [3, 2, 1], "concat": "1-2", "pi": 3, "utf8": 2, "match": "key", "format": "002.2",
        "gsub": "a_b", "caught": false, "problem": { "code": 5 }, "unpack": [1, 2], "select": 3, "tonumber": 16,
        "type": "function", "version": "Lua 5.4", "count": true, "xpcall": "handled x",
    });
    assert_eq!(jarvis.run("x", json!({})), expected);
}

fn plugins_do_not_see_each_other(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[
            (
                "a",
                "-- @commands write\nshared = 1\nfunction on_command() shared = 2 return { shared = shared } end",
            ),
            ("b", "-- @commands read\nfunction on_command() return { seen = shared == nil } end"),
        ],
    );
    assert_eq!(jarvis.run("write", json!({})), json!({ "shared": 2 }));
    assert_eq!(jarvis.run("read", json!({})), json!({ "seen": true }));
}

fn a_worker_has_no_files_and_no_environment_of_ours(broker: &Broker) {
    let setup = Setup::new(broker)
        .plugin("any", "function on_command() return {} end")
        .set("PLUGINS__ANY__SECRET", "s3cret");
    let jarvis = setup.start();
    let workers = workers_of(&jarvis);
    assert_eq!(workers.len(), 1, "one worker for each plugin");
    let environment = std::fs::read(format!("/proc/{}/environ", workers[0])).unwrap();
    assert!(!String::from_utf8_lossy(&environment).contains("s3cret"));
    let mut open: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", workers[0]))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|target| target.display().to_string())
        .collect();
    open.retain(|target| !target.starts_with("pipe:") && target != "/dev/null");
    assert!(open.is_empty(), "{open:?}");
}

/// Does everything that can be done, then ends as it is told.
const DOES_IT_ALL: &str = r#"
-- @permissions mqtt.publish:out/#, mqtt.subscribe:out/#
local function everything()
    jarvis.state.set("n", jarvis.state.get("n", 0) + 1)
    jarvis.config.set("c", "changed")
    jarvis.events.emit("done", {})
    jarvis.mqtt.publish("out/done", "x")
    jarvis.say("done")
    jarvis.timer.after(0, function() jarvis.events.emit("timer", {}) end)
    jarvis.events.on("rain", function() end)
    jarvis.mqtt.subscribe("out/#", function() end)
end
function succeed() everything() return look() end
function fail() everything() error("no") end
function refuse() everything() return nil, "no" end
function wrong() everything() return { f = print } end
function loop() everything() while true do end end
function hang() everything() return { x = string.find(string.rep("a", 40), string.rep("a?", 40) .. string.rep("a", 40)) } end
function look() return { n = jarvis.state.get("n", 0), c = jarvis.config.get("c", "unset") } end
function on_command(cmd) return _G[cmd.name](cmd.args) end
"#;

/// Runs a command that must fail, and sees that nothing of it has happened.
fn nothing_happens(jarvis: &Bridge, name: &str, code: &str) {
    jarvis.check("command/request", name, json!({ "status": "error", "code": code }));
    assert_eq!(jarvis.run("look", json!({})), json!({ "n": 0, "c": "unset" }), "{name}");
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 0 } }));
    let info = jarvis.ask("bridge/request/plugin/info", "all");
    assert_json(&info["data"], &json!({ "subscriptions": [], "events": [] }));
    for topic in ["out/done", "jarvis/event/all/done", "jarvis/chat/notification", "jarvis/event/all/timer"] {
        assert!(jarvis.waiting(topic).is_empty(), "{name}: {topic}");
    }
}

fn a_failed_hook_has_done_nothing(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("all", DOES_IT_ALL)]);
    nothing_happens(&jarvis, "fail", "hook_error");
    nothing_happens(&jarvis, "refuse", "hook_error");
    nothing_happens(&jarvis, "wrong", "invalid_result");
    assert_eq!(jarvis.run("succeed", json!({})), json!({ "n": 1, "c": "changed" }));
    for topic in ["out/done", "jarvis/event/all/done", "jarvis/chat/notification", "jarvis/event/all/timer"] {
        jarvis.next(topic);
    }
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 1 } }));
}

fn a_stopped_hook_has_done_nothing(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("all", DOES_IT_ALL)]);
    nothing_happens(&jarvis, "loop", "timeout");
    nothing_happens(&jarvis, "hang", "timeout");
}

fn an_endless_loop_is_stopped_while_others_answer(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[("looper", "-- @commands loop\nfunction on_command()\n    while true do end\nend"), QUICK],
    );
    jarvis.publish("jarvis/command/request/loop", "");
    let mut meanwhile = 0;
    let stopped = loop {
        jarvis.run("quick", json!({}));
        if let Some(answer) = jarvis.next_within(Duration::ZERO, "jarvis/command/response/loop") {
            break answer.json();
        }
        meanwhile += 1;
    };
    let expected = json!({
        "status": "error", "code": "timeout",
        "error": "plugin `looper`: on_command was stopped at looper.lua:8: it used its 250 ms of CPU time (limits.hook_cpu_ms)",
    });
    assert_json(&stopped, &expected);
    assert!(meanwhile > 3, "{meanwhile} other answers came meanwhile");
}

fn no_trick_swallows_the_stop(broker: &Broker) {
    let code = r#"
function in_pcall() while true do pcall(function() while true do end end) end end
function in_xpcall() while true do xpcall(function() while true do end end, function() while true do end end) end end
function in_coroutine() while true do coroutine.wrap(function() while true do end end)() end end
function in_resume() while true do coroutine.resume(coroutine.create(function() while true do end end)) end end
function in_metamethod() local t = setmetatable({}, { __index = function() while true do end end }) return t.x end
function in_sort() table.sort({ 1, 2, 3 }, function() while true do end end) end
function in_gsub() return { x = ("x"):gsub("x", function() while true do end end) } end
function in_recursion() local function f() return pcall(f) end while true do f() end end
function in_strings() local s = "" while true do s = s .. "x" if #s > 5000 then s = "" end end end
function in_result() return setmetatable({}, { __pairs = function() while true do end end }) end
function on_command(cmd) return _G[cmd.name](cmd.args) end
"#;
    // Left alone, the rest would not be tried.
    let jarvis = Setup::new(broker).plugin("tricks", code).set("BREAKER__FAILURES", "100").start();
    for name in [
        "in_pcall",
        "in_xpcall",
        "in_coroutine",
        "in_resume",
        "in_metamethod",
        "in_sort",
        "in_gsub",
        "in_strings",
    ] {
        jarvis.check(
            "command/request",
            name,
            json!({ "status": "error", "code": "timeout", "error": "~plugin `tricks`: on_command " }),
        );
    }
    // Whichever limit it meets first.
    let answer = jarvis.ask("command/request", "in_recursion");
    assert!(["timeout", "memory_limit"].contains(&answer["code"].as_str().unwrap()), "{answer:#}");
    jarvis.check("command/request", "in_result", json!({ "status": "ok", "data": {} }));
}

fn a_memory_bomb_is_stopped_and_the_plugin_works_again(broker: &Broker) {
    let code = r#"
function table_bomb() local t = {} while true do t[#t + 1] = string.rep("x", 1000) .. #t end end
function string_bomb() local s = "x" while true do s = s .. s end end
function caught_bomb() local t = {} while true do pcall(function() while true do t[#t + 1] = {} end end) end end
function fine() return { n = jarvis.state.incr("n") } end
kept, calls = {}, 0
jarvis.events.on("fill", function() while true do kept[#kept + 1] = {} end end)
function fill() calls = calls + 1 jarvis.events.emit("fill") return {} end
function look() return { kept = #kept, calls = calls } end
function on_command(cmd) return _G[cmd.name](cmd.args) end
"#;
    let jarvis = Bridge::start(broker, &[("bomb", code)]);
    for (n, name) in ["table_bomb", "string_bomb", "caught_bomb"].iter().enumerate() {
        let expected = json!({
            "status": "error", "code": "memory_limit", "error": "~16777216 bytes of memory (limits.memory)",
        });
        jarvis.check("command/request", *name, expected);
        assert_eq!(jarvis.run("fine", json!({})), json!({ "n": n + 1 }));
    }
    // What its variables hold would fill the heap for ever, also where it was a handler that filled it.
    jarvis.run("fill", json!({}));
    assert_eq!(jarvis.run("look", json!({})), json!({ "kept": 0, "calls": 0 }));
}

const HANGS: &str = r#"
local calls = 0
function hang() return { x = string.find(string.rep("a", 40), string.rep("a?", 40) .. string.rep("a", 40)) } end
function count(args) calls = calls + 1 return { calls = calls, state = jarvis.state.incr("n"), tag = args.tag } end
function on_command(cmd) return _G[cmd.name](cmd.args) end
"#;

/// Answers its own command and no other.
const QUICK: (&str, &str) =
    ("quick", "-- @commands quick\nfunction on_command(cmd) return cmd.name == 'quick' and {} or nil end");

fn what_cannot_be_stopped_is_killed_and_the_rest_of_the_mail_is_answered(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("hangs", HANGS), QUICK]);
    assert_eq!(jarvis.run("count", json!({ "tag": 0 })), json!({ "calls": 1, "state": 1, "tag": 0 }));
    let before = workers_of(&jarvis);
    jarvis.publish("jarvis/command/request", json!({ "id": "hang", "name": "hang" }));
    for tag in 1..=50 {
        jarvis.publish("jarvis/command/request/count", json!({ "tag": tag }));
    }
    let began = Instant::now();
    assert_eq!(jarvis.run("quick", json!({})), json!({}), "another plugin is not held up");
    let expected = json!({
        "id": "hang", "status": "error", "code": "timeout",
        "error": "~plugin `hangs`: on_command ", "results": [{ "plugin": "hangs", "code": "timeout" }],
    });
    assert_json(&jarvis.next("jarvis/command/response").json(), &expected);
    for tag in 1..=50_u64 {
        let answer = jarvis.next("jarvis/command/response/count").json();
        let expected = json!({ "status": "ok", "data": { "calls": tag, "state": tag + 1, "tag": tag } });
        assert_json(&answer, &expected);
    }
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let after = workers_of(&jarvis);
    assert_eq!(after.len(), 2);
    assert_eq!(after.iter().filter(|worker| before.contains(worker)).count(), 1, "one worker is new");
    let health = jarvis.ask("bridge/request/health", "");
    assert_json(&health["data"]["plugins"]["hangs"], &json!({ "timeouts": 1 }));
}

fn a_worker_that_dies_is_replaced(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("hangs", HANGS)]);
    for n in 1..=3_u64 {
        let expected = json!({ "calls": 1, "state": n });
        assert_json(&jarvis.run("count", json!({})), &expected);
        let workers = workers_of(&jarvis);
        let worker = rustix::process::Pid::from_raw(workers[0].cast_signed()).unwrap();
        rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
        jarvis.log.expect_times("a plugin has a fresh worker plugin=hangs", usize::try_from(n).unwrap());
    }
    assert_json(&jarvis.run("count", json!({})), &json!({ "calls": 1, "state": 4 }));
}

fn an_endless_file_is_refused(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[
            ("endless", "while true do end"),
            ("hanging", "string.find(string.rep('a', 40), string.rep('a?', 40) .. string.rep('a', 40))"),
            ("start", "function on_startup() while true do end end"),
            ("good", "function on_command() return { good = true } end"),
        ],
    );
    let list = jarvis.ask("bridge/request/plugin/list", "");
    let expected = json!([
        { "id": "endless", "state": "error", "last_error": "~endless.lua:6" },
        { "id": "good", "state": "ready" },
        { "id": "hanging", "state": "error", "last_error": "~plugin `hanging`: " },
        { "id": "start", "state": "error", "last_error": "~start.lua:6" },
    ]);
    assert_json(&list["data"], &expected);
    assert_eq!(jarvis.run("x", json!({})), json!({ "good": true }));
}

fn a_flood_of_effects_is_refused(broker: &Broker) {
    let code = r#"
function emits() for i = 1, 65 do jarvis.events.emit("flood", {}) end return {} end
function handlers() for i = 1, 65 do jarvis.events.on("rain", function() end) end return {} end
function timers() for i = 1, 65 do jarvis.timer.after(60, function() end) end return {} end
function on_command(cmd) return _G[cmd.name](cmd.args) end
"#;
    let jarvis = Bridge::start(broker, &[("flood", code)]);
    for (name, setting) in
        [("emits", "limits.outputs"), ("handlers", "limits.handlers"), ("timers", "limits.timers")]
    {
        let answer: Value = jarvis.ask("command/request", name);
        assert_json(&answer, &json!({ "status": "error", "error": format!("~{setting}") }));
    }
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/event/flood/flood").is_empty());
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 0 } }));
}
