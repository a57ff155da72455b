//! After the fact: what is counted and said, when a plugin is switched off, and how it comes back.

use serde_json::{Value, json};

use super::stage::{GOOD, Stage};
use crate::harness::{Broker, Setup, assert_json, workers_of};

/// Does what it is told.
const DOES: &str = "
-- @commands does
local function deep(n) if n == 0 then error('at the bottom') end deep(n - 1) end
local tricks = {
    loop = function() while true do end end,
    hang = function() ('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40)) end,
    bomb = function() local t = {} while true do t[#t + 1] = {} end end,
    fail = function() deep(3) end,
    fine = function() return { fine = true } end,
    wrong = function() return { f = print } end,
}
function on_command(cmd) if cmd.name == 'does' then return tricks[cmd.args.what]() end end
";

fn stage() -> Stage {
    Stage::of(Setup::new(&Broker::Embedded).plugin("good", GOOD).plugin("does", DOES))
}

impl Stage {
    fn does(&mut self, what: &str) -> Value {
        self.attack("does", json!({ "what": what })).unwrap()
    }

    #[track_caller]
    fn works_again(&mut self) {
        assert_json(&self.does("fine"), &json!({ "status": "ok", "data": { "fine": true } }));
        assert_eq!(self.info("does")["state"], "ready");
    }
}

/// Five in a row and it is left alone for a while; asking for a reload is a new beginning.
fn breaks_the_circuit(what: &str, code: &str) {
    let mut stage = stage();
    for _ in 0..5 {
        assert_json(&stage.does(what), &json!({ "status": "error", "code": code }));
    }
    let refused = stage.does("fine");
    assert_json(&refused, &json!({ "status": "error", "code": "unavailable", "error": "~`does`" }));
    stage.jarvis.check("bridge/request/plugin/reload", "does", json!({ "status": "ok" }));
    stage.works_again();
    stage.unharmed();
}

#[test]
fn five_time_outs_in_a_row_open_the_circuit_breaker() {
    breaks_the_circuit("loop", "timeout");
}

#[test]
fn five_bombs_in_a_row_open_the_circuit_breaker() {
    breaks_the_circuit("bomb", "memory_limit");
}

/// Only a row of them does, and plain errors are no reason: else one client's bad requests would switch a plugin off.
#[test]
fn errors_do_not_open_the_circuit_breaker() {
    let mut stage = stage();
    for what in ["fail", "wrong"] {
        for _ in 0..20 {
            assert_eq!(stage.does(what)["status"], "error");
        }
    }
    for _ in 0..3 {
        for what in ["loop", "loop", "loop", "fine"] {
            stage.does(what);
        }
    }
    stage.works_again();
    stage.unharmed();
}

/// Three kills within ten minutes.
fn disabled() -> Stage {
    let mut stage = stage();
    for _ in 0..3 {
        assert_json(&stage.does("hang"), &json!({ "status": "error", "code": "timeout" }));
    }
    let refused = stage.does("fine");
    assert_json(&refused, &json!({ "status": "error", "code": "disabled", "error": "~`does`" }));
    let info = stage.info("does");
    assert_json(&info, &json!({ "state": "disabled", "last_error": "~does" }));
    stage
        .jarvis
        .expect("jarvis/bridge/event", json!({ "type": "plugin_disabled", "data": { "id": "does" } }));
    stage
}

#[test]
fn three_kills_disable_until_a_reload() {
    let mut stage = disabled();
    stage.jarvis.check("bridge/request/plugin/reload", "does", json!({ "status": "ok" }));
    stage.works_again();
    stage.unharmed();
}

#[test]
fn three_kills_disable_until_the_file_changes() {
    let mut stage = disabled();
    // What was announced before is none of this.
    drop(stage.jarvis.waiting("jarvis/bridge/plugin/does"));
    stage.jarvis.write_plugin("does", &format!("{DOES}-- mended\n"));
    stage.jarvis.expect("jarvis/bridge/plugin/does", json!({ "state": "ready" }));
    stage.works_again();
    stage.unharmed();
}

/// What the owner needs to mend it: the hook, the limit or error, the lines that led there, and nothing of the host.
#[test]
fn the_last_error_has_the_way_there() {
    let mut stage = stage();
    let told = stage.does("fail").to_string();
    assert!(
        told.contains("at the bottom") && !told.contains("upvalue"),
        "who asked is not told the way: {told}"
    );
    let info = stage.info("does");
    let shown = info.to_string();
    for part in ["on_command", "at the bottom", "does.lua:7: in upvalue 'deep'", "does.lua:12: in function"] {
        assert!(shown.contains(part), "`{part}` is missing in {info:#}");
    }
    for part in ["/tmp", "/home", "src/", ".rs:", "prelude", stage.jarvis.setup().path().to_str().unwrap()] {
        assert!(!shown.contains(part), "`{part}` is in {info:#}");
    }
    stage.unharmed();
}

/// Each kind of failure is counted by itself.
#[test]
fn failures_are_counted_by_their_reason() {
    let mut stage = stage();
    for what in ["fail", "loop", "wrong", "bomb", "fine", "hang"] {
        stage.does(what);
    }
    let health = stage.info("does")["health"].take();
    assert_json(&health, &json!({ "calls": 6, "errors": 5, "timeouts": 2 }));
    let good = stage.jarvis.ask("bridge/request/health", "")["data"]["plugins"]["good"].take();
    assert_json(&good, &json!({ "errors": 0, "timeouts": 0 }));
    stage.unharmed();
}

/// A worker that ends by itself, as the kernel ends one: what it did is lost, what waits is not.
#[test]
fn a_worker_that_is_shot_in_the_middle_of_a_call() {
    let waits = "
-- @commands wait, quick
function on_command(cmd)
    if cmd.name == 'quick' then return { n = jarvis.state.get('n', 0) } end
    if cmd.name == 'wait' then jarvis.state.set('n', 1) jarvis.sleep(5) return {} end
end
";
    let mut stage = Stage::of(Setup::new(&Broker::Embedded).plugin("waits", waits).plugin("good", GOOD));
    let before = workers_of(&stage.jarvis);
    stage.jarvis.publish("jarvis/command/request/wait", "");
    stage.jarvis.publish("jarvis/command/request/quick", "");
    stage.ask_good();
    for worker in before {
        let id = rustix::process::Pid::from_raw(worker.cast_signed()).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::ABORT).unwrap();
    }
    let answer = stage.jarvis.expect("jarvis/command/response/wait", json!({ "status": "error" }));
    assert!(["hook_error", "memory_limit"].contains(&answer["code"].as_str().unwrap()), "{answer:#}");
    assert!(answer["error"].as_str().unwrap().contains("`waits`"), "{answer:#}");
    let quick = stage.jarvis.next("jarvis/command/response/quick").json();
    assert_json(&quick, &json!({ "status": "ok", "data": { "n": 0 } }));
    stage.jarvis.log.expect("a plugin has a fresh worker plugin=good");
    // The good one was shot, too: it has nothing but its state.
    assert_json(&stage.jarvis.run("count", json!({})), &json!({ "calls": 1, "kept": 2 }));
}
