//! What becomes of a plugin that hurts itself again and again: it is left alone, switched off and brought back,
//! and nobody else notices.

use std::{
    fs,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Gate, Setup, assert_json, on_each_broker, plugin_source, workers_of};

on_each_broker!(
    three_kills_switch_a_plugin_off_and_a_reload_brings_it_back,
    a_changed_file_brings_a_plugin_back_and_a_broken_one_does_not,
    who_asks_a_plugin_that_is_off_is_told_and_the_others_go_on,
    a_start_up_that_hangs_counts,
    five_failures_in_a_row_open_the_breaker_and_one_trial_closes_it,
    a_trial_that_fails_opens_it_again,
    what_nobody_waits_for_is_dropped_while_it_is_open,
    timers_wait_while_it_is_open_and_one_of_them_is_tried,
    plain_errors_open_nothing_and_all_errors_are_counted,
    memory_failures_open_it_too,
    a_death_is_told_in_words_and_the_rest_of_the_mail_is_answered,
    others_answer_while_one_is_killed_and_killed_again,
    nobody_waits_for_a_worker_that_is_slow_to_start,
    what_waits_when_it_is_switched_off_is_for_the_version_that_comes,
    a_full_mailbox_keeps_no_other_plugin_waiting,
    a_refused_file_is_reloaded_by_its_name,
    a_plugins_own_codes_are_no_limits,
);

/// Does what its command says; `hang` can only be killed.
const OFFENDER: &str = r#"
-- @commands hang, loop, count, bomb, fail, refuse, slow
-- @permissions mqtt.publish:out/#
local function hang() string.find(string.rep("a", 60), string.rep("a?", 60) .. string.rep("a", 60)) end
local commands = { hang = hang }
function commands.loop() while true do end end
function commands.count() return { n = jarvis.state.incr("n") } end
function commands.bomb() local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end end
function commands.fail() error("no") end
function commands.refuse() error({ message = "There is no milk.", code = "no_milk" }) end
function commands.slow() jarvis.sleep(4) return {} end
function on_command(cmd) return commands[cmd.name]() end
function on_chat(m) return { response = "from the offender" } end
function filter_message(m) return nil end
function on_startup() if jarvis.state.get("n", 0) > 0 and jarvis.config.get("armed") then hang() end end
jarvis.events.on("rain", function() jarvis.mqtt.publish("out/rain", "heard") end)
jarvis.events.on("storm", function() while true do end end)
"#;

/// Answers all the while.
const NEIGHBOUR: &str = r#"
-- @commands quick
-- @priority 10
-- @permissions mqtt.publish:out/#
function on_command(cmd) if cmd.name == "quick" then return { response = "quick" } end end
function on_chat(m) jarvis.mqtt.publish("out/heard", m.content) return { response = "from the neighbour" } end
jarvis.events.on("rain", function() end)
"#;

/// Both, with limits that tests need not wait for.
fn setup(broker: &Broker, breaker: &str) -> Setup {
    Setup::new(broker)
        .plugin("offender", OFFENDER)
        .plugin("neighbour", NEIGHBOUR)
        .set("LIMITS__HOOK_CPU_MS", "100")
        .configuration(&format!("[breaker]\n{breaker}\n"))
}

fn health(jarvis: &Bridge) -> Value {
    jarvis.ask("bridge/request/health", "")["data"]["plugins"]["offender"].take()
}

/// Waits until the offender's breaker is there.
#[track_caller]
fn breaker_becomes(jarvis: &Bridge, expected: &str) {
    let patience = Instant::now() + Duration::from_secs(20);
    while health(jarvis)["breaker"] != expected {
        assert!(Instant::now() < patience, "{:#}", health(jarvis));
    }
}

/// Has the offender's worker killed so many times.
fn have_it_killed(jarvis: &Bridge, times: usize) {
    for _ in 0..times {
        let expected = json!({
            "status": "error", "code": "timeout",
            "error": "~plugin `offender`: on_command did not come back within 100 ms of CPU time (limits.hook_cpu_ms)",
        });
        jarvis.check("command/request/hang", "", expected);
    }
}

fn is_off(jarvis: &Bridge) -> Value {
    let expected =
        json!({ "id": "offender", "enabled": true, "state": "disabled", "last_error": "~switched off" });
    jarvis.expect("jarvis/bridge/plugin/offender", expected)
}

fn three_kills_switch_a_plugin_off_and_a_reload_brings_it_back(broker: &Broker) {
    let jarvis = setup(broker, "").start();
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 1 }));
    have_it_killed(&jarvis, 2);
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 2 }), "two are borne");
    have_it_killed(&jarvis, 1);
    let event = json!({ "type": "plugin_disabled", "data": { "id": "offender", "error": "~breaker.kills" } });
    jarvis.expect("jarvis/bridge/event", event);
    let why = is_off(&jarvis)["last_error"].as_str().unwrap().to_owned();
    for words in
        ["3 times within 600 s", "limits.hook_cpu_ms", "change its file", "bridge/request/plugin/reload"]
    {
        assert!(why.contains(words), "{why}");
    }
    let refused = json!({ "status": "error", "code": "disabled", "error": why });
    jarvis.check("command/request/count", "", refused);
    let expected =
        json!({ "kills": 3, "restarts": 2, "timeouts": 3, "errors_by_code": { "timeout": 3 }, "refused": 1 });
    assert_json(&health(&jarvis), &expected);

    let reloaded = jarvis.ask("bridge/request/plugin/reload", "offender");
    assert_json(&reloaded["data"], &json!({ "state": "ready", "last_error": null }));
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 3 }), "its state is kept");
    have_it_killed(&jarvis, 2);
    assert_eq!(
        jarvis.run("count", json!({})),
        json!({ "n": 4 }),
        "the new version starts with a clean slate"
    );
}

fn a_changed_file_brings_a_plugin_back_and_a_broken_one_does_not(broker: &Broker) {
    let jarvis = setup(broker, "kills = 1").start();
    have_it_killed(&jarvis, 1);
    is_off(&jarvis);
    jarvis.write_plugin("offender", "while true do end");
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_error", "data": { "id": "offender" } }));
    jarvis.check("command/request/count", "", json!({ "code": "disabled", "error": "~offender.lua:6" }));
    jarvis.write_plugin("offender", &format!("{OFFENDER}\n-- mended\n"));
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_reloaded", "data": { "id": "offender" } }));
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 1 }));
}

fn who_asks_a_plugin_that_is_off_is_told_and_the_others_go_on(broker: &Broker) {
    let jarvis = setup(broker, "kills = 1").start();
    // What waits behind the call that is killed is answered too.
    for name in ["hang", "count", "count"] {
        jarvis.publish(&format!("jarvis/command/request/{name}"), "");
    }
    jarvis.expect("jarvis/command/response/hang", json!({ "code": "timeout" }));
    for _ in 0..2 {
        jarvis.expect("jarvis/command/response/count", json!({ "code": "disabled" }));
    }
    is_off(&jarvis);
    let off = json!({ "plugin": "offender", "status": "error", "code": "disabled" });
    let expected = json!({
        "status": "ok", "response": "from the neighbour",
        // Its `on_chat`, the neighbour's, and its filter.
        "results": [off, { "plugin": "neighbour", "status": "ok" }, off],
    });
    jarvis.check("chat/request", "Hello", expected);
    jarvis.check(
        "event/request/rain",
        "",
        json!({ "status": "ok", "data": { "delivered": 1, "errors": null } }),
    );
    jarvis.check("command/request/nobody", "", json!({ "code": "disabled" }));
    assert_eq!(jarvis.run("quick", json!({}))["response"], "quick");
    let details = jarvis.ask("bridge/request/plugin/info", "offender");
    assert_json(&details["data"], &json!({ "events": [], "subscriptions": [], "last_error_at": "*" }));
}

fn a_start_up_that_hangs_counts(broker: &Broker) {
    let jarvis = setup(broker, "").set("PLUGINS__OFFENDER__ARMED", "true").start();
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 1 }));
    have_it_killed(&jarvis, 1);
    let why = is_off(&jarvis)["last_error"].as_str().unwrap().to_owned();
    assert!(why.contains("on_startup did not come back"), "{why}");
    assert_json(&health(&jarvis), &json!({ "kills": 3, "restarts": 0 }));
}

fn five_failures_in_a_row_open_the_breaker_and_one_trial_closes_it(broker: &Broker) {
    let jarvis = setup(broker, "pause = 5").start();
    let fail = || jarvis.check("command/request/loop", "", json!({ "code": "timeout" }));
    (0..4).for_each(|_| drop(fail()));
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 1 }), "a call that comes back ends the row");
    assert_eq!(health(&jarvis)["breaker"], "closed");
    (0..5).for_each(|_| drop(fail()));
    let left_alone = json!({
        "status": "error", "code": "unavailable", "error": "~5 of its calls in a row did not come back, it is tried again in ",
    });
    jarvis.check("command/request/count", "", left_alone.clone());
    jarvis.check("command/request", "/count", left_alone);
    assert_json(&health(&jarvis), &json!({ "breaker": "open", "timeouts": 9, "refused": 2, "kills": 0 }));
    let alone = json!({ "plugin": "offender", "status": "error", "code": "unavailable" });
    let expected = json!({ "status": "ok", "response": "from the neighbour", "results": [alone, {}, alone] });
    jarvis.check("chat/request", "Hello", expected);
    breaker_becomes(&jarvis, "half_open");
    // One is tried, and who comes meanwhile is refused and does not wait for it.
    jarvis.publish("jarvis/command/request/slow", "");
    let tried = json!({ "code": "unavailable", "error": "~one call tries it now" });
    jarvis.check("command/request/count", "", tried);
    assert!(jarvis.waiting("jarvis/command/response/slow").is_empty());
    jarvis.expect("jarvis/command/response/slow", json!({ "status": "ok" }));
    assert_eq!(health(&jarvis)["breaker"], "closed");
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 2 }));
}

fn a_trial_that_fails_opens_it_again(broker: &Broker) {
    let jarvis = setup(broker, "failures = 1\npause = 2\nkills = 100").start();
    have_it_killed(&jarvis, 1);
    for _ in 0..2 {
        jarvis.check("command/request/count", "", json!({ "code": "unavailable" }));
        breaker_becomes(&jarvis, "half_open");
        have_it_killed(&jarvis, 1);
    }
    jarvis.check("command/request/count", "", json!({ "code": "unavailable" }));
    breaker_becomes(&jarvis, "half_open");
    assert_eq!(jarvis.run("count", json!({})), json!({ "n": 1 }));
    assert_json(&health(&jarvis), &json!({ "breaker": "closed", "kills": 3, "refused": 3 }));
}

fn what_nobody_waits_for_is_dropped_while_it_is_open(broker: &Broker) {
    let jarvis = setup(broker, "failures = 1\npause = 600").start();
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 2 } }));
    jarvis.next("out/rain");
    jarvis.check("event/request/storm", "", json!({ "data": { "errors": ["~handler of `storm`"] } }));
    for _ in 0..3 {
        let expected = json!({ "status": "ok", "data": { "delivered": 1, "errors": ["~is left alone"] } });
        jarvis.check("event/request/rain", "", expected);
    }
    assert_json(&health(&jarvis), &json!({ "breaker": "open", "dropped": 3 }));
    assert!(jarvis.waiting("out/rain").is_empty());
    jarvis.ask("bridge/request/plugin/reload", "offender");
    assert_eq!(health(&jarvis)["breaker"], "closed");
    jarvis.check("event/request/rain", "", json!({ "data": { "delivered": 2, "errors": null } }));
}

fn timers_wait_while_it_is_open_and_one_of_them_is_tried(broker: &Broker) {
    let code = r#"
-- @commands arm, loop
-- @permissions mqtt.publish:out/#
function on_command(cmd)
  if cmd.name == "loop" then while true do end end
  for _, name in ipairs({ "a", "b" }) do
    jarvis.timer.after(5, function() jarvis.mqtt.publish("out/timer", name) end)
  end
  return {}
end
"#;
    let setup = Setup::new(broker).plugin("offender", code).set("LIMITS__HOOK_CPU_MS", "100");
    let jarvis = setup.configuration("[breaker]\nfailures = 1\npause = 7\n").start();
    jarvis.run("arm", json!({}));
    jarvis.check("command/request/loop", "", json!({ "code": "timeout" }));
    assert_eq!(health(&jarvis)["breaker"], "open");
    let began = Instant::now();
    let mut fired = [jarvis.next("out/timer").text().to_owned(), jarvis.next("out/timer").text().to_owned()];
    assert!(began.elapsed() > Duration::from_millis(5_500), "they came after {:?}", began.elapsed());
    fired.sort();
    assert_eq!(fired, ["a", "b"], "none of them is lost");
    assert_eq!(health(&jarvis)["breaker"], "closed");
}

fn plain_errors_open_nothing_and_all_errors_are_counted(broker: &Broker) {
    let jarvis = setup(broker, "failures = 2").start();
    for _ in 0..3 {
        jarvis.check("command/request/fail", "", json!({ "code": "hook_error" }));
        jarvis.check("command/request/refuse", "", json!({ "code": "no_milk" }));
    }
    jarvis.check("command/request/loop", "", json!({ "code": "timeout" }));
    jarvis.check("command/request/fail", "", json!({ "code": "hook_error" }));
    jarvis.check("command/request/loop", "", json!({ "code": "timeout" }));
    let expected = json!({
        "breaker": "closed", "errors": 9, "timeouts": 2, "kills": 0, "restarts": 0, "dropped": 0, "refused": 0,
        "errors_by_code": { "hook_error": 4, "plugin": 3, "timeout": 2 },
    });
    assert_json(&health(&jarvis), &expected);
}

fn memory_failures_open_it_too(broker: &Broker) {
    let jarvis = setup(broker, "failures = 2\npause = 600").set("LIMITS__HOOK_CPU_MS", "5000").start();
    for _ in 0..2 {
        jarvis.check("command/request/bomb", "", json!({ "code": "memory_limit" }));
    }
    jarvis.check("command/request/count", "", json!({ "code": "unavailable", "error": "~limits.memory" }));
    assert_json(&health(&jarvis), &json!({ "errors_by_code": { "memory_limit": 2 }, "kills": 0 }));
}

fn a_death_is_told_in_words_and_the_rest_of_the_mail_is_answered(broker: &Broker) {
    let waits = r#"
-- @commands wait, count
-- @permissions mqtt.publish:out/#
function on_command(cmd)
  if cmd.name == "wait" then jarvis.mqtt.publish("out/begun", "", { now = true }) jarvis.sleep(5) end
  return { n = jarvis.state.incr("n") }
end
"#;
    let jarvis = Bridge::start(broker, &[("waits", waits)]);
    let deaths = [(Signal::ABORT, "hook_error", "SIGABRT"), (Signal::KILL, "memory_limit", "SIGKILL")];
    for (n, (signal, code, words)) in deaths.into_iter().enumerate() {
        jarvis.publish("jarvis/command/request/wait", "");
        jarvis.publish("jarvis/command/request/count", "");
        jarvis.next("out/begun");
        let worker = Pid::from_raw(workers_of(&jarvis)[0].cast_signed()).unwrap();
        kill_process(worker, signal).unwrap();
        let error = jarvis.next("jarvis/command/response/wait").json();
        assert_json(
            &error,
            &json!({ "code": code, "error": "~plugin `waits`: on_command failed: its worker " }),
        );
        assert!(error["error"].as_str().unwrap().contains(words), "{error:#}");
        jarvis.expect("jarvis/command/response/count", json!({ "data": { "n": n + 1 } }));
    }
}

fn others_answer_while_one_is_killed_and_killed_again(broker: &Broker) {
    let jarvis = setup(broker, "failures = 1000\nkills = 1000").start();
    for _ in 0..6 {
        jarvis.publish("jarvis/command/request/hang", "");
    }
    let (mut killed, mut answers) = (0, 0);
    while killed < 6 {
        assert_eq!(jarvis.run("quick", json!({}))["response"], "quick");
        answers += 1;
        killed += jarvis.waiting("jarvis/command/response/hang").len();
    }
    assert!(answers > 6 * 3, "only {answers} answers while six workers were killed");
    assert_json(&health(&jarvis), &json!({ "kills": 6 }));
}

fn nobody_waits_for_a_worker_that_is_slow_to_start(broker: &Broker) {
    let slow = r#"
-- @commands hang, mark
-- @permissions mqtt.publish:out/#
function on_command(cmd)
  jarvis.state.set("marked", true)
  if cmd.name == "hang" then string.find(string.rep("a", 60), string.rep("a?", 60) .. string.rep("a", 60)) end
  return {}
end
function on_startup()
  if not jarvis.state.get("marked") then return end
  jarvis.mqtt.publish("out/starting", "", { now = true })
  jarvis.sleep(5)
  jarvis.mqtt.publish("out/started", "", { now = true })
end
"#;
    let setup = Setup::new(broker).plugin("slow", slow).set("LIMITS__HOOK_CPU_MS", "100");
    let jarvis = setup.set("BREAKER__FAILURES", "1").start();
    jarvis.run("mark", json!({}));
    jarvis.check("command/request/hang", "", json!({ "code": "timeout" }));
    jarvis.next("out/starting");
    jarvis.check("command/request/mark", "", json!({ "code": "unavailable", "error": "~is left alone" }));
    jarvis.write_plugin("slow", "-- @commands mark\nfunction on_command() return { response = 'new' } end");
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_reloaded" }));
    assert_eq!(jarvis.run("mark", json!({}))["response"], "new");
    assert!(jarvis.waiting("out/started").is_empty(), "the old one's start was not waited for");
}

fn what_waits_when_it_is_switched_off_is_for_the_version_that_comes(broker: &Broker) {
    let jarvis = setup(broker, "kills = 1").set("LIMITS__HOOK_CPU_MS", "2000").start();
    jarvis.publish("jarvis/command/request/hang", "");
    for _ in 0..5 {
        jarvis.publish("jarvis/command/request/count", "");
    }
    jarvis.write_plugin(
        "offender",
        "-- @commands hang, count\nfunction on_command() return { response = 'new' } end",
    );
    // The new version is there before the old one is killed, and waits for that.
    jarvis.expect("jarvis/command/response/hang", json!({ "code": "timeout" }));
    for _ in 0..5 {
        jarvis.expect("jarvis/command/response/count", json!({ "response": "new" }));
    }
}

fn a_full_mailbox_keeps_no_other_plugin_waiting(broker: &Broker) {
    let gate = Gate::closed();
    let slow = format!(
        "-- @permissions mqtt.publish:out/#, {}\n\
         function on_chat(m) {} jarvis.mqtt.publish('out/done', m.content) end",
        gate.permission(),
        gate.wait()
    );
    let jarvis = Setup::new(broker)
        .plugin("slow", &slow)
        .plugin("neighbour", NEIGHBOUR)
        .set("LIMITS__MAILBOX", "1")
        .start();
    // More than its worker is told of ahead and its mailbox takes.
    let messages = 25;
    for _ in 0..messages {
        jarvis.publish("jarvis/chat/request", "Hello");
    }
    for _ in 0..messages {
        jarvis.next("out/heard");
    }
    assert!(jarvis.waiting("out/done").is_empty(), "the neighbour has heard all before the first was done");
    gate.open();
    jarvis.next("out/done");
}

fn a_refused_file_is_reloaded_by_its_name(broker: &Broker) {
    let jarvis = Setup::new(broker).file("bad.lua", "-- @id good\n").set("RELOAD__WATCH", "false").start();
    let file = jarvis.setup().plugins().join("bad.lua");
    jarvis.check("bridge/request/plugin/reload", "bad", json!({ "status": "error", "error": "~bad.lua" }));
    jarvis.check("bridge/request/plugin/reload", "other", json!({ "code": "unknown_plugin" }));
    fs::write(file, plugin_source("good", "function on_chat() return { response = 'Hi' } end")).unwrap();
    jarvis.check(
        "bridge/request/plugin/reload",
        "bad",
        json!({ "data": { "id": "good", "state": "ready" } }),
    );
    jarvis.check("chat/request", "Hello", json!({ "response": "Hi" }));
    jarvis.check(
        "bridge/request/plugin/reload",
        "good",
        json!({ "data": { "id": "good", "state": "ready" } }),
    );
}

fn a_plugins_own_codes_are_no_limits(broker: &Broker) {
    let code = "local calls = 0\nfunction on_command(cmd)\n    calls = calls + 1\n    if cmd.name == 'calls' then return { calls = calls } end\n    error{ message = 'the lamp is silent', code = cmd.name }\nend";
    let jarvis = Bridge::start(broker, &[("lamp", code)]);
    for name in ["timeout", "memory_limit", "unavailable"] {
        for _ in 0..6 {
            let expected = json!({ "status": "error", "code": name, "error": "the lamp is silent" });
            jarvis.check("command/request", name, expected);
        }
    }
    assert_eq!(
        jarvis.run("calls", json!({})),
        json!({ "calls": 19 }),
        "its VM is the same, its breaker closed"
    );
    let expected =
        json!({ "timeouts": 0, "kills": 0, "breaker": "closed", "errors_by_code": { "plugin": 18 } });
    assert_json(&jarvis.ask("bridge/request/health", "")["data"]["plugins"]["lamp"], &expected);
}
