//! How a plugin comes back when its worker has ended through no fault of its own.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, assert_json, on_each_broker, workers_of};

on_each_broker!(
    a_worker_that_is_taken_away_is_no_fault_of_its_plugin,
    messages_wait_for_a_worker_that_is_long_in_coming,
    a_health_check_that_is_tried_leaves_the_trial_to_the_next_call,
);

fn health(jarvis: &Bridge) -> Value {
    jarvis.ask("bridge/request/health", "")["data"]["plugins"]["offender"].take()
}

fn a_worker_that_is_taken_away_is_no_fault_of_its_plugin(broker: &Broker) {
    let code = r#"
-- @commands wait, count
-- @permissions mqtt.publish:out/#
function on_command(cmd)
  if cmd.name == "wait" then jarvis.mqtt.publish("out/begun", "", { now = true }) jarvis.sleep(5) end
  return { n = jarvis.state.incr("n") }
end
"#;
    let jarvis = Bridge::start(broker, &[("offender", code)]);
    let signal = |signal| {
        let worker = *workers_of(&jarvis).last().unwrap();
        kill_process(Pid::from_raw(worker.cast_signed()).unwrap(), signal).unwrap();
    };
    for n in 1..=2 {
        signal(Signal::STOP);
        jarvis.publish("jarvis/command/request/count", "");
        jarvis.settle();
        signal(Signal::KILL);
        let expected = json!({ "status": "ok", "data": { "n": n } });
        jarvis.expect("jarvis/command/response/count", expected);
    }
    for n in 3..=5 {
        jarvis.publish("jarvis/command/request/wait", "");
        jarvis.next("out/begun");
        signal(Signal::KILL);
        jarvis.expect("jarvis/command/response/wait", json!({ "code": "memory_limit" }));
        assert_eq!(jarvis.run("count", json!({})), json!({ "n": n }), "it is not switched off");
    }
    assert_json(&health(&jarvis), &json!({ "kills": 5, "errors_by_code": { "memory_limit": 3 } }));
}

/// Waits until a counter is there.
#[track_caller]
fn becomes(jarvis: &Bridge, counter: &str, count: u64) {
    let patience = Instant::now() + Duration::from_secs(20);
    while health(jarvis)[counter] != count {
        assert!(Instant::now() < patience, "{:#}", health(jarvis));
    }
}

/// The worker of the only plugin, once there is one.
fn living_worker(jarvis: &Bridge) -> Pid {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(worker) = workers_of(jarvis).last() {
            return Pid::from_raw(worker.cast_signed()).unwrap();
        }
        assert!(Instant::now() < patience, "there is no worker");
    }
}

fn messages_wait_for_a_worker_that_is_long_in_coming(broker: &Broker) {
    let code = r#"
-- @commands count
-- @subscribe house/#
-- @permissions mqtt.publish:out/#
function on_command() return {} end
function on_mqtt(m) jarvis.mqtt.publish("out/heard", m.payload) end
"#;
    let jarvis = Bridge::start(broker, &[("offender", code)]);
    for kills in 1..=6 {
        becomes(&jarvis, "restarts", kills - 1);
        kill_process(living_worker(&jarvis), Signal::KILL).unwrap();
        becomes(&jarvis, "kills", kills);
    }
    jarvis.check("command/request/count", "", json!({ "error": "~is being started again" }));
    for n in 0..5 {
        jarvis.publish("house/lamp", n.to_string().as_str());
    }
    jarvis.check("command/request/count", "", json!({ "error": "~is being started again" }));
    for n in 0..5 {
        assert_eq!(jarvis.next("out/heard").text(), n.to_string());
    }
    assert_json(&health(&jarvis), &json!({ "dropped": 0 }));
}

fn a_health_check_that_is_tried_leaves_the_trial_to_the_next_call(broker: &Broker) {
    let code = r#"
-- @commands bomb, count
function on_startup() jarvis.sleep(3) end
function health() return true end
function on_command(cmd)
  if cmd.name == "count" then return { n = 1 } end
  jarvis.sleep(2.5)
  local t = {} while true do t[#t + 1] = ("x"):rep(1000) .. #t end
end
"#;
    let setup = Setup::new(broker).plugin("offender", code).set("BRIDGE__HEALTH_INTERVAL", "2");
    let jarvis = setup.configuration("[breaker]\nfailures = 1\npause = 1\n").start();
    // Quick calls, so that the check is written ahead.
    (0..30).for_each(|_| drop(jarvis.run("count", json!({}))));
    jarvis.check("command/request/bomb", "", json!({ "code": "memory_limit" }));
    // A call that waited for the fresh worker would be tried after the check.
    becomes(&jarvis, "restarts", 1);
    let patience = Instant::now() + Duration::from_secs(20);
    while jarvis.ask("command/request/count", "")["status"] != "ok" {
        assert!(Instant::now() < patience, "{:#}", health(&jarvis));
    }
    assert_eq!(health(&jarvis)["breaker"], "closed");
}
