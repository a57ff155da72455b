//! What plugins subscribe to outlives the bridge: the broker keeps what comes while none runs, and whoever listened
//! gets it, and nobody else.

use std::{
    collections::BTreeSet,
    sync::{Mutex, mpsc},
    thread,
};

use rustix::process::Signal;

use crate::harness::{Bridge, Broker, Client, Mosquitto, PATIENCE, Setup, on_each_broker, serve};

on_each_broker!(overlapping_filters_hear_a_message_once_each);

/// Says what it hears of a filter on `heard/<id>`.
fn listener(id: &str, filter: &str) -> String {
    format!(
        r#"
-- @permissions mqtt.subscribe:{filter}, mqtt.publish:heard/#
function on_startup()
  jarvis.mqtt.subscribe("{filter}", function(m) jarvis.mqtt.publish("heard/{id}", m.payload) end, {{ qos = 1 }})
end
"#
    )
}

fn with(setup: Setup, id: &str, filter: &str) -> Setup {
    setup.plugin(id, &listener(id, filter))
}

/// Lets plugins wait in `on_startup` until the test says that they may go on.
struct Gate {
    begins: mpsc::Receiver<()>,
    go_on: mpsc::Sender<()>,
    port: u16,
}

impl Gate {
    fn new() -> Self {
        let (begins_tx, begins) = mpsc::channel();
        let (go_on, wait) = mpsc::channel();
        let wait = Mutex::new(wait);
        let port = serve(move |_| {
            begins_tx.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            ("200 OK", String::new(), String::new())
        });
        Self { begins, go_on, port }
    }

    /// A listener that waits before it subscribes.
    fn with(&self, setup: Setup, id: &str, filter: &str) -> Setup {
        let address = format!("127.0.0.1:{}", self.port);
        let wait = format!("on_startup() jarvis.http.get('http://{address}')\n");
        let code = listener(id, filter).replace("on_startup()\n", &wait);
        setup.plugin(id, &format!("-- @permissions http:{address}{code}"))
    }

    /// Comes back when a plugin waits.
    fn begun(&self) {
        self.begins.recv_timeout(PATIENCE).unwrap();
    }

    /// Lets one go on.
    fn open(&self) {
        self.go_on.send(()).unwrap();
    }
}

/// Publishes these numbers to `house/<number>`, and waits until the broker has them.
fn publish(client: &Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        client.publish(&format!("house/{number}"), number.to_string().as_str());
    }
    client.confirmed();
}

/// The plugin hears each number once, in whatever order.
#[track_caller]
fn expect_each(client: &Client, id: &str, numbers: std::ops::Range<usize>) {
    let next = |_| client.next(&format!("heard/{id}")).text().parse().unwrap();
    let mut heard: Vec<usize> = numbers.clone().map(next).collect();
    heard.sort_unstable();
    assert_eq!(heard, numbers.collect::<Vec<usize>>(), "{id}");
}

/// The plugin hears what comes now, and has heard nothing else before it.
#[track_caller]
fn expect_no_more(client: &Client, id: &str) {
    client.publish("house/last", "last");
    assert_eq!(client.next(&format!("heard/{id}")).text(), "last");
}

fn overlapping_filters_hear_a_message_once_each(broker: &Broker) {
    let filters = [("all", "house/#"), ("level", "house/+"), ("lamp", "house/1"), ("other", "garden/#")];
    let setup = filters.iter().fold(Setup::new(broker), |setup, (id, filter)| with(setup, id, filter));
    let jarvis = setup.start();
    publish(&jarvis, 1..4);
    expect_each(&jarvis, "all", 1..4);
    expect_each(&jarvis, "level", 1..4);
    expect_each(&jarvis, "lamp", 1..2);
    jarvis.publish("garden/1", "7");
    expect_each(&jarvis, "other", 7..8);
    for (id, _) in filters {
        assert!(jarvis.waiting(&format!("heard/{id}")).is_empty(), "{id}");
    }
}

#[test]
fn what_comes_while_the_bridge_is_stopped_is_heard_by_the_next_one() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let declared = r#"
-- @subscribe house/#
-- @permissions mqtt.publish:heard/#
function on_mqtt(m) jarvis.mqtt.publish("heard/declared", m.payload) end
"#;
    let setup = Setup::beside(&mosquitto).plugin("declared", declared);
    let jarvis = with(setup, "subscribed", "house/+").start();
    let (status, setup, client) = jarvis.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    publish(&client, 0..5);
    let _again = setup.start();
    expect_each(&client, "declared", 0..5);
    expect_each(&client, "subscribed", 0..5);
}

#[test]
fn what_comes_while_the_bridge_stops_is_heard_by_it_or_the_next_one() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let mut jarvis = with(Setup::beside(&mosquitto), "listens", "house/#").start();
    let mut heard = BTreeSet::new();
    for round in 0..3 {
        let sent = round * 300..(round + 1) * 300;
        let (before, after) = (sent.start..sent.start + 150, sent.start + 150..sent.end);
        let other = Client::v5(mosquitto.port);
        publish(&other, before);
        let ends = thread::spawn(move || jarvis.end(Signal::TERM));
        publish(&other, after);
        let (status, setup, _) = ends.join().unwrap();
        assert_eq!(status.code(), Some(0));
        jarvis = setup.start();
        while !heard.is_superset(&sent.clone().collect()) {
            heard.insert(other.next("heard/listens").text().parse::<usize>().unwrap());
        }
    }
}

#[test]
fn what_came_for_one_plugin_is_never_given_to_another() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let (setup, client) = with(Setup::beside(&mosquitto), "mine", "house/#").start().kill();
    publish(&client, 0..5);
    // Now another plugin is the first to subscribe.
    let gate = Gate::new();
    let setup = gate.with(with(setup, "other", "garden/#"), "mine", "house/#");
    let jarvis = setup.launch(&["run"]);
    jarvis.log.expect("plugin loaded plugin=other");
    gate.open();
    expect_each(&client, "mine", 0..5);
    expect_no_more(&client, "mine");
    assert!(client.waiting("heard/other").is_empty());
}

#[test]
fn what_came_for_a_plugin_is_heard_by_its_next_version_and_twice_by_nobody() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let setup = with(with(Setup::beside(&mosquitto), "changes", "house/#"), "stays", "house/+");
    let (setup, client) = setup.start().kill();
    publish(&client, 0..5);
    let _again = with(setup, "changes", "house/+/#").start();
    expect_each(&client, "changes", 0..5);
    expect_each(&client, "stays", 0..5);
    expect_no_more(&client, "stays");
}

#[test]
fn what_comes_while_a_plugin_starts_up_is_heard_when_it_has() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let gate = Gate::new();
    gate.open();
    let (setup, client) = gate.with(Setup::beside(&mosquitto), "slow", "house/#").start().kill();
    gate.begun();
    publish(&client, 0..5);
    let jarvis = setup.launch(&["run"]);
    jarvis.log.expect("connection=\"session\"");
    gate.begun();
    // More than the bridge takes before it is ready.
    publish(&client, 5..500);
    assert!(client.waiting("heard/slow").is_empty(), "it has not started yet");
    gate.open();
    expect_each(&client, "slow", 0..500);
    assert_eq!(jarvis.end(Signal::TERM).code(), Some(0));
}

#[test]
fn what_no_plugin_wants_any_more_is_unsubscribed_once_all_have_started() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let received = |jarvis: &Bridge| {
        jarvis.settle();
        jarvis.ask("bridge/request/health", "")["data"]["mqtt"]["received"].as_u64().unwrap()
    };
    let jarvis = with(with(Setup::beside(&mosquitto), "goes", "house/#"), "stays", "garden/#").start();
    let (setup, _client) = jarvis.kill();
    std::fs::remove_file(setup.plugins().join("goes.lua")).unwrap();
    let jarvis = setup.start();
    // The broker has been told by now, and need not have heard it. Asking takes two messages.
    let quiet = || {
        let before = received(&jarvis);
        publish(&jarvis, 0..5);
        received(&jarvis) == before + 2
    };
    assert!((0..20).any(|_| quiet()));
}
