//! Brokers to test against and an independent client. Waits for events, never for time to pass.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rumqttc::v5::{
    AsyncClient, Event, EventLoop, Incoming, MqttOptions,
    mqttbytes::{QoS, v5::Publish},
};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::{
    model::{Filter, Topic},
    mqtt::{
        Config, Inbound, Inbox, Outgoing, RetainHandling, Session, Status, Subscription,
        broker::{self, Broker},
    },
};

/// Upper bound for anything that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const MOSQUITTO: &str = "/usr/sbin/mosquitto";

/// A broker on a free port of this machine; dropping it ends it.
pub(super) enum TestBroker {
    Embedded(Broker),
    Mosquitto(Mosquitto),
}

pub(super) struct Mosquitto {
    process: Child,
    address: SocketAddr,
    settings: String,
    /// Its configuration and what that names.
    directory: TempDir,
}

/// The embedded broker and, where it is installed, a Mosquitto as it comes.
pub(super) fn brokers() -> Vec<TestBroker> {
    let embedded = TestBroker::embedded(free_address());
    std::iter::once(embedded).chain(mosquitto("allow_anonymous true\n", |_| {})).collect()
}

/// Mosquitto with these settings, in which `DIR` is a directory that `prepare` fills.
pub(super) fn mosquitto(settings: &str, prepare: impl FnOnce(&Path)) -> Option<TestBroker> {
    if !Path::new(MOSQUITTO).exists() {
        assert!(std::env::var_os("CI").is_none(), "CI must have {MOSQUITTO}");
        eprintln!("not tested against Mosquitto: {MOSQUITTO} is not installed");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    prepare(directory.path());
    let address = free_address();
    let settings = settings.replace("DIR", directory.path().to_str().unwrap());
    let process = run_mosquitto(&directory, address, &settings);
    Some(TestBroker::Mosquitto(Mosquitto { process, address, settings, directory }))
}

/// An address that nobody has. Below the ports of outgoing connections: one of those could take it while a
/// broker restarts.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 400).unwrap() * 50;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

fn run_mosquitto(directory: &TempDir, address: SocketAddr, settings: &str) -> Child {
    let path = directory.path().join("mosquitto.conf");
    let listener = format!("listener {} {}\n", address.port(), address.ip());
    fs::write(&path, format!("user root\nlog_dest stderr\n{listener}{settings}")).unwrap();
    let mut process = Command::new(MOSQUITTO).arg("-c").arg(path).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(process.stderr.take().unwrap()).lines();
    let (running_tx, running_rx) = mpsc::channel();
    // Reads to the end, or Mosquitto would wait for room in the pipe.
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            if line.ends_with(" running") {
                running_tx.send(()).ok();
            }
            eprintln!("mosquitto: {line}");
        }
    });
    running_rx.recv_timeout(PATIENCE).expect("Mosquitto did not start");
    process
}

impl TestBroker {
    fn embedded(listen: SocketAddr) -> Self {
        Self::Embedded(broker::start(listen).unwrap())
    }

    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Embedded(broker) => broker.address(),
            Self::Mosquitto(mosquitto) => mosquitto.address,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "the embedded broker",
            Self::Mosquitto(_) => "Mosquitto",
        }
    }

    /// Ends it and starts it on the same port.
    pub(super) fn restart(self) -> Self {
        let address = self.address();
        match self {
            Self::Embedded(broker) => {
                drop(broker);
                Self::embedded(address)
            }
            Self::Mosquitto(mut mosquitto) => {
                mosquitto.end();
                mosquitto.process = run_mosquitto(&mosquitto.directory, address, &mosquitto.settings);
                Self::Mosquitto(mosquitto)
            }
        }
    }

    pub(super) fn config(&self, client_id: &str) -> Config {
        config(self.address(), client_id)
    }
}

impl Mosquitto {
    fn end(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.end();
    }
}

pub(super) fn config(address: SocketAddr, client_id: &str) -> Config {
    Config {
        host: address.ip().to_string(),
        port: address.port(),
        username: None,
        password: None,
        client_id: client_id.to_owned(),
        state_topic: topic("jarvis/bridge/state"),
        keep_alive: Duration::from_secs(30),
        session_expiry: Duration::from_secs(600),
        receive_maximum: 100,
        max_packet_size: 8 * 1024 * 1024,
    }
}

pub(super) fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

pub(super) fn filter(text: &str) -> Filter {
    Filter::parse(text).unwrap()
}

pub(super) fn outgoing(text: &str, payload: &str) -> Outgoing {
    Outgoing::new(topic(text), payload.to_owned())
}

pub(super) fn subscription(text: &str, id: usize, qos: u8) -> Subscription {
    Subscription {
        filter: filter(text),
        id,
        qos,
        retain_handling: RetainHandling::Never,
        retain_as_published: true,
    }
}

/// Starts a session and waits until its filters are subscribed.
pub(super) async fn session(config: &Config, wanted: Vec<Subscription>) -> (Session, Inbox) {
    let (session, inbox) = Session::start(config, wanted, Vec::new());
    status(&mut session.status(), |status| status.is_connected() && status.pending == 0).await;
    (session, inbox)
}

/// Waits for a status.
pub(super) async fn status(status: &mut watch::Receiver<Status>, wanted: impl Fn(&Status) -> bool) -> Status {
    let found = within(status.wait_for(|status| wanted(status))).await;
    found.expect("the connection's task ended").clone()
}

/// Waits for the error that a status shows.
pub(super) async fn error(statuses: &mut watch::Receiver<Status>) -> String {
    let shows_error =
        |status: &Status| matches!(&status.state, crate::mqtt::State::Connecting { error: Some(_) });
    match status(statuses, shows_error).await.state {
        crate::mqtt::State::Connecting { error: Some(error) } => error,
        state => panic!("{state:?}"),
    }
}

/// The next message, which has to be there in the end.
pub(super) async fn receive(inbox: &mut Inbox) -> Inbound {
    within(inbox.recv()).await.expect("the session ended")
}

/// Fails a test that waits for what never comes.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it did not happen")
}

/// Waits for a condition that nothing announces.
pub(super) async fn eventually(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A client that has nothing to do with this room.
pub(super) struct Peer {
    client: AsyncClient,
    events: EventLoop,
}

impl Peer {
    pub(super) async fn connect(address: SocketAddr, client_id: &str) -> Self {
        let mut options = MqttOptions::new(client_id, address.ip().to_string(), address.port());
        options.set_max_packet_size(Some(16 * 1024 * 1024));
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, events) = AsyncClient::new(options, 1000);
        let mut peer = Self { client, events };
        peer.wait_for(|event| matches!(event, Incoming::ConnAck(_)).then_some(())).await;
        peer
    }

    pub(super) async fn subscribe(&mut self, filter: &str) {
        self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
        self.wait_for(|event| matches!(event, Incoming::SubAck(_)).then_some(())).await;
    }

    /// Publishes at QoS 1 or 2 and waits for the broker's answer, or at QoS 0 and waits for nothing.
    pub(super) async fn publish(&mut self, topic: &str, qos: QoS, retain: bool, payload: impl Into<Vec<u8>>) {
        self.client.try_publish(topic, qos, retain, payload.into()).unwrap();
        match qos {
            QoS::AtMostOnce => self.flush().await,
            QoS::AtLeastOnce => {
                self.wait_for(|event| matches!(event, Incoming::PubAck(_)).then_some(())).await
            }
            QoS::ExactlyOnce => {
                self.wait_for(|event| matches!(event, Incoming::PubComp(_)).then_some(())).await
            }
        }
    }

    pub(super) async fn receive(&mut self) -> Publish {
        self.wait_for(|event| match event {
            Incoming::Publish(publish) => Some(publish),
            _ => None,
        })
        .await
    }

    async fn flush(&mut self) {
        while within(self.events.poll()).await.unwrap() != Event::Outgoing(rumqttc::Outgoing::Publish(0)) {}
    }

    async fn wait_for<T>(&mut self, wanted: impl Fn(Incoming) -> Option<T>) -> T {
        loop {
            if let Event::Incoming(event) = within(self.events.poll()).await.unwrap()
                && let Some(found) = wanted(event)
            {
                return found;
            }
        }
    }
}
