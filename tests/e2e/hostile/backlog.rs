//! Ten thousand messages at once, each of which causes an event: what senders set the pace of is never refused.

use std::time::{Duration, Instant};

use serde_json::json;

use super::stage::GOOD;
use crate::harness::{Bridge, Broker, Client, Setup};

const MESSAGES: usize = 10_000;
/// So many are looked for before what else came is thrown away.
const BATCH: usize = 500;

const TELLS: &str = "
-- @commands tell
function on_command(cmd)
    jarvis.events.emit('told', { n = cmd.args.n })
    return { n = cmd.args.n }
end
";
const HEARS: &str = "
-- @commands heard
local heard = 0
jarvis.events.on('told', function() heard = heard + 1 end)
function on_command() return { heard = heard } end
";

fn setup(broker: &Broker) -> Setup {
    Setup::new(broker).plugin("good", GOOD).plugin("tells", TELLS).plugin("hears", HEARS)
}

/// Every message has its answer and its event, in order.
fn drains(jarvis: &Bridge, listener: &Client) {
    for n in 0..MESSAGES {
        let answer = listener.next("jarvis/command/response/tell").json();
        assert_eq!((&answer["status"], &answer["data"]["n"]), (&json!("ok"), &json!(n)), "{answer:#}");
        let event = listener.next("jarvis/event/tells/told").json();
        assert_eq!(event["data"]["n"], n, "{event:#}");
        if n % BATCH == 0 {
            // Looking for the next one goes through all that nobody takes.
            drop(listener.waiting("jarvis/command/request/tell"));
            drop(jarvis.waiting("jarvis/command/request/tell"));
        }
    }
    // A call may overtake events that wait.
    let deadline = Instant::now() + Duration::from_secs(60);
    while jarvis.run("heard", json!({}))["heard"] != MESSAGES {
        assert!(Instant::now() < deadline, "events are missing");
    }
    assert_eq!(jarvis.run("count", json!({}))["calls"], 1);
    let log = jarvis.log.text();
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

fn send_all(client: &Client) {
    for n in 0..MESSAGES {
        client.publish("jarvis/command/request/tell", json!({ "n": n }));
    }
}

#[test]
fn a_burst_drains_without_a_refusal() {
    let jarvis = setup(&Broker::Embedded).start();
    let sender = Client::v5(jarvis.port);
    send_all(&sender);
    drains(&jarvis, &sender);
}

/// The messages wait at the broker while the bridge is away.
#[test]
fn a_backlog_drains_without_a_refusal() {
    let Some(broker) = Broker::mosquitto() else { return };
    let jarvis = setup(&broker).start();
    let port = jarvis.port;
    let (status, setup, _) = jarvis.end(rustix::process::Signal::TERM);
    assert_eq!(status.code(), Some(0));
    let sender = Client::v5(port);
    send_all(&sender);
    sender.confirmed();
    drains(&setup.start(), &sender);
}
