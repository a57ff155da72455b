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
    effects::Bus,
    model::Filter,
    mqtt::{Inbound, InboundProperties, Receipt, WeakReceipt},
    store::{Parked, Store, StoreError},
};

/// Messages and bytes that may be parked. Beyond it a request is answered `unavailable` at the door.
const MAX_MESSAGES: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What was let in at the door just before may be parked as well.
const MARGIN: usize = 2;
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
    /// The plugins' filters that it came for; none where it is a request or the broker tells no identifiers.
    #[serde(default)]
    filters: Vec<Filter>,
}

impl Parking {
    pub(super) fn new(store: Store, bus: Bus, after: Duration) -> Self {
        Self(Arc::new(Inner {
            store,
            bus,
            after,
            arrived: Mutex::default(),
            came: Notify::new(),
            taken: Mutex::default(),
        }))
    }

    /// Takes note of a message that has just arrived.
    pub(super) fn watch(&self, inbound: &Inbound) {
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
        loop {
            let look = self.look();
            let rest = async {
                match look.again {
                    Some(instant) => tokio::time::sleep_until(instant.into()).await,
                    None => self.0.came.notified().await,
                }
            };
            if look.due.is_empty() {
                tokio::select! {
                    _ = &mut stop => return,
                    () = rest => {}
                }
            } else {
                self.park(look.due).await;
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

    /// Whether nothing more may be let in that could take long.
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
        self.keep(number, parked.payload.len(), settled);
        let Parked { topic, payload, details } = parked;
        let Ok(Details { retain, mut properties, filters }) = serde_json::from_str(&details) else {
            tracing::error!(topic, "a parked message is not understood: it is dropped");
            return None;
        };
        properties.subscription_ids = self.0.bus.identifiers(&filters);
        if properties.subscription_ids.is_empty() && !filters.is_empty() {
            return None;
        }
        Some(Inbound { topic, payload, qos: 1, retain, dup: true, packet_id: 0, properties, receipt })
    }

    /// Takes out what is due, and says when to look again where nothing is.
    fn look(&self) -> Look {
        let (mut due, mut again) = (Vec::new(), None);
        let mut queue = self.arrived();
        while let Some(first) = queue.front() {
            let receipt = first.receipt.upgrade();
            let age = first.since.elapsed();
            let wait = match &receipt {
                None => Duration::ZERO,
                Some(receipt) => self.wait(age, receipt),
            };
            if !wait.is_zero() {
                again = Some(Instant::now() + wait);
                break;
            }
            let Some(first) = queue.pop_front() else { break };
            due.extend(receipt.map(|receipt| (first, receipt)));
        }
        Look { due, again }
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

    /// Keeps messages and lets the broker forget them. Where they cannot be kept, they stay with the broker.
    async fn park(&self, due: Vec<(Arrived, Receipt)>) {
        let bytes: usize = due.iter().map(|(arrived, _)| arrived.payload.len()).sum();
        {
            let taken = self.taken();
            if taken.messages + due.len() > MAX_MESSAGES * MARGIN || taken.bytes + bytes > MAX_BYTES * MARGIN
            {
                return;
            }
        }
        let messages: Vec<Parked> = due.iter().map(|(arrived, _)| self.message(arrived)).collect();
        match self.0.store.park(messages).await {
            Ok(numbers) => {
                for (number, (arrived, receipt)) in numbers.into_iter().zip(due) {
                    match receipt.take_over() {
                        Some(settled) => self.keep(number, arrived.payload.len(), settled),
                        // The broker sends it again.
                        None => self.forget(number).await,
                    }
                }
            }
            Err(error) => tracing::warn!(
                %error,
                "messages that take long could not be parked: what comes after them is acknowledged late"
            ),
        }
    }

    fn message(&self, arrived: &Arrived) -> Parked {
        let filters = self.0.bus.filters(&arrived.details.properties.subscription_ids);
        let Details { retain, properties, .. } = &arrived.details;
        let details = Details { retain: *retain, properties: properties.clone(), filters };
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
        let parking = self.clone();
        tokio::spawn(async move {
            if settled.await.is_ok() {
                parking.forget(number).await;
            }
            let mut taken = parking.taken();
            taken.messages -= 1;
            taken.bytes -= bytes;
        });
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
