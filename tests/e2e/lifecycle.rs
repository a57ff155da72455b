//! Start, stop, kill, and what becomes of messages meanwhile.

use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Bridge, Broker, Client, Mosquitto, Setup, free_port, on_each_broker};

on_each_broker!(a_signal_lets_what_runs_end, a_thousand_commands_get_a_thousand_answers_in_order,);

/// Says when it leaves; takes its time for `slow`.
const LEAVES: (&str, &str) = (
    "leaves",
    r#"
-- @commands slow, quick
-- @permissions mqtt.publish:door/#
function on_command(cmd)
  if cmd.name == "slow" then
    jarvis.mqtt.publish("door/slow", "begun", { now = true })
    jarvis.sleep(1)
  end
  return { response = cmd.name, runs = jarvis.state.incr(cmd.name), left = jarvis.state.get("left", 0) }
end
function on_shutdown() jarvis.state.incr("left") jarvis.mqtt.publish("door/left", "bye", { retain = true }) end
"#,
);

fn a_signal_lets_what_runs_end(broker: &Broker) {
    for signal in [Signal::TERM, Signal::INT] {
        let jarvis = Bridge::start(broker, &[LEAVES]);
        jarvis.publish("jarvis/command/request/slow", "");
        jarvis.next("door/slow");
        let (status, setup, client) = jarvis.end(signal);
        assert_eq!(status.code(), Some(0), "{signal:?}");
        if !broker.is_embedded() {
            client.expect("jarvis/command/response/slow", json!({ "status": "ok", "response": "slow" }));
        }
        // The embedded broker ends with the bridge, and what it had for others with it.
        if !broker.is_embedded() {
            assert_eq!(client.next("door/left").text(), "bye");
            client.expect("jarvis/bridge/state", json!({ "state": "offline" }));
        }
        // Both the slow call and the farewell are kept.
        let again = setup.start();
        let answer = again.run("slow", json!({}));
        assert_eq!((&answer["runs"], &answer["left"]), (&json!(2), &json!(1)), "{answer}");
    }
}

fn a_thousand_commands_get_a_thousand_answers_in_order(broker: &Broker) {
    let count = r#"
-- @commands count
function on_command(cmd) return { response = cmd.args.text, n = jarvis.state.incr("n") } end
"#;
    let jarvis = Bridge::start(broker, &[("count", count)]);
    for number in 1..=1000 {
        jarvis.publish("jarvis/command/request/count", number.to_string().as_str());
    }
    for number in 1..=1000 {
        let answer = jarvis.next("jarvis/command/response/count").json();
        let (text, n) = (&answer["response"], &answer["data"]["n"]);
        assert_eq!((text, n), (&json!(number.to_string()), &json!(number)), "{answer}");
    }
}

#[test]
fn a_message_whose_bridge_was_killed_is_answered_by_the_next_one() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let jarvis = Setup::beside(&mosquitto).plugin(LEAVES.0, LEAVES.1).start();
    jarvis.publish("jarvis/command/request/slow", "");
    jarvis.next("door/slow");
    let (setup, client) = jarvis.kill();
    assert!(client.waiting("jarvis/command/response/slow").is_empty());
    let _again = setup.start();
    // What the first run wrote never happened.
    client.expect("jarvis/command/response/slow", json!({ "status": "ok", "data": { "runs": 1 } }));
}

#[test]
fn a_killed_bridge_is_said_to_be_offline() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let jarvis = Setup::beside(&mosquitto).start();
    let (_setup, client) = jarvis.kill();
    // The will is delayed by 10 s, so that a quick restart does not show.
    client.expect("jarvis/bridge/state", json!({ "state": "offline" }));
}

#[test]
fn a_broker_that_goes_and_comes_back_finds_the_bridge_again() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let jarvis = Setup::beside(&mosquitto).plugin(LEAVES.0, LEAVES.1).start();
    let port = mosquitto.port;
    drop(mosquitto);
    jarvis.log.expect("no connection to the broker");
    let _mosquitto = Mosquitto::start_on(port).unwrap();
    let client = Client::v5(port);
    // It knows nothing any more: the bridge subscribes and announces itself anew.
    client.expect("jarvis/bridge/state", json!({ "state": "online" }));
    client.next("jarvis/bridge/plugin/leaves");
    client.answered(|| client.publish("jarvis/command/request/quick", ""), "jarvis/command/response/quick");
}

#[test]
fn a_broker_that_comes_late_is_waited_for() {
    let port = free_port();
    let setup = Setup::new(&Broker::Embedded).plugin(LEAVES.0, LEAVES.1);
    let jarvis = setup.launch(&["run", "--broker", &format!("mqtt://127.0.0.1:{port}")]);
    jarvis.log.expect("no connection to the broker");
    let Some(_mosquitto) = Mosquitto::start_on(port) else { return };
    let client = Client::v5(port);
    client.expect("jarvis/bridge/state", json!({ "state": "online" }));
    client.expect("jarvis/bridge/plugins", json!([{ "id": "leaves", "state": "ready" }]));
    client.answered(|| client.publish("jarvis/command/request/quick", ""), "jarvis/command/response/quick");
    assert_eq!(jarvis.end(Signal::TERM).code(), Some(0));
    client.expect("jarvis/bridge/state", json!({ "state": "offline" }));
}

#[test]
fn a_taken_port_names_the_setting_and_the_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Setup::new(&Broker::Embedded).set("BROKER__LISTEN", &address).call(&["run"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for words in
        [format!("{address} is taken"), format!("mqtt.url = \"mqtt://{address}\""), "broker.listen".into()]
    {
        assert!(error.contains(&words), "{error}");
    }
}

#[test]
fn two_bridges_do_not_share_a_data_directory() {
    let jarvis = Bridge::start(&Broker::Embedded, &[]);
    let output = jarvis.setup().call(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("another bridge runs with the data directory"), "{error}");
}

#[test]
fn what_waits_for_a_plugin_at_the_end_is_heard_by_the_next_bridge() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let listener = r#"
-- @subscribe in/#
-- @permissions mqtt.publish:out/#
function on_mqtt(m)
  jarvis.mqtt.publish("out/begun", m.payload, { now = true })
  jarvis.sleep(0.2)
  jarvis.mqtt.publish("out/done", m.payload)
end
"#;
    let jarvis = Setup::beside(&mosquitto).plugin("listener", listener).start();
    for number in 1..=20 {
        jarvis.publish("in/x", number.to_string().as_str());
    }
    jarvis.next("out/begun");
    let (status, setup, client) = jarvis.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    let _again = setup.start();
    let mut done: Vec<u32> = (1..=20).map(|_| client.next("out/done").text().parse().unwrap()).collect();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), 20, "each is done once, by one bridge or the other: {done:?}");
}
