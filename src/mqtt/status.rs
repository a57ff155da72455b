//! What the room says about its connections.

use rumqttc::v5::mqttbytes::v5::ConnAck;

use crate::model::Filter;

/// A connection's state and what is noteworthy about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Whether it stands.
    pub state: State,
    /// How often it has been established.
    pub connects: u64,
    /// Subscriptions and their ends that the broker has not answered yet.
    pub pending: usize,
    /// What the broker does not let us subscribe to.
    pub refused: Vec<RefusedSubscription>,
}

/// Whether a connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It does not; the next attempt comes by itself.
    Connecting {
        /// Why the last attempt failed or the last connection ended, for a person.
        error: Option<String>,
    },
    /// It does. For the session this does not say that every filter is subscribed: see [`Status::pending`].
    Connected {
        /// Whether the broker knew the session, with its subscriptions and unacknowledged messages.
        session_present: bool,
        /// What the broker takes.
        limits: BrokerLimits,
    },
    /// It was ended and will not come back.
    Stopped,
}

/// What a broker said in CONNACK that it takes (MQTT 5 §3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokerLimits {
    /// How many QoS 1 publishes it takes before it has acknowledged the first.
    pub receive_maximum: u16,
    /// The largest packet in bytes.
    pub max_packet_size: u32,
    /// The highest quality of service.
    pub max_qos: u8,
    /// Whether it keeps retained messages.
    pub retain: bool,
    /// Whether a subscription can bear an identifier; without, [`super::Inbound`] has none.
    pub subscription_ids: bool,
}

/// A subscription that the broker refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedSubscription {
    /// To what.
    pub filter: Filter,
    /// Why, in a few words.
    pub reason: String,
}

/// The largest packet the protocol has (MQTT 5 §2.1.4).
const LARGEST_PACKET: u32 = 268_435_455;

impl Status {
    pub(super) fn new() -> Self {
        Self { state: State::Connecting { error: None }, connects: 0, pending: 0, refused: Vec::new() }
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }
}

impl BrokerLimits {
    /// What the protocol allows where CONNACK says nothing.
    pub(super) const UNLIMITED: Self = Self {
        receive_maximum: u16::MAX,
        max_packet_size: LARGEST_PACKET,
        max_qos: 2,
        retain: true,
        subscription_ids: true,
    };

    pub(super) fn from_connack(ack: &ConnAck) -> Self {
        let all = Self::UNLIMITED;
        let Some(said) = &ack.properties else { return all };
        Self {
            receive_maximum: said.receive_max.unwrap_or(all.receive_maximum).max(1),
            max_packet_size: said.max_packet_size.unwrap_or(all.max_packet_size),
            max_qos: said.max_qos.unwrap_or(all.max_qos),
            retain: said.retain_available != Some(0),
            subscription_ids: said.subscription_identifiers_available != Some(0),
        }
    }
}
