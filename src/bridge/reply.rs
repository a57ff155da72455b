//! Where an answer goes, and sending it there.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::desk::Desk;
use crate::{
    effects::Cause,
    model::{Envelope, Filter, Topic},
    mqtt::{InboundProperties, Outgoing},
};

/// Where the answer to one request goes.
#[derive(Debug, Clone)]
pub(super) struct ReplyTo {
    fixed: Topic,
    wanted: Option<Topic>,
    correlation: Option<Bytes>,
}

impl ReplyTo {
    /// The fixed topic, and what MQTT 5 properties ask for.
    pub(super) fn new(desk: &Desk, fixed: Topic, properties: &InboundProperties) -> Self {
        let wanted = properties.response_topic.as_deref().and_then(|topic| allowed(desk, topic));
        Self { fixed, wanted, correlation: properties.correlation_data.clone() }
    }

    /// Also looks at the payload's `reply_to`, which counts where MQTT 5 says nothing.
    pub(super) fn or_field(mut self, desk: &Desk, fields: &Map<String, Value>) -> Self {
        if self.wanted.is_none()
            && let Some(Value::String(topic)) = fields.get("reply_to")
        {
            self.wanted = allowed(desk, topic);
        }
        self
    }

    /// Whether the request itself said where its answer shall go.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// Sends the envelope; returns when the outbox has taken it. The cause's message is not acknowledged
    /// before the broker has.
    pub(super) async fn send(self, desk: &Desk, envelope: &Envelope, cause: &Cause) {
        if desk.is_closed() {
            // Too late: the request stays unacknowledged and the next bridge answers it.
            return cause.abandon();
        }
        let payload = match serde_json::to_vec(envelope) {
            Ok(payload) => Bytes::from(payload),
            Err(error) => {
                tracing::error!(%error, "an envelope could not be written");
                return;
            }
        };
        let outgoing = |topic: Topic| {
            let mut outgoing = Outgoing::new(topic, payload.clone());
            (outgoing.qos, outgoing.receipt) = (1, cause.receipt());
            outgoing.properties.correlation_data.clone_from(&self.correlation);
            outgoing.properties.content_type = Some("application/json".into());
            outgoing
        };
        let Some(wanted) = &self.wanted else {
            return desk.outbox().send(outgoing(self.fixed.clone())).await;
        };
        if let Err(refused) = desk.outbox().confirm(outgoing(wanted.clone())).await {
            tracing::warn!(%refused, "an answer goes to its fixed topic instead");
            desk.outbox().send(outgoing(self.fixed.clone())).await;
        }
    }
}

/// A topic that came from outside: no wildcards, not below `$`, no request, and within the setting.
fn allowed(desk: &Desk, text: &str) -> Option<Topic> {
    let topic = Topic::parse(text).ok();
    let is_request =
        |topic: &Topic| topic.as_str().contains("/request/") || topic.as_str().ends_with("/request");
    let matches = |topic: &Topic| {
        desk.config().reply_topics.iter().any(|filter: &Filter| filter.matches(topic.as_str()))
    };
    let topic = topic.filter(|topic| !is_request(topic) && matches(topic));
    if topic.is_none() {
        let shown: String = text.chars().flat_map(char::escape_debug).take(120).collect();
        tracing::warn!(
            topic = shown,
            "a request asks for its answer on a topic that mqtt.reply_topics does not allow; it goes to the fixed one"
        );
    }
    topic
}
