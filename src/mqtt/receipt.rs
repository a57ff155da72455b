//! Receipts, and the acknowledgements they release in order of arrival (MQTT 5 §4.6). Knows packet
//! identifiers, never what the work was.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

/// The thread through all work that one inbound message causes. Cheap to clone. When the last clone is
/// dropped the message counts as settled; its acknowledgement goes out once every message before it is
/// settled too, and only on the connection it came in on: after a reconnect the broker sends it again.
#[derive(Clone, Default)]
pub struct Receipt(Option<Arc<Settle>>);

/// A receipt that holds nothing back.
#[derive(Debug, Clone)]
pub struct WeakReceipt(Weak<Settle>);

/// The acknowledgements that one connection owes. A new connection gets new ones: what old receipts release
/// is then read by nobody.
#[derive(Default)]
pub(super) struct Acks {
    window: Mutex<Window>,
    ready: Notify,
    /// Whether the connection is over: the broker sends again what was not acknowledged.
    over: AtomicBool,
}

struct Settle {
    waits: Mutex<Waits>,
    abandoned: AtomicBool,
}

/// Who waits for a message to be settled.
enum Waits {
    /// The broker: it keeps the message until it is acknowledged.
    Broker { acks: Arc<Acks>, number: u64 },
    /// Who keeps it in the broker's stead.
    Keeper(oneshot::Sender<()>),
    /// Nobody any more.
    Nobody,
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

impl Window {
    fn index(&self, number: u64) -> Option<usize> {
        number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())
    }
}

impl Receipt {
    /// Gives the message up for this run: it is never acknowledged, whatever becomes of the other clones, so
    /// the broker sends it again after the next connect. For work that is cut off by a shutdown.
    pub fn abandon(self) {
        if let Some(settle) = &self.0 {
            settle.abandoned.store(true, Ordering::Relaxed);
        }
    }

    /// A receipt for a message that the broker has given away: `Ok` comes when it is settled, an error when it
    /// was abandoned.
    #[must_use]
    pub fn kept() -> (Self, oneshot::Receiver<()>) {
        let (keeper, settled) = oneshot::channel();
        let settle = Settle { waits: Mutex::new(Waits::Keeper(keeper)), abandoned: AtomicBool::new(false) };
        (Self(Some(Arc::new(settle))), settled)
    }

    /// Lets the acknowledgement go out now: the caller keeps the message until it is settled. `Ok` comes then, an
    /// error when it was abandoned. Nothing where it is not the broker who keeps it, where it is abandoned, or
    /// where its connection is over: the broker sends it again then.
    #[must_use]
    pub fn take_over(&self) -> Option<oneshot::Receiver<()>> {
        let settle = self.0.as_ref().filter(|settle| !settle.abandoned.load(Ordering::Relaxed))?;
        let mut waits = settle.waits();
        if !matches!(&*waits, Waits::Broker { acks, .. } if !acks.over.load(Ordering::Relaxed)) {
            return None;
        }
        let (keeper, settled) = oneshot::channel();
        let before = std::mem::replace(&mut *waits, Waits::Keeper(keeper));
        drop(waits);
        if let Waits::Broker { acks, number } = before {
            acks.settle(number);
        }
        Some(settled)
    }

    /// Whether somebody else than the broker keeps the message.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.as_ref().is_some_and(|settle| matches!(&*settle.waits(), Waits::Keeper(_)))
    }

    /// How many settled messages cannot be acknowledged because this one is not.
    #[must_use]
    pub fn holds_up(&self) -> usize {
        let Some(settle) = &self.0 else { return 0 };
        match &*settle.waits() {
            Waits::Broker { acks, number } => acks.settled_behind(*number),
            Waits::Keeper(_) | Waits::Nobody => 0,
        }
    }

    /// The same receipt without holding anything back; nothing where there is nothing to acknowledge.
    #[must_use]
    pub fn downgrade(&self) -> Option<WeakReceipt> {
        self.0.as_ref().map(|settle| WeakReceipt(Arc::downgrade(settle)))
    }

    /// Whether there is nothing to acknowledge, as for QoS 0.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_empty() { "Receipt(nothing)" } else { "Receipt" })
    }
}

impl fmt::Debug for Settle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Settle").finish_non_exhaustive()
    }
}

impl Settle {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        // No code that can panic runs under the lock.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Settle {
    fn drop(&mut self) {
        if *self.abandoned.get_mut() {
            // Dropping a keeper's sender tells it so.
            return;
        }
        match std::mem::replace(&mut *self.waits(), Waits::Nobody) {
            Waits::Broker { acks, number } => acks.settle(number),
            // A keeper that is gone does not want to know.
            Waits::Keeper(settled) => _ = settled.send(()),
            Waits::Nobody => {}
        }
    }
}

impl WeakReceipt {
    /// The receipt, while anybody else still holds it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Receipt> {
        self.0.upgrade().map(|settle| Receipt(Some(settle)))
    }
}

impl Acks {
    /// Takes note of a message that has arrived.
    pub(super) fn open(self: &Arc<Self>, packet_id: u16) -> Receipt {
        let mut window = self.lock();
        let number = window.first + window.entries.len() as u64;
        window.entries.push_back(Entry { packet_id, settled: false });
        drop(window);
        let waits = Mutex::new(Waits::Broker { acks: Arc::clone(self), number });
        Receipt(Some(Arc::new(Settle { waits, abandoned: AtomicBool::new(false) })))
    }

    /// A message may be acknowledged as soon as those before it may.
    fn settle(&self, number: u64) {
        let settled_first = {
            let mut window = self.lock();
            let index = window.index(number);
            if let Some(entry) = index.and_then(|index| window.entries.get_mut(index)) {
                entry.settled = true;
            }
            index == Some(0)
        };
        if settled_first {
            self.ready.notify_one();
        }
    }

    /// How many settled messages wait for this one, where it is the oldest.
    fn settled_behind(&self, number: u64) -> usize {
        let window = self.lock();
        match window.index(number) {
            Some(0) => window.entries.iter().filter(|entry| entry.settled).count(),
            _ => 0,
        }
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

    /// Notes that no further acknowledgement goes out.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
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

    use super::{Acks, Receipt};

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
    fn what_somebody_else_keeps_is_acknowledged_before_it_is_settled() {
        let acks = Arc::new(Acks::default());
        let [first, second, third] = [1, 2, 3].map(|id| acks.open(id));
        drop(second);
        assert_eq!((first.holds_up(), third.holds_up()), (1, 0), "only the oldest holds others up");
        let mut settled = first.take_over().unwrap();
        assert!(first.take_over().is_none(), "it can be given away once");
        assert_eq!(take_due(&acks), [1, 2]);
        assert!(
            settled.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Empty)
        );
        let weak = first.downgrade().unwrap();
        drop(weak.upgrade().unwrap());
        drop(first);
        assert!(settled.try_recv().is_ok());
        assert!(weak.upgrade().is_none());
        third.clone().abandon();
        assert!(third.take_over().is_none(), "what is abandoned stays with the broker");
        let fourth = acks.open(4);
        acks.end();
        assert!(fourth.take_over().is_none(), "the broker sends it again");
    }

    #[test]
    fn a_keeper_learns_what_became_of_its_message() {
        let (receipt, mut settled) = Receipt::kept();
        assert!(receipt.take_over().is_none());
        drop(receipt);
        assert!(settled.try_recv().is_ok());
        let (receipt, mut settled) = Receipt::kept();
        receipt.abandon();
        assert!(settled.try_recv().is_err());
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
