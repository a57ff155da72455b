//! An ordinary MQTT client, as any other program would be: for the command line that asks a running bridge,
//! and for the demonstration. Nothing is kept and nothing is sent again.

use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::{
    AsyncClient, Event, EventLoop, Incoming, MqttOptions,
    mqttbytes::{QoS, v5::PublishProperties},
};
use tokio::time::{Instant, timeout_at};

use super::Config;
use crate::model::{Filter, Topic};

/// The largest packet that it takes, in bytes.
const MAX_PACKET: u32 = 16 * 1024 * 1024;

/// A connected client that listens to one filter.
pub struct Client {
    client: AsyncClient,
    events: EventLoop,
}

/// Why the broker could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or it broke.
    #[error("the broker at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system or the broker said.
        reason: String,
    },
    /// No answer in time.
    #[error("no bridge answers on `{0}`")]
    Silence(Topic),
}

/// A message that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Where.
    pub topic: String,
    /// What.
    pub payload: Bytes,
}

impl Client {
    /// Connects and subscribes.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], also when it takes longer than `patience`.
    pub async fn connect(config: &Config, listen: &Filter, patience: Duration) -> Result<Self, ClientError> {
        let name = format!("jarvis-bridge-cli-{}", uuid::Uuid::now_v7().simple());
        let mut options = MqttOptions::new(name, config.host.clone(), config.port);
        options.set_max_packet_size(Some(MAX_PACKET)).set_outgoing_inflight_upper_limit(16);
        let mut network = options.network_options();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        if let Some(username) = &config.username {
            options.set_credentials(username, config.password.clone().unwrap_or_default());
        }
        let (client, events) = AsyncClient::new(options, 16);
        let mut this = Self { client, events };
        let unreachable = |reason: String| ClientError::Unreachable { address: config.address(), reason };
        this.client
            .try_subscribe(listen.as_str(), QoS::AtLeastOnce)
            .map_err(|error| unreachable(error.to_string()))?;
        let deadline = Instant::now() + patience;
        loop {
            match timeout_at(deadline, this.events.poll()).await {
                Ok(Ok(Event::Incoming(Incoming::SubAck(_)))) => return Ok(this),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(unreachable(error.to_string())),
                Err(_) => return Err(unreachable("no answer".into())),
            }
        }
    }

    /// Publishes at QoS 1, with a response topic where one is given.
    ///
    /// # Errors
    /// Never in a client that [`Client::next`] is called on between publishes.
    pub fn publish(
        &self,
        topic: &Topic,
        payload: Vec<u8>,
        response_topic: Option<&Topic>,
    ) -> Result<(), ClientError> {
        let response_topic = response_topic.map(ToString::to_string);
        let properties = PublishProperties { response_topic, ..PublishProperties::default() };
        let sent = self.client.try_publish_with_properties(
            topic.as_str(),
            QoS::AtLeastOnce,
            false,
            payload,
            properties,
        );
        sent.map_err(|error| ClientError::Unreachable { address: "it".into(), reason: error.to_string() })
    }

    /// The next message, or nothing where none comes before the deadline or the connection breaks.
    pub async fn next(&mut self, deadline: Instant) -> Option<Heard> {
        loop {
            match timeout_at(deadline, self.events.poll()).await {
                Ok(Ok(Event::Incoming(Incoming::Publish(publish)))) => {
                    let topic = String::from_utf8_lossy(&publish.topic).into_owned();
                    return Some(Heard { topic, payload: publish.payload });
                }
                Ok(Ok(_)) => {}
                Ok(Err(_)) | Err(_) => return None,
            }
        }
    }
}

/// Asks once and waits for one answer.
///
/// # Errors
/// See [`ClientError`].
pub async fn ask(
    config: &Config,
    topic: &Topic,
    payload: Vec<u8>,
    answer_on: &Topic,
    patience: Duration,
) -> Result<Bytes, ClientError> {
    let silence = || ClientError::Silence(topic.clone());
    let listen = Filter::parse(answer_on.as_str()).map_err(|_| silence())?;
    let deadline = Instant::now() + patience;
    let mut client = Client::connect(config, &listen, patience).await?;
    client.publish(topic, payload, Some(answer_on))?;
    client.next(deadline).await.map(|heard| heard.payload).ok_or_else(silence)
}
