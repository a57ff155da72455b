//! An MQTT client as any other program has one, of version 5 or 3.1.1, that listens to everything.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::Value;

use super::{PATIENCE, assert_json, json::difference};

/// The largest packet these clients send and take.
const MAX_PACKET: usize = 16 * 1024 * 1024;
/// Messages and acknowledgements that may wait for the connection.
const QUEUE: usize = 4_096;

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// A connected client.
pub(crate) struct Client {
    sender: Sender,
    inbox: Inbox,
}

enum Sender {
    V5(rumqttc::v5::Client),
    V3(rumqttc::Client),
}

/// A message that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    /// None of them with MQTT 3.1.1.
    pub(crate) properties: PublishProperties,
}

/// A message to be published.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) properties: PublishProperties,
}

/// What can be a payload.
pub(crate) trait Payload {
    fn bytes(self) -> Vec<u8>;
}

impl Payload for Value {
    fn bytes(self) -> Vec<u8> {
        self.to_string().into_bytes()
    }
}

impl Payload for &str {
    fn bytes(self) -> Vec<u8> {
        self.as_bytes().to_vec()
    }
}

impl Payload for Vec<u8> {
    fn bytes(self) -> Vec<u8> {
        self
    }
}

impl Publish {
    /// At QoS 1, not retained, without properties.
    pub(crate) fn new(topic: &str, payload: impl Payload) -> Self {
        let (topic, payload) = (topic.to_owned(), payload.bytes());
        Self { topic, payload, qos: 1, retain: false, properties: PublishProperties::default() }
    }
}

impl Message {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|error| panic!("{error} in `{}` on {}", self.show(), self.topic))
    }

    /// The payload for a person.
    fn show(&self) -> String {
        String::from_utf8_lossy(&self.payload).chars().take(2_000).collect()
    }
}

impl Client {
    /// A client of MQTT 5; comes back when it has subscribed to everything.
    pub(crate) fn v5(port: u16) -> Self {
        Self::connect_v5(rumqttc::v5::MqttOptions::new(fresh_name(), "127.0.0.1", port))
    }

    /// The same with an account whose password is its name.
    pub(crate) fn account(port: u16, name: &str) -> Self {
        let mut options = rumqttc::v5::MqttOptions::new(fresh_name(), "127.0.0.1", port);
        options.set_credentials(name, name);
        Self::connect_v5(options)
    }

    fn connect_v5(mut options: rumqttc::v5::MqttOptions) -> Self {
        use rumqttc::v5::{Event, Incoming, mqttbytes::QoS};
        options.set_max_packet_size(Some(u32::try_from(MAX_PACKET).unwrap()));
        options.set_outgoing_inflight_upper_limit(1_000).set_network_options(no_delay());
        let (client, mut connection) = rumqttc::v5::Client::new(options, QUEUE);
        client.subscribe("#", QoS::AtLeastOnce).unwrap();
        let inbox = Inbox::default();
        let into = inbox.clone();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Incoming::SubAck(_))) => into.change(|heard| heard.listening = true),
                    Ok(Event::Incoming(Incoming::Publish(publish))) => into.take(Message {
                        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
                        payload: publish.payload.to_vec(),
                        qos: publish.qos as u8,
                        retain: publish.retain,
                        properties: publish.properties.unwrap_or_default(),
                    }),
                    Ok(Event::Incoming(Incoming::PubAck(_))) => into.change(|heard| heard.confirmed += 1),
                    Ok(_) => {}
                    Err(error) => return into.change(|heard| heard.ended = Some(error.to_string())),
                }
            }
        });
        inbox.listening();
        Self { sender: Sender::V5(client), inbox }
    }

    /// A client of MQTT 3.1.1; comes back when it has subscribed to everything.
    pub(crate) fn v3(port: u16) -> Self {
        use rumqttc::{Event, Incoming, MqttOptions, QoS};
        let mut options = MqttOptions::new(fresh_name(), "127.0.0.1", port);
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        let (client, mut connection) = rumqttc::Client::new(options, QUEUE);
        connection.eventloop.set_network_options(no_delay());
        client.subscribe("#", QoS::AtLeastOnce).unwrap();
        let inbox = Inbox::default();
        let into = inbox.clone();
        thread::spawn(move || {
            for event in connection.iter() {
                match event {
                    Ok(Event::Incoming(Incoming::SubAck(_))) => into.change(|heard| heard.listening = true),
                    Ok(Event::Incoming(Incoming::Publish(publish))) => into.take(Message {
                        topic: publish.topic,
                        payload: publish.payload.to_vec(),
                        qos: publish.qos as u8,
                        retain: publish.retain,
                        properties: PublishProperties::default(),
                    }),
                    Ok(Event::Incoming(Incoming::PubAck(_))) => into.change(|heard| heard.confirmed += 1),
                    Ok(_) => {}
                    Err(error) => return into.change(|heard| heard.ended = Some(error.to_string())),
                }
            }
        });
        inbox.listening();
        Self { sender: Sender::V3(client), inbox }
    }

    /// Publishes at QoS 1.
    pub(crate) fn publish(&self, topic: &str, payload: impl Payload) {
        self.send(Publish::new(topic, payload));
    }

    /// Publishes as it says; MQTT 3.1.1 has no properties.
    pub(crate) fn send(&self, publish: Publish) {
        let Publish { topic, payload, qos, retain, properties } = publish;
        if qos == 1 {
            self.inbox.change(|heard| heard.sent += 1);
        }
        match &self.sender {
            Sender::V5(client) => {
                let qos = rumqttc::v5::mqttbytes::qos(qos).unwrap();
                client.publish_with_properties(topic, qos, retain, payload, properties).unwrap();
            }
            Sender::V3(client) => client.publish(topic, rumqttc::qos(qos).unwrap(), retain, payload).unwrap(),
        }
    }

    /// Waits until the broker has confirmed or refused everything that was sent at QoS 1.
    pub(crate) fn confirmed(&self) {
        let all = self.inbox.wait(PATIENCE, |heard| (heard.confirmed == heard.sent).then_some(()));
        assert!(all.is_some(), "the broker does not confirm what it got");
    }

    /// Publishes to `jarvis/<path>` with a response topic of its own, and gives the envelope.
    #[track_caller]
    pub(crate) fn ask(&self, path: &str, payload: impl Payload) -> Value {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let topic = format!("jarvis/reply/ask/{number}");
        let mut publish = Publish::new(&format!("jarvis/{path}"), payload);
        publish.properties.response_topic = Some(topic.clone());
        publish.properties.correlation_data = Some(number.to_string().into());
        self.send(publish);
        let answer = self.next(&topic);
        assert_eq!(answer.properties.correlation_data, Some(number.to_string().into()));
        answer.json()
    }

    /// Asks, and holds the envelope against what is expected of it; see [`assert_json`].
    #[track_caller]
    pub(crate) fn check(&self, path: &str, payload: impl Payload, expected: Value) -> Value {
        let answer = self.ask(path, payload);
        assert_json(&answer, &expected);
        answer
    }

    /// Runs a command and gives its result, which must be there.
    #[track_caller]
    pub(crate) fn run(&self, name: &str, args: Value) -> Value {
        let mut answer = self.ask(&format!("command/request/{name}"), args);
        assert_eq!(answer["status"], "ok", "{answer:#}");
        answer["data"].take()
    }

    /// The next message on a topic that nobody has taken yet; waits for it.
    #[track_caller]
    pub(crate) fn next(&self, topic: &str) -> Message {
        self.inbox
            .find(PATIENCE, |message| message.topic == topic)
            .unwrap_or_else(|| panic!("nothing comes on `{topic}`; else there is\n{}", self.inbox.show()))
    }

    /// The same where nothing may come either, before `patience` ends.
    pub(crate) fn next_within(&self, patience: Duration, topic: &str) -> Option<Message> {
        self.inbox.find(patience, |message| message.topic == topic)
    }

    /// A message on a topic that has all this; others on that topic are passed over. See [`assert_json`].
    #[track_caller]
    pub(crate) fn expect(&self, topic: &str, expected: Value) -> Value {
        let is_it = |message: &Message| {
            let value = serde_json::from_slice::<Value>(&message.payload);
            message.topic == topic && value.is_ok_and(|value| difference(&value, &expected).is_none())
        };
        let found = self.inbox.find(PATIENCE, is_it).unwrap_or_else(|| {
            panic!("no {expected} comes on `{topic}`; else there is\n{}", self.inbox.show())
        });
        found.json()
    }

    /// Asks until it is answered: what is published before a bridge has subscribed reaches nobody.
    #[track_caller]
    pub(crate) fn answered(&self, ask: impl Fn(), topic: &str) -> Message {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            ask();
            if let Some(answer) = self.next_within(Duration::from_millis(300), topic) {
                return answer;
            }
        }
        panic!("no bridge answers on `{topic}`; else there is\n{}", self.inbox.show());
    }

    /// Whatever came so far on a topic and nobody has taken yet.
    pub(crate) fn waiting(&self, topic: &str) -> Vec<Message> {
        let patience = Duration::ZERO;
        std::iter::from_fn(|| self.next_within(patience, topic)).collect()
    }

    /// Everything that came so far and nobody has taken yet.
    pub(crate) fn all_waiting(&self) -> Vec<Message> {
        std::iter::from_fn(|| self.inbox.find(Duration::ZERO, |_| true)).collect()
    }

    /// Waits until all is out that was on its way: the bridge answers in the order it publishes.
    #[track_caller]
    pub(crate) fn settle(&self) {
        assert_eq!(self.ask("bridge/request/info", "")["status"], "ok");
    }

    /// The same for a client that has no properties.
    #[track_caller]
    pub(crate) fn settle_v3(&self) {
        let topic = format!("jarvis/reply/settle/{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.publish("jarvis/bridge/request/info", serde_json::json!({ "reply_to": topic }));
        self.next(&topic);
    }
}

/// What arrived and was not yet taken. Cheap to clone.
#[derive(Clone, Default)]
struct Inbox(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Default)]
struct Heard {
    messages: Vec<Message>,
    listening: bool,
    /// QoS 1 messages sent, and those of them that the broker has confirmed or refused.
    sent: u64,
    confirmed: u64,
    ended: Option<String>,
}

impl Inbox {
    fn change(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    fn take(&self, message: Message) {
        self.change(|heard| heard.messages.push(message));
    }

    fn listening(&self) {
        let found = self.wait(PATIENCE, |heard| heard.listening.then_some(()));
        assert!(found.is_some(), "a client cannot subscribe");
    }

    fn find(&self, patience: Duration, is_it: impl Fn(&Message) -> bool) -> Option<Message> {
        self.wait(patience, |heard| {
            let index = heard.messages.iter().position(&is_it)?;
            Some(heard.messages.remove(index))
        })
    }

    fn wait<T>(&self, patience: Duration, mut find: impl FnMut(&mut Heard) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + patience;
        let mut heard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&mut heard) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || heard.ended.is_some() {
                return None;
            }
            heard = self.0.1.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All that waits, for a person.
    fn show(&self) -> String {
        let heard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = heard.messages.iter().map(|message| format!("  {} {}", message.topic, message.show()));
        let mut lines: Vec<String> = lines.collect();
        lines.extend(heard.ended.iter().map(|error| format!("  and the connection ended: {error}")));
        lines.join("\n")
    }
}

fn fresh_name() -> String {
    format!("test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

fn no_delay() -> rumqttc::NetworkOptions {
    let mut network = rumqttc::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network
}
