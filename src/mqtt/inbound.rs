//! What arrives, as the rest of the bridge sees it.

use bytes::{Buf, Bytes};
use rumqttc::v5::mqttbytes::v5::Publish;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::receipt::Receipt;

/// A message that arrived.
#[derive(Debug)]
pub struct Inbound {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Bytes,
    /// 0 or 1, as the broker delivers it: publishes at QoS 2 arrive at 1.
    pub qos: u8,
    /// With `retain_as_published` as its sender said it, else whether the broker had kept it.
    pub retain: bool,
    /// Whether the broker may have delivered it before.
    pub dup: bool,
    /// The packet identifier, the same on every delivery of one message in one session (MQTT 5 §4.4); 0 at
    /// QoS 0.
    pub packet_id: u16,
    /// MQTT 5 properties.
    pub properties: InboundProperties,
    /// Settles it; empty at QoS 0.
    pub receipt: Receipt,
}

/// MQTT 5 properties of a message that arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InboundProperties {
    /// Where its sender wants an answer; not checked.
    pub response_topic: Option<String>,
    /// What its sender wants back with the answer.
    pub correlation_data: Option<Bytes>,
    /// Its media type.
    pub content_type: Option<String>,
    /// User properties, in order.
    pub user: Vec<(String, String)>,
    /// The identifiers of the subscriptions that this copy is for, as they were when it was published; none where
    /// the broker knows none.
    #[serde(skip)]
    pub subscription_ids: Vec<usize>,
    /// For how many seconds more it is of interest.
    pub message_expiry: Option<u32>,
}

/// Where messages arrive. Dropping it gives up those that nobody took: they are not acknowledged, so the
/// broker keeps them.
#[derive(Debug)]
pub struct Inbox(mpsc::Receiver<Inbound>);

impl Inbox {
    pub(super) fn new(messages: mpsc::Receiver<Inbound>) -> Self {
        Self(messages)
    }

    /// The next message, or nothing when the session has ended. Can be dropped and called again.
    pub async fn recv(&mut self) -> Option<Inbound> {
        self.0.recv().await
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.0.close();
        while let Ok(inbound) = self.0.try_recv() {
            inbound.receipt.abandon();
        }
    }
}

/// Makes a message of a packet. A topic that is not UTF-8 cannot come from a broker that keeps the protocol.
pub(super) fn inbound(publish: Publish, receipt: Receipt) -> Inbound {
    let properties = publish.properties.unwrap_or_default();
    let payload = without_stray_ids(publish.payload, properties.subscription_identifiers.len());
    Inbound {
        topic: String::from_utf8_lossy(&publish.topic).into_owned(),
        payload,
        qos: publish.qos as u8,
        retain: publish.retain,
        dup: publish.dup,
        packet_id: publish.pkid,
        properties: InboundProperties {
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            content_type: properties.content_type,
            user: properties.user_properties,
            subscription_ids: properties.subscription_identifiers,
            message_expiry: properties.message_expiry_interval,
        },
        receipt,
    }
}

/// Removes subscription identifiers from the front of a payload. rumqttc 0.25.1 counts each one byte too
/// long, so where a broker merges copies for several subscriptions into one, it takes the last for payload.
fn without_stray_ids(mut payload: Bytes, ids: usize) -> Bytes {
    const SUBSCRIPTION_ID: u8 = 0x0B;
    // One identifier is never followed by less than it was counted too long.
    if ids < 2 {
        return payload;
    }
    for _ in 0..ids {
        if payload.first() != Some(&SUBSCRIPTION_ID) {
            break;
        }
        let length = payload.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 2;
        payload.advance(length.min(payload.len()));
    }
    payload
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use rumqttc::v5::mqttbytes::{
        QoS,
        v5::{Packet, Publish, PublishProperties},
    };

    use super::{Receipt, inbound};

    #[test]
    fn payloads_survive_merged_subscription_ids() {
        for ids in [
            vec![],
            vec![1],
            vec![1, 2],
            vec![1, 2, 3],
            vec![300, 2, 70_000, 4, 5],
            vec![268_435_455],
            vec![9_999_999, 1, 268_435_455],
        ] {
            let properties =
                PublishProperties { subscription_identifiers: ids.clone(), ..PublishProperties::default() };
            let mut publish = Publish::new("a/b", QoS::AtLeastOnce, "{}", Some(properties));
            publish.pkid = 1;
            let mut bytes = BytesMut::new();
            publish.write(&mut bytes).unwrap();
            let Packet::Publish(read) = Packet::read(&mut bytes, None).unwrap() else { panic!("{ids:?}") };
            assert_eq!(inbound(read, Receipt::default()).payload, "{}", "{ids:?}");
        }
    }
}
