//! What both connections have in common when they are opened: the configuration and the client's options.

use std::{fmt, time::Duration};

use rumqttc::{
    NetworkOptions,
    v5::{
        MqttOptions,
        mqttbytes::{
            QoS,
            v5::{LastWill, LastWillProperties},
        },
    },
};

use crate::model::Topic;

/// The most messages that the outbox has unconfirmed at one time, and subscriptions that the session has
/// unanswered. rumqttc reserves a slot for each, 17 MB for the 65,535 that it would take by itself.
pub(super) const WINDOW: u16 = 100;
/// How long opening a connection may take, from the name's look-up to CONNACK.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The shortest keep-alive that rumqttc takes.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How long the broker keeps the outbox's session: longer than the will's delay, since the will goes out when
/// the session ends, and short, since there is nothing in it.
const OUTBOX_SESSION_EXPIRY: Duration = Duration::from_secs(60);
/// How long the broker waits before it says that the bridge is offline, in seconds.
const WILL_DELAY: u32 = 10;

/// How to reach the broker.
#[derive(Clone)]
pub struct Config {
    /// A name or address; IPv6 without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Nothing signs in without.
    pub username: Option<String>,
    /// Used only with a user name.
    pub password: Option<String>,
    /// The session's; the outbox adds `-out`.
    pub client_id: String,
    /// Where the outbox says whether the bridge is there: `<base>/bridge/state`.
    pub state_topic: Topic,
    /// Silence after which the broker is asked whether it is still there; at least 5 s.
    pub keep_alive: Duration,
    /// How long the broker keeps messages for a bridge that is away.
    pub session_expiry: Duration,
    /// How many QoS 1 messages may be unacknowledged; at least 1.
    pub receive_maximum: u16,
    /// The largest packet that the bridge takes, in bytes.
    pub max_packet_size: u32,
}

impl Config {
    /// The host and port for people.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.bracketed_host(), self.port)
    }

    pub(super) fn outbox_client_id(&self) -> String {
        format!("{}-out", self.client_id)
    }

    /// The receiving connection's options.
    pub(super) fn session_options(&self) -> MqttOptions {
        let mut options = self.options(self.client_id.clone(), self.session_expiry);
        options.set_receive_maximum(Some(self.receive_maximum.max(1)));
        options.set_manual_acks(true);
        options
    }

    /// The publishing connection's options.
    pub(super) fn outbox_options(&self) -> MqttOptions {
        let mut options = self.options(self.outbox_client_id(), OUTBOX_SESSION_EXPIRY);
        let properties = LastWillProperties {
            delay_interval: Some(WILL_DELAY),
            payload_format_indicator: None,
            message_expiry_interval: None,
            content_type: None,
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let will =
            LastWill::new(self.state_topic.as_str(), OFFLINE, QoS::AtLeastOnce, true, Some(properties));
        options.set_last_will(will);
        options
    }

    pub(super) fn options(&self, client_id: String, session_expiry: Duration) -> MqttOptions {
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        let mut options = MqttOptions::new(client_id, self.bracketed_host(), self.port);
        options.set_network_options(network);
        options.set_connection_timeout(CONNECT_TIMEOUT.as_secs());
        // The packet has 16 bits for the seconds.
        options.set_keep_alive(self.keep_alive.clamp(MIN_KEEP_ALIVE, Duration::from_secs(u16::MAX.into())));
        options.set_clean_start(false);
        options
            .set_session_expiry_interval(Some(u32::try_from(session_expiry.as_secs()).unwrap_or(u32::MAX)));
        options.set_max_packet_size(Some(self.max_packet_size));
        options.set_outgoing_inflight_upper_limit(WINDOW);
        if let Some(username) = &self.username {
            options.set_credentials(username, self.password.as_deref().unwrap_or_default());
        }
        options
    }

    /// rumqttc joins host and port with a colon, as it stands.
    fn bracketed_host(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }
}

/// What the state topic says while the bridge is connected.
pub(super) const ONLINE: &str = r#"{"state":"online"}"#;
/// What it says when the bridge is gone.
pub(super) const OFFLINE: &str = r#"{"state":"offline"}"#;

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Config")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("client_id", &self.client_id)
            .field("state_topic", &self.state_topic)
            .field("keep_alive", &self.keep_alive)
            .field("session_expiry", &self.session_expiry)
            .field("receive_maximum", &self.receive_maximum)
            .field("max_packet_size", &self.max_packet_size)
            .finish()
    }
}
