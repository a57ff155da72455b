//! Keeps messages that are not dealt with soon, so that the broker need not: acknowledgements go out in order of
//! arrival, and one slow hook would hold up all that comes after it. Knows messages, not what is done with them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, oneshot};

use crate::{
    effects::{Bus, bus::REQUESTS},
    model::Filter,
    mqtt::{Inbound, InboundProperties, Receipt, WeakReceipt},
    plugin::Registry,
    store::{Parked, Store, StoreError},
};

/// Messages and bytes that may be parked. From there on plugins that are far behind are refused sooner.
const MAX_MESSAGES: usize = 40_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What may be parked beyond that, for what was in flight already: a fraction of it.
const MARGIN: usize = 4;
/// What one message takes besides what it says: its row, its task, its place in queues.
const OVERHEAD: usize = 512;
/// Messages in one commit.
const GROUP: usize = 256;
/// How long to wait where messages cannot be parked.
const RETRY: Duration = Duration::from_secs(1);
/// A message that holds up [`CROWD`] settled ones is parked as soon as it is this old.
const SOON: Duration = Duration::from_millis(10);
/// A fraction of any broker's window, so that it is never spent on waiting for one hook.
const CROWD: usize = 16;

/// The parking lot. Cheap to clone.
#[derive(Clone)]
pub(super) struct Parking(Arc<Inner>);

struct Inner {
    store: Store,
    bus: Bus,
    registry: Registry,
    after: Duration,
    /// What has arrived and may be unfinished, in order; no longer than the broker's window, but for what has
    /// been settled behind its first.
    arrived: Mutex<VecDeque<Arrived>>,
    came: Notify,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Arrived {
    since: Instant,
    receipt: WeakReceipt,
    topic: String,
    payload: bytes::Bytes,
    details: Details,
}

impl Arrived {
    /// The text of the details takes about as much as what is in them.
    fn bytes(&self) -> usize {
        let properties = &self.details.properties;
        let user: usize = properties.user.iter().map(|(name, value)| name.len() + value.len()).sum();
        let others = [&properties.response_topic, &properties.content_type];
        let texts: usize = others.into_iter().flatten().map(String::len).sum();
        let data = properties.correlation_data.as_ref().map_or(0, bytes::Bytes::len);
        OVERHEAD + self.topic.len() + self.payload.len() + user + texts + 4 * data
    }
}

#[derive(Debug, Default)]
struct Taken {
    messages: usize,
    bytes: usize,
}

/// What of a message is kept besides its topic and payload.
#[derive(Debug, Serialize, Deserialize)]
struct Details {
    retain: bool,
    properties: InboundProperties,
    /// The plugins' filters that it came for; none where the broker tells no identifiers.
    #[serde(default)]
    filters: Vec<Filter>,
    /// Whether it came for the bridge's own filter, be it with others.
    #[serde(default)]
    request: bool,
}

impl Parking {
    pub(super) fn new(store: Store, bus: Bus, registry: Registry, after: Duration) -> Self {
        Self(Arc::new(Inner {
            store,
            bus,
            registry,
            after,
            arrived: Mutex::default(),
            came: Notify::new(),
            taken: Mutex::default(),
        }))
    }

    /// Takes note of a message that has just arrived.
    pub(super) fn watch(&self, inbound: &Inbound) {
        if inbound.receipt.is_kept() {
            return;
        }
        let Some(receipt) = inbound.receipt.downgrade() else { return };
        let arrived = Arrived {
            since: Instant::now(),
            receipt,
            topic: inbound.topic.clone(),
            payload: inbound.payload.clone(),
            details: Details {
                retain: inbound.retain,
                properties: inbound.properties.clone(),
                filters: Vec::new(),
                request: false,
            },
        };
        let mut queue = self.arrived();
        while queue.front().is_some_and(|first| first.receipt.upgrade().is_none()) {
            queue.pop_front();
        }
        queue.push_back(arrived);
        if queue.len() == 1 {
            self.0.came.notify_one();
        }
    }

    /// Parks what takes long, until `stop` comes.
    pub(super) async fn run(self, mut stop: oneshot::Receiver<()>) {
        let mut warned = false;
        loop {
            let Look { due, mut again } = self.look();
            if !due.is_empty() {
                match self.park(due).await {
                    Ok(()) => warned = false,
                    Err(error) => {
                        if !warned {
                            tracing::warn!(
                                %error,
                                "messages that take long cannot be parked: what comes after them is acknowledged late"
                            );
                        }
                        warned = true;
                        again = Some(Instant::now() + RETRY);
                    }
                }
            }
            let rest = async {
                match again {
                    Some(instant) => tokio::time::sleep_until(instant.into()).await,
                    None => self.0.came.notified().await,
                }
            };
            tokio::select! {
                _ = &mut stop => return,
                () = rest => {}
            }
        }
    }

    /// Waits until what is settled by now is forgotten, so that the next run does not do it again.
    pub(super) async fn finish(&self) {
        // Whoever keeps a message learns of its end in a task of its own, which comes first here.
        tokio::task::yield_now().await;
        // Fails only where the store is closed: then nothing is to be waited for.
        let _ = self.0.store.flush().await;
    }

    /// Whether more is parked than should be.
    pub(super) fn is_full(&self) -> bool {
        let taken = self.taken();
        taken.messages >= MAX_MESSAGES || taken.bytes >= MAX_BYTES
    }

    /// How many messages are parked.
    pub(super) fn parked(&self) -> usize {
        self.taken().messages
    }

    /// What was parked when the last run ended, in order. Each is forgotten when it is settled.
    pub(super) async fn left(&self) -> Result<Vec<Inbound>, StoreError> {
        let left = self.0.store.parked().await?;
        Ok(left.into_iter().filter_map(|(number, parked)| self.inbound(number, parked)).collect())
    }

    /// The message as it came in; nothing where it is for nobody any more.
    fn inbound(&self, number: i64, parked: Parked) -> Option<Inbound> {
        let (receipt, settled) = Receipt::kept();
        let Parked { topic, payload, details } = parked;
        self.keep(number, OVERHEAD + topic.len() + payload.len() + details.len(), settled);
        let Ok(Details { retain, mut properties, filters, request }) = serde_json::from_str(&details) else {
            tracing::error!(topic, "a parked message is not understood: it is dropped");
            return None;
        };
        let identifiers = self.0.bus.identifiers(&filters);
        properties.subscription_ids = request.then_some(REQUESTS).into_iter().chain(identifiers).collect();
        if properties.subscription_ids.is_empty() && !filters.is_empty() {
            // Its plugin may be refused or fail today; it is asked again at the next start.
            tracing::warn!(topic, "a message waits on: the plugin that listened to it is not there now");
            receipt.abandon();
            return None;
        }
        Some(Inbound { topic, payload, qos: 1, retain, dup: true, packet_id: 0, properties, receipt })
    }

    /// Takes out what is due and has a place, and says when to look again.
    fn look(&self) -> Look {
        let mut look = Look { due: Vec::new(), again: None };
        let mut bytes = 0;
        let mut queue = self.arrived();
        while let Some(first) = queue.front() {
            let Some(receipt) = first.receipt.upgrade() else {
                queue.pop_front();
                continue;
            };
            let wait = match self.wait(first.since.elapsed(), &receipt) {
                Duration::ZERO if look.due.len() == GROUP => Duration::ZERO,
                Duration::ZERO if !self.has_place(look.due.len() + 1, bytes + first.bytes()) => RETRY,
                wait => wait,
            };
            if !wait.is_zero() || look.due.len() == GROUP {
                look.again = Some(Instant::now() + wait);
                break;
            }
            bytes += first.bytes();
            look.due.extend(queue.pop_front().map(|first| (first, receipt)));
        }
        look
    }

    /// Whether so much more can be parked. One message always can on an empty lot.
    fn has_place(&self, messages: usize, bytes: usize) -> bool {
        let taken = self.taken();
        let (messages, bytes) = (taken.messages + messages, taken.bytes + bytes);
        messages == 1
            || (messages <= MAX_MESSAGES + MAX_MESSAGES / MARGIN && bytes <= MAX_BYTES + MAX_BYTES / MARGIN)
    }

    /// For how long a message of this age is still waited for.
    fn wait(&self, age: Duration, receipt: &Receipt) -> Duration {
        let soon = SOON.min(self.0.after);
        if age < soon {
            return soon - age;
        }
        match receipt.holds_up() >= CROWD {
            true => Duration::ZERO,
            false => self.0.after.saturating_sub(age).min(soon),
        }
    }

    /// Keeps messages and lets the broker forget them. Where they cannot be kept they stay with the broker, and are
    /// looked at again.
    async fn park(&self, due: Vec<(Arrived, Receipt)>) -> Result<(), StoreError> {
        let messages: Vec<Parked> = due.iter().map(|(arrived, _)| self.message(arrived)).collect();
        let numbers = match self.0.store.park(messages).await {
            Ok(numbers) => numbers,
            Err(error) => {
                let mut queue = self.arrived();
                due.into_iter().rev().for_each(|(arrived, _)| queue.push_front(arrived));
                return Err(error);
            }
        };
        for (number, (arrived, receipt)) in numbers.into_iter().zip(due) {
            match receipt.take_over() {
                Some(settled) => self.keep(number, arrived.bytes(), settled),
                // The broker sends it again.
                None => self.forget(number).await,
            }
        }
        Ok(())
    }

    fn message(&self, arrived: &Arrived) -> Parked {
        let Details { retain, properties, .. } = &arrived.details;
        let filters = self.0.bus.filters(&properties.subscription_ids);
        let request = properties.subscription_ids.contains(&REQUESTS);
        let details = Details { retain: *retain, properties: properties.clone(), filters, request };
        Parked {
            topic: arrived.topic.clone(),
            payload: arrived.payload.clone(),
            // Plain text and numbers can always be written.
            details: serde_json::to_string(&details).unwrap_or_default(),
        }
    }

    /// Counts a parked message until it is settled. One that is abandoned is there at the next start.
    fn keep(&self, number: i64, bytes: usize, settled: oneshot::Receiver<()>) {
        {
            let mut taken = self.taken();
            taken.messages += 1;
            taken.bytes += bytes;
        }
        self.tell();
        let parking = self.clone();
        tokio::spawn(async move {
            if settled.await.is_ok() {
                parking.forget(number).await;
            }
            {
                let mut taken = parking.taken();
                taken.messages -= 1;
                taken.bytes -= bytes;
            }
            parking.tell();
        });
    }

    /// Tells the plugins' mailboxes whether there is room.
    fn tell(&self) {
        self.0.registry.set_crowded(self.is_full());
    }

    async fn forget(&self, number: i64) {
        // Fails only where the store is closed: then the message comes again, as one that was abandoned.
        let _ = self.0.store.unpark(number).await;
    }

    fn arrived(&self) -> MutexGuard<'_, VecDeque<Arrived>> {
        self.0.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a look at the unfinished messages came to.
struct Look {
    due: Vec<(Arrived, Receipt)>,
    /// Nothing where none is unfinished.
    again: Option<Instant>,
}
