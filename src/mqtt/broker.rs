//! The embedded broker, for a bridge without one: on a thread of its own, in memory, for this machine only.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::mpsc,
    thread,
    time::Duration,
};

use mqtt5::broker::{
    BrokerConfig, MqttBroker,
    config::{AuthConfig, RateLimitConfig, StorageBackend, StorageConfig},
};
use tokio::{runtime::Builder, sync::oneshot};

/// The largest packet it takes, in bytes: more than the bridge does, so that whatever a client may send to
/// the bridge gets an answer.
const MAX_PACKET: usize = 16 * 1024 * 1024;
/// What it keeps for a client that is away; beyond, the oldest go.
const QUEUED_MESSAGES: usize = 1_000_000;
const QUEUED_BYTES: usize = 256 * 1024 * 1024;
/// How long its clients get to hear that it ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// A running broker; dropping it ends it.
///
/// It speaks MQTT 3.1.1 and 5 on one port, lets anybody on this machine in, and keeps what it knows in memory
/// only. Its log lines have the targets `mqtt5` and `mqtt5_protocol`, one at `info` for every client.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: mpsc::Receiver<()>,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Another program listens there, most likely a broker.
    #[error(
        "{0} is taken, perhaps by another broker: set `mqtt.url = \"mqtt://{0}\"` to use that one, or another `broker.listen`"
    )]
    PortTaken(SocketAddr),
    /// An address that other machines can reach.
    #[error(
        "the embedded broker takes no password, so it listens only on this machine and not on {0}: set `broker.listen` to 127.0.0.1, or run a broker of your own and set `mqtt.url`"
    )]
    NotLoopback(SocketAddr),
    /// The operating system does not let it listen.
    #[error("the embedded broker cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// Anything else.
    #[error("the embedded broker does not start: {0}")]
    Start(String),
}

/// Starts a broker and returns when it listens. Port 0 takes a free port.
///
/// # Errors
/// When the address is not a loopback address, is taken, or cannot be listened on.
pub fn start(listen: SocketAddr) -> Result<Broker, BrokerError> {
    if !listen.ip().is_loopback() {
        return Err(BrokerError::NotLoopback(listen));
    }
    // mqtt5 tells why it cannot listen only in words.
    probe(listen)?;
    let (started_tx, started_rx) = mpsc::channel();
    let (stop_tx, stop_rx) = oneshot::channel();
    let (ended_tx, ended_rx) = mpsc::channel();
    let run = move || {
        run(listen, &started_tx, stop_rx);
        // Dropping it says so too, when the thread panics.
        drop(ended_tx);
    };
    thread::Builder::new()
        .name("mqtt-broker".to_owned())
        .spawn(run)
        .map_err(|error| BrokerError::Start(error.to_string()))?;
    match started_rx.recv() {
        Ok(Ok(address)) => Ok(Broker { address, stop: Some(stop_tx), ended: ended_rx }),
        Ok(Err(reason)) => Err(probe(listen).err().unwrap_or(BrokerError::Start(reason))),
        Err(mpsc::RecvError) => Err(BrokerError::Start("its thread ended".to_owned())),
    }
}

impl Broker {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
        // The port is free when this returns. A broker that hangs is left to the end of the process.
        self.ended.recv_timeout(2 * GOODBYE).ok();
    }
}

fn probe(listen: SocketAddr) -> Result<(), BrokerError> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(BrokerError::PortTaken(listen)),
        Err(error) => Err(BrokerError::Listen(listen, error)),
    }
}

fn config(listen: SocketAddr) -> BrokerConfig {
    let storage = StorageConfig {
        backend: StorageBackend::Memory,
        max_queued_messages_per_client: QUEUED_MESSAGES,
        max_queued_bytes_per_client: QUEUED_BYTES,
        ..StorageConfig::default()
    };
    // Nobody can fail to sign in, so nobody has to be slowed down for it.
    let auth = AuthConfig {
        allow_anonymous: true,
        rate_limit: RateLimitConfig { enabled: false, ..RateLimitConfig::default() },
        ..AuthConfig::default()
    };
    // Retained messages, subscriptions and rates are unlimited by default.
    BrokerConfig::default()
        .with_bind_address(listen)
        .with_max_packet_size(MAX_PACKET)
        .with_max_outbound_inflight(u16::MAX)
        .with_sys_topics_enabled(false)
        .with_storage(storage)
        .with_auth(auth)
}

/// The thread: builds the broker, says where it listens, and runs it until told to stop.
fn run(listen: SocketAddr, started: &mpsc::Sender<Result<SocketAddr, String>>, stop: oneshot::Receiver<()>) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return started.send(Err(error.to_string())).unwrap_or_default(),
    };
    runtime.block_on(async {
        let mut broker = match MqttBroker::with_config(config(listen)).await {
            Ok(broker) => broker,
            Err(error) => return started.send(Err(error.to_string())).unwrap_or_default(),
        };
        let (mut ready, shutdown) = (broker.ready_receiver(), broker.shutdown_handle());
        let address = broker.local_addr().unwrap_or(listen);
        let running = tokio::spawn(async move { broker.run().await.map_err(|error| error.to_string()) });
        if ready.wait_for(|ready| *ready).await.is_err() {
            let reason = running.await.unwrap_or_else(|error| Err(error.to_string()));
            started.send(reason.map(|()| listen)).ok();
            return;
        }
        started.send(Ok(address)).ok();
        // An error means that the handle is gone, which is the same.
        stop.await.ok();
        shutdown.shutdown();
        tokio::time::timeout(GOODBYE, running).await.ok();
    });
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{BrokerError, start};

    #[test]
    fn a_taken_port_is_told_apart() {
        let first = start("127.0.0.1:0".parse().unwrap()).unwrap();
        let error = start(first.address()).unwrap_err();
        assert!(matches!(error, BrokerError::PortTaken(address) if address == first.address()), "{error}");
    }

    #[test]
    fn the_port_is_free_after_the_drop() {
        let broker = start("[::1]:0".parse().unwrap()).unwrap();
        let address = broker.address();
        drop(broker);
        TcpListener::bind(address).unwrap();
    }

    #[test]
    fn other_machines_are_kept_out() {
        for address in ["0.0.0.0:0", "[::]:0", "192.168.1.2:1883"] {
            let error = start(address.parse().unwrap()).unwrap_err();
            assert!(matches!(error, BrokerError::NotLoopback(_)), "{error}");
        }
    }
}
