//! A message that takes long holds up nobody, and is not lost when the bridge is killed meanwhile.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Bridge, Broker, assert_json, on_each_broker};

on_each_broker!(
    a_slow_hook_holds_up_nobody,
    a_slow_subscriber_holds_up_nobody,
    what_is_parked_is_answered_after_a_kill,
);

/// More messages than any broker sends ahead of their acknowledgement.
const MANY: usize = 300;

/// Waits for some seconds of each message that it gets.
const SLOW: (&str, &str) = (
    "slow",
    r#"
-- @commands wait
-- @subscribe house/#
local function wait(times) for _ = 1, times do jarvis.sleep(2) end end
function on_command(cmd) wait(cmd.args.times or 25) return { n = jarvis.state.incr("n"), tag = cmd.args.tag } end
function on_mqtt(m) wait(m.json) end
"#,
);
const QUICK: (&str, &str) =
    ("quick", "-- @commands quick\nfunction on_command() return { quick = true } end");

fn parked(jarvis: &Bridge) -> u64 {
    jarvis.ask("bridge/request/health", "")["data"]["parked"].as_u64().unwrap()
}

/// Asks until that many messages are parked.
fn await_parked(jarvis: &Bridge, count: u64) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let parked = parked(jarvis);
        if parked == count {
            return;
        }
        assert!(Instant::now() < deadline, "{parked} messages are parked, not {count}");
    }
}

fn a_slow_hook_holds_up_nobody(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[SLOW, QUICK]);
    for _ in 0..5 {
        jarvis.publish("jarvis/command/request/wait", "");
    }
    for _ in 0..MANY {
        assert_eq!(jarvis.run("quick", json!({})), json!({ "quick": true }));
    }
    assert!(jarvis.waiting("jarvis/command/response/wait").is_empty(), "the slow ones still run");
    assert_eq!(parked(&jarvis), 5);
}

fn a_slow_subscriber_holds_up_nobody(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[SLOW, QUICK]);
    for n in 0..3 {
        jarvis.publish(&format!("house/{n}"), "25");
    }
    await_parked(&jarvis, 3);
    for _ in 0..MANY {
        assert_eq!(jarvis.run("quick", json!({})), json!({ "quick": true }));
    }
    assert_eq!(parked(&jarvis), 3, "the slow ones still run");
}

fn what_is_parked_is_answered_after_a_kill(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[SLOW, QUICK]);
    jarvis.publish("house/lamp", "2");
    for tag in ["a", "b"] {
        let request = json!({ "id": tag, "name": "wait", "args": { "tag": tag, "times": 2 } });
        jarvis.publish("jarvis/command/request", request);
    }
    await_parked(&jarvis, 3);
    let (setup, _client) = jarvis.kill();
    let jarvis = setup.start();
    assert_eq!(parked(&jarvis), 3, "all of it is there again");
    for (n, tag) in [(1, "a"), (2, "b")] {
        let expected = json!({ "id": tag, "status": "ok", "data": { "n": n, "tag": tag } });
        assert_json(&jarvis.next("jarvis/command/response").json(), &expected);
    }
    await_parked(&jarvis, 0);
    assert_eq!(parked(&jarvis.restart()), 0, "what was answered is forgotten");
}
