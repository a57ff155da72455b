//! Receipts, and the acknowledgements they release in order of arrival (MQTT 5 §4.6). Knows packet
//! identifiers, never what the work was.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;

/// The thread through all work that one inbound message causes. Cheap to clone. When the last clone is
/// dropped the message counts as settled; its acknowledgement goes out once every message before it is
/// settled too, and only on the connection it came in on: after a reconnect the broker sends it again.
#[derive(Clone, Default)]
pub struct Receipt(Option<Arc<Settle>>);

/// The acknowledgements that one connection owes. A new connection gets new ones: what old receipts release
/// is then read by nobody.
#[derive(Default)]
pub(super) struct Acks {
    window: Mutex<Window>,
    ready: Notify,
}

struct Settle {
    acks: Arc<Acks>,
    number: u64,
    abandoned: AtomicBool,
}

/// The unacknowledged messages in order of arrival; no longer than the receive maximum that the broker keeps.
#[derive(Default)]
struct Window {
    /// The number of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
}

struct Entry {
    packet_id: u16,
    settled: bool,
}

impl Receipt {
    /// Gives the message up for this run: it is never acknowledged, whatever becomes of the other clones, so
    /// the broker sends it again after the next connect. For work that is cut off by a shutdown.
    pub fn abandon(self) {
        if let Some(settle) = &self.0 {
            settle.abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there is nothing to acknowledge, as for QoS 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple = formatter.debug_tuple("Receipt");
        if let Some(settle) = &self.0 {
            tuple.field(&settle.number);
        }
        tuple.finish()
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if *self.abandoned.get_mut() {
            return;
        }
        let settled_first = {
            let mut window = self.acks.lock();
            let index = self.number.checked_sub(window.first).and_then(|index| usize::try_from(index).ok());
            if let Some(entry) = index.and_then(|index| window.entries.get_mut(index)) {
                entry.settled = true;
            }
            index == Some(0)
        };
        if settled_first {
            self.acks.ready.notify_one();
        }
    }
}

impl Acks {
    /// Takes note of a message that has arrived.
    pub(super) fn open(self: &Arc<Self>, packet_id: u16) -> Receipt {
        let mut window = self.lock();
        let number = window.first + window.entries.len() as u64;
        window.entries.push_back(Entry { packet_id, settled: false });
        drop(window);
        Receipt(Some(Arc::new(Settle { acks: Arc::clone(self), number, abandoned: AtomicBool::new(false) })))
    }

    /// The packet identifier to acknowledge next, where the oldest message is settled.
    pub(super) fn due(&self) -> Option<u16> {
        self.lock().entries.front().filter(|entry| entry.settled).map(|entry| entry.packet_id)
    }

    /// Forgets the message that was due: its acknowledgement is on the way.
    pub(super) fn acknowledged(&self) {
        let mut window = self.lock();
        if window.entries.pop_front().is_some() {
            window.first += 1;
        }
    }

    /// Waits until an acknowledgement may be due.
    pub(super) async fn ready(&self) {
        self.ready.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        // No code that can panic runs under the lock.
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Acks;

    fn take_due(acks: &Acks) -> Vec<u16> {
        std::iter::from_fn(|| acks.due().inspect(|_| acks.acknowledged())).collect()
    }

    #[tokio::test]
    async fn acknowledgements_keep_the_order_of_arrival() {
        let acks = Arc::new(Acks::default());
        let [first, second, third] = [7, 3, 9].map(|id| acks.open(id));
        drop(second);
        assert_eq!(take_due(&acks), [0_u16; 0]);
        drop(first);
        acks.ready().await;
        assert_eq!(take_due(&acks), [7, 3]);
        let fourth = acks.open(7);
        drop(fourth);
        assert_eq!(take_due(&acks), [0_u16; 0]);
        drop(third);
        acks.ready().await;
        assert_eq!(take_due(&acks), [9, 7]);
    }

    #[test]
    fn only_the_last_clone_settles() {
        let acks = Arc::new(Acks::default());
        let receipt = acks.open(1);
        let work = receipt.clone();
        drop(receipt);
        assert_eq!(acks.due(), None);
        drop(work);
        assert_eq!(acks.due(), Some(1));
    }

    #[test]
    fn what_is_abandoned_is_never_acknowledged_nor_what_came_after() {
        let acks = Arc::new(Acks::default());
        let [first, second] = [1, 2].map(|id| acks.open(id));
        let clone = first.clone();
        clone.abandon();
        drop((first, second));
        assert_eq!(acks.due(), None);
    }

    #[test]
    fn receipts_of_another_connection_release_nothing_here() {
        let (old, new) = (Arc::new(Acks::default()), Arc::new(Acks::default()));
        let stale = old.open(1);
        let receipt = new.open(1);
        drop(stale);
        assert_eq!(new.due(), None);
        drop(receipt);
        assert_eq!(new.due(), Some(1));
    }
}
