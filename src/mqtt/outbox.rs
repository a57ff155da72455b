//! The publishing connection: queues, sends, and forgets a message when the broker has confirmed it. Receives
//! nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{Publish, PublishProperties},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    connect::Config,
    flight::{Item, Kind},
    publisher::{Publisher, Stop},
    receipt::Receipt,
    status::{BrokerLimits, Status},
};
use crate::model::Topic;

/// How many messages may be queued.
const QUEUE: usize = 1024;
/// How many bytes of topics and payloads may be queued or unconfirmed; a larger message goes alone.
const QUEUE_BYTES: u32 = 32 * 1024 * 1024;
/// The longest text or data in a property (MQTT 5 §1.5.4, §1.5.6).
const LONGEST_FIELD: usize = 65_535;

/// A message to publish.
#[derive(Debug)]
pub struct Outgoing {
    /// Where.
    pub topic: Topic,
    /// What.
    pub payload: Bytes,
    /// 0, else 1.
    pub qos: u8,
    /// Whether the broker keeps it.
    pub retain: bool,
    /// MQTT 5 properties.
    pub properties: OutgoingProperties,
    /// Of the inbound message that caused it: released when the broker has confirmed or refused it.
    pub receipt: Receipt,
}

/// MQTT 5 properties of a message to publish.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutgoingProperties {
    /// Where an answer is wanted.
    pub response_topic: Option<Topic>,
    /// What the receiver of an answer knows it by.
    pub correlation_data: Option<Bytes>,
    /// The media type.
    pub content_type: Option<String>,
    /// User properties, in order.
    pub user: Vec<(String, String)>,
    /// For how many seconds it is of interest; time in the queue counts.
    pub message_expiry: Option<u32>,
}

/// Why a message was not published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The broker said no.
    #[error(
        "the broker refuses a publish to `{topic}`: {reason}; check what its access list allows the bridge"
    )]
    Broker {
        /// Where it was to go.
        topic: Topic,
        /// The reason code's name.
        reason: String,
    },
    /// It is larger than the broker takes.
    #[error("a publish to `{topic}` has {size} bytes, the broker takes {max}")]
    TooLarge {
        /// Where it was to go.
        topic: Topic,
        /// The packet's.
        size: usize,
        /// The broker's.
        max: u32,
    },
    /// It has a property that no packet can carry.
    #[error("a publish to `{topic}` has a {property} with a NUL character or more than 65,535 bytes")]
    Property {
        /// Where it was to go.
        topic: Topic,
        /// Which.
        property: &'static str,
    },
    /// Its time was over before it could be sent.
    #[error("a publish to `{0}` expired before the broker could be reached")]
    Expired(Topic),
    /// The broker ended the connection every time it got it.
    #[error("gave up on a publish to `{0}`: the broker ended every connection on which it was sent")]
    Poison(Topic),
    /// The outbox was stopped before it was confirmed.
    #[error("the bridge stopped before the broker had confirmed the publish")]
    Stopped,
}

/// The publishing connection. Cheap to clone; when the last clone is dropped it ends as if stopped. Its last
/// will says that the bridge is offline; so does `stop`.
#[derive(Clone)]
pub struct Outbox {
    /// Whoever sends waits when it is full, and so, their receipts being held, do the senders of requests.
    queue: mpsc::Sender<Item>,
    memory: Arc<Semaphore>,
    stops: mpsc::Sender<Stop>,
    status: watch::Receiver<Status>,
    connections: watch::Receiver<u64>,
    counters: Arc<Counters>,
}

/// What an outbox has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxCounters {
    /// Messages that were sent and, at QoS 1, confirmed.
    pub published: u64,
    /// Messages that the broker refused, and those that could not or no longer be sent.
    pub refused: u64,
    /// QoS 0 messages that `try_send` dropped.
    pub dropped: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) published: AtomicU64,
    pub(super) refused: AtomicU64,
    dropped: AtomicU64,
}

impl Outgoing {
    /// A message at QoS 1, not retained, without properties or receipt.
    pub fn new(topic: Topic, payload: impl Into<Bytes>) -> Self {
        Self {
            topic,
            payload: payload.into(),
            qos: 1,
            retain: false,
            properties: OutgoingProperties::default(),
            receipt: Receipt::default(),
        }
    }

    /// Finds what rumqttc would cut short or the broker would end the connection for.
    fn check(&self) -> Result<(), Refused> {
        let OutgoingProperties { correlation_data, content_type, user, .. } = &self.properties;
        let good = |text: &str| text.len() <= LONGEST_FIELD && !text.contains('\0');
        let bad = |property| Err(Refused::Property { topic: self.topic.clone(), property });
        if correlation_data.as_ref().is_some_and(|data| data.len() > LONGEST_FIELD) {
            return bad("correlation data");
        }
        if !content_type.as_deref().is_none_or(good) {
            return bad("content type");
        }
        if !user.iter().all(|(name, value)| good(name) && good(value)) {
            return bad("user property");
        }
        Ok(())
    }

    /// The packet, as far as the broker takes such: what it does not keep is sent unretained, and at QoS 0
    /// where it has no other.
    pub(super) fn packet(&self, expiry: Option<u32>, limits: BrokerLimits) -> Publish {
        let qos = if self.qos.min(limits.max_qos) == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let OutgoingProperties { response_topic, correlation_data, content_type, user, .. } =
            self.properties.clone();
        let properties = PublishProperties {
            message_expiry_interval: expiry,
            response_topic: response_topic.map(Into::into),
            correlation_data,
            content_type,
            user_properties: user,
            ..PublishProperties::default()
        };
        let mut packet = Publish::new(self.topic.as_str(), qos, self.payload.clone(), Some(properties));
        packet.retain = self.retain && limits.retain;
        packet
    }

    fn bytes(&self) -> u32 {
        let bytes = self.topic.as_str().len() + self.payload.len();
        u32::try_from(bytes).unwrap_or(u32::MAX).min(QUEUE_BYTES)
    }
}

impl Outbox {
    /// Opens the connection and keeps it open. Must be called in a tokio runtime.
    #[must_use]
    pub fn start(config: &Config) -> Self {
        Self::start_gated(config, None)
    }

    /// The same, and it connects only while the session stands and the broker has answered all its
    /// subscriptions: whoever hears `online` can send a request at once.
    #[must_use]
    pub fn start_behind(config: &Config, session: watch::Receiver<Status>) -> Self {
        Self::start_gated(config, Some(session))
    }

    fn start_gated(config: &Config, gate: Option<watch::Receiver<Status>>) -> Self {
        let (queue_tx, queue_rx) = mpsc::channel(QUEUE);
        let (stop_tx, stop_rx) = mpsc::channel(1);
        let (status_tx, status_rx) = watch::channel(Status::new());
        let (connections_tx, connections_rx) = watch::channel(0);
        let counters = Arc::new(Counters::default());
        let publisher = Publisher::new(config, gate, queue_rx, stop_rx, status_tx, connections_tx, &counters);
        tokio::spawn(publisher.run());
        Self {
            queue: queue_tx,
            memory: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            stops: stop_tx,
            status: status_rx,
            connections: connections_rx,
            counters,
        }
    }

    /// Queues a message, and waits while the queue is full. Its receipt is released when the broker has
    /// confirmed it, or refused it, which also goes to the log; given up when the outbox stops before that.
    pub async fn send(&self, outgoing: Outgoing) {
        self.enqueue(outgoing, None).await;
    }

    /// Sends a message and waits until the broker has confirmed it, however long it cannot be reached.
    ///
    /// # Errors
    /// When the broker refuses it, it cannot be sent, or the outbox stops.
    pub async fn confirm(&self, outgoing: Outgoing) -> Result<(), Refused> {
        let (waiter_tx, waiter_rx) = oneshot::channel();
        self.enqueue(outgoing, Some(waiter_tx)).await;
        waiter_rx.await.unwrap_or(Err(Refused::Stopped))
    }

    /// Sends a message at QoS 0 if that is possible now; else it is dropped and counted, and the answer is
    /// no.
    pub fn try_send(&self, mut outgoing: Outgoing) -> bool {
        outgoing.qos = 0;
        let queued = self.status.borrow().is_connected() && self.try_enqueue(outgoing);
        if !queued {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// Sends what is queued, for at most `patience`, says that the bridge is offline, and disconnects. What
    /// is not confirmed by then gives up its receipt.
    pub async fn stop(&self, patience: Duration) {
        let (done_tx, done_rx) = oneshot::channel();
        // Both fail only when it has stopped already.
        if self.stops.send(Stop { by: Instant::now() + patience, done: Some(done_tx) }).await.is_ok() {
            done_rx.await.ok();
        }
    }

    /// Whether it is connected.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Counts the connections, each when `online` is published: then retained messages are due again, since
    /// the broker may have lost them.
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.connections.clone()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> OutboxCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        OutboxCounters {
            published: read(&self.counters.published),
            refused: read(&self.counters.refused),
            dropped: read(&self.counters.dropped),
        }
    }

    async fn enqueue(&self, outgoing: Outgoing, waiter: Option<oneshot::Sender<Result<(), Refused>>>) {
        let (bytes, check) = (outgoing.bytes(), outgoing.check());
        let mut item = Item::new(outgoing, Kind::Message, waiter);
        if let Err(refused) = check {
            return self.counters.refuse(item, refused);
        }
        item.share = Arc::clone(&self.memory).acquire_many_owned(bytes).await.ok();
        // Where the outbox has stopped the item comes back and is dropped, which gives up its receipt.
        self.queue.send(item).await.ok();
    }

    fn try_enqueue(&self, outgoing: Outgoing) -> bool {
        let Ok(share) = Arc::clone(&self.memory).try_acquire_many_owned(outgoing.bytes()) else {
            return false;
        };
        if outgoing.check().is_err() {
            return false;
        }
        let mut item = Item::new(outgoing, Kind::Message, None);
        item.share = Some(share);
        self.queue.try_send(item).is_ok()
    }
}

impl Counters {
    /// Ends a message that was not published.
    pub(super) fn refuse(&self, item: Item, refused: Refused) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(error = %refused, "a message was not published");
        item.finish(Err(refused));
    }
}

#[cfg(test)]
mod tests {
    use super::{BrokerLimits, Outgoing, QoS, Refused, Topic};

    fn outgoing() -> Outgoing {
        Outgoing { retain: true, ..Outgoing::new(Topic::parse("a").unwrap(), "x") }
    }

    #[test]
    fn properties_that_no_packet_can_carry_are_found() {
        let check = |property: &'static str, change: fn(&mut super::OutgoingProperties)| {
            let mut outgoing = outgoing();
            assert_eq!(outgoing.check(), Ok(()));
            change(&mut outgoing.properties);
            let topic = outgoing.topic.clone();
            assert_eq!(outgoing.check(), Err(Refused::Property { topic, property }));
        };
        check("correlation data", |properties| properties.correlation_data = Some(vec![0; 65_536].into()));
        check("content type", |properties| properties.content_type = Some("a\0b".into()));
        check("user property", |properties| properties.user = vec![("a".into(), "x".repeat(65_536))]);
        check("user property", |properties| properties.user = vec![("\0".into(), String::new())]);
    }

    #[test]
    fn packets_keep_to_what_the_broker_takes() {
        let limits = BrokerLimits {
            receive_maximum: 1,
            max_packet_size: 100,
            max_qos: 0,
            retain: false,
            subscription_ids: true,
        };
        let packet = outgoing().packet(Some(5), limits);
        assert_eq!((packet.qos, packet.retain), (QoS::AtMostOnce, false));
        assert_eq!(packet.properties.unwrap().message_expiry_interval, Some(5));
        let packet = outgoing().packet(None, BrokerLimits { max_qos: 2, retain: true, ..limits });
        assert_eq!((packet.qos, packet.retain), (QoS::AtLeastOnce, true));
    }
}
