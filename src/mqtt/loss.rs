//! Why a connection ended, in a sentence for a person, and whether trying again soon makes sense.

use std::{collections::VecDeque, io::ErrorKind};

use rumqttc::v5::{
    ConnectionError, Event, StateError,
    mqttbytes::{
        Error as WireError,
        v5::{ConnectReturnCode, DisconnectReasonCode},
    },
};

use super::connect::{CONNECT_TIMEOUT, Config};

/// The end of a connection.
#[derive(Debug)]
pub(super) struct Loss {
    /// What happened and what can be done.
    pub(super) sentence: String,
    /// When to try again.
    pub(super) retry: Retry,
    /// What had arrived before and was not handed over yet.
    pub(super) rest: VecDeque<Event>,
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// With back-off: it may be over at once.
    Soon,
    /// Only a person can change it, and brokers ban clients that hammer.
    Later,
}

/// How far a connection had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No CONNACK yet.
    Opening,
    /// CONNACK came.
    Open,
}

/// Whom the sentences are about.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    address: String,
    client_id: String,
    username: Option<String>,
}

impl Loss {
    /// Nothing moved for too long (rumqttc's own pings do not fire while a write blocks).
    pub(super) fn silent(peer: &Peer) -> Self {
        Self::soon(format!("the broker at {} went silent", peer.address))
    }

    pub(super) fn soon(sentence: String) -> Self {
        Self { sentence, retry: Retry::Soon, rest: VecDeque::new() }
    }

    fn later(sentence: String) -> Self {
        Self { sentence, retry: Retry::Later, rest: VecDeque::new() }
    }
}

impl Peer {
    pub(super) fn new(config: &Config, client_id: String) -> Self {
        Self { address: config.address(), client_id, username: config.username.clone() }
    }

    /// Puts rumqttc's error into words.
    pub(super) fn explain(&self, error: &ConnectionError, phase: Phase) -> Loss {
        let address = &self.address;
        match error {
            ConnectionError::ConnectionRefused(code) => self.explain_refusal(*code),
            ConnectionError::MqttState(error) => self.explain_state(error, phase),
            ConnectionError::Timeout(_) => Loss::soon(format!(
                "no answer from {address} within {} s: check `mqtt.url` and the network, and that it is a \
                 broker that speaks MQTT 5",
                CONNECT_TIMEOUT.as_secs()
            )),
            ConnectionError::Io(error) if error.kind() == ErrorKind::ConnectionRefused => Loss::soon(
                format!("nothing listens at {address}: start the broker there or correct `mqtt.url`"),
            ),
            ConnectionError::Io(error) => {
                Loss::soon(format!("cannot reach the broker at {address}: {error}"))
            }
            other => {
                Loss::soon(format!("the broker at {address} does not speak MQTT 5 as it should: {other}"))
            }
        }
    }

    fn explain_refusal(&self, code: ConnectReturnCode) -> Loss {
        let Self { address, client_id, username } = self;
        match (code, username) {
            (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized, Some(username)) => {
                Loss::later(format!(
                    "the broker at {address} refuses the user `{username}`: check `mqtt.username` and \
                     `mqtt.password`, and that this user may connect"
                ))
            }
            (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized, None) => {
                Loss::later(format!(
                    "the broker at {address} wants a user name and password: set `mqtt.username` and \
                     `mqtt.password`"
                ))
            }
            (
                ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion,
                _,
            ) => Loss::later(format!(
                "the broker at {address} does not speak MQTT 5, which the bridge needs: use a newer broker \
                 (Mosquitto from 1.6) or allow version 5 in its configuration"
            )),
            (ConnectReturnCode::ClientIdentifierNotValid | ConnectReturnCode::BadClientId, _) => {
                Loss::later(format!(
                    "the broker at {address} refuses the client id `{client_id}`: set another `mqtt.client_id`"
                ))
            }
            (ConnectReturnCode::Banned, _) => Loss::later(format!(
                "the broker at {address} has banned this client: ask its administrator about `{client_id}`"
            )),
            (code, _) => Loss::soon(format!("the broker at {address} refuses the connection: {code:?}")),
        }
    }

    fn explain_state(&self, error: &StateError, phase: Phase) -> Loss {
        let Self { address, client_id, .. } = self;
        match error {
            StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
                Loss::later(format!(
                    "another client has connected to {address} with the client id `{client_id}`: two bridges \
                     must not share one; give one of them another `mqtt.client_id`"
                ))
            }
            StateError::ServerDisconnect { reason_code, reason_string } => Loss::soon(format!(
                "the broker at {address} ended the connection: {}",
                reason_string.clone().unwrap_or_else(|| format!("{reason_code:?}"))
            )),
            // A 3.1.1 broker answers with a CONNACK that is too short for rumqttc, which waits for the rest
            // until the broker closes.
            closed if is_closed(closed) && phase == Phase::Opening => Loss::soon(format!(
                "the broker at {address} closed the connection instead of answering: it may speak only MQTT \
                 3.1.1 while the bridge needs MQTT 5, or expect encryption, or be no broker; its log says why"
            )),
            closed if is_closed(closed) => Loss::soon(format!(
                "the broker at {address} closed the connection and did not say why: it stopped, or another \
                 client uses the client id `{client_id}`"
            )),
            StateError::Deserialization(_) if phase == Phase::Opening => Loss::later(format!(
                "what answers at {address} does not speak MQTT: check the port in `mqtt.url`, and that it is the one \
                 without encryption"
            )),
            StateError::AwaitPingResp => Loss::soon(format!("the broker at {address} does not answer pings")),
            other => Loss::soon(format!("the connection to {address} broke: {other}")),
        }
    }
}

fn is_closed(error: &StateError) -> bool {
    matches!(
        error,
        StateError::ConnectionAborted | StateError::Io(_) | StateError::Deserialization(WireError::Io(_))
    )
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::{
        ConnectionError, StateError,
        mqttbytes::v5::{ConnectReturnCode, DisconnectReasonCode},
    };

    use super::{Peer, Phase, Retry};

    #[test]
    fn what_only_a_person_can_change_is_named_and_tried_later() {
        let peer = |username: Option<&str>| Peer {
            address: "nas:1883".into(),
            client_id: "jarvis-1".into(),
            username: username.map(Into::into),
        };
        let refused = |code| ConnectionError::ConnectionRefused(code);
        let taken_over = ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            reason_string: None,
        });
        let check = |username: Option<&str>, error: &ConnectionError, retry: Retry, words: &str| {
            let loss = peer(username).explain(error, Phase::Opening);
            assert_eq!(loss.retry, retry, "{}", loss.sentence);
            assert!(loss.sentence.contains(words), "{}", loss.sentence);
        };
        check(Some("ada"), &refused(ConnectReturnCode::NotAuthorized), Retry::Later, "the user `ada`");
        check(None, &refused(ConnectReturnCode::BadUserNamePassword), Retry::Later, "set `mqtt.username`");
        check(None, &refused(ConnectReturnCode::UnsupportedProtocolVersion), Retry::Later, "MQTT 5");
        check(None, &refused(ConnectReturnCode::ClientIdentifierNotValid), Retry::Later, "`jarvis-1`");
        check(None, &refused(ConnectReturnCode::ServerBusy), Retry::Soon, "ServerBusy");
        check(None, &taken_over, Retry::Later, "`jarvis-1`");
        check(None, &StateError::ConnectionAborted.into(), Retry::Soon, "3.1.1");
    }
}
