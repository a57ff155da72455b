//! A plugin's mailbox, bounded in entries and in bytes. Knows how much mail weighs, never what it is for.
//!
//! Two bounds: what nobody would send again finds room here or is lost; calls, and what a message at QoS 1 waits for,
//! wait here beyond that, until the plugin is so far behind that it is refused. So one that is slow loses its own mail,
//! and nobody waits to put some in, which would also mix up its order.
//!
//! Two lanes, taken in turns: calls, whose answer somebody waits for, do not wait behind all events and messages.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::mail::Mail;

/// Mail that may wait, in KiB. One piece may always wait, however large.
const MAX_KIB: u32 = 8 * 1024;

/// How far a plugin may be behind in all, in bytes.
const MOST_BYTES: usize = 32 << 20;
/// Its part of that while all plugins together are far behind.
const PART: usize = 10;

/// Puts mail in. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    calls: mpsc::UnboundedSender<Letter>,
    news: mpsc::UnboundedSender<Letter>,
    room: Room,
    behind: Arc<Behind>,
    /// Pieces of mail that may wait in all.
    backlog: usize,
    crowd: Crowd,
}

/// Whether more waits for plugins than the bridge can keep: then whoever is far behind is refused sooner.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd(Arc<AtomicBool>);

/// What waits for a plugin.
#[derive(Debug, Default)]
struct Behind {
    mails: AtomicUsize,
    bytes: AtomicUsize,
}

/// A piece of mail that waits, until the plugin takes it.
#[derive(Debug)]
struct Waits {
    behind: Arc<Behind>,
    bytes: usize,
}

/// Takes mail out.
#[derive(Debug)]
pub(super) struct Inbox {
    calls: mpsc::UnboundedReceiver<Letter>,
    news: mpsc::UnboundedReceiver<Letter>,
    /// Whether a call came out last: then it is the other lane's turn.
    after_call: bool,
}

/// What is taken out of a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Everything.
    Both,
    /// Calls alone; events and messages wait on.
    Calls,
}

/// Why mail was not taken.
#[derive(Debug)]
pub(super) enum Returned {
    /// There is no room: what nobody would send again is lost.
    Full,
    /// The plugin is so many pieces of mail behind.
    Behind(usize),
    /// The plugin takes no mail any more; here it is.
    Closed(Box<Mail>),
}

/// The places that are free. The channel has no bound of its own: its letters hold these.
#[derive(Debug, Clone)]
struct Room {
    entries: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

#[derive(Debug)]
struct Letter {
    mail: Mail,
    _waits: Waits,
    /// Given back when the plugin takes the mail; nothing for what may not be refused.
    _place: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Sets up a mailbox for so many entries, and a backlog of so many.
pub(super) fn open(entries: usize, backlog: usize, crowd: Crowd) -> (Mailbox, Inbox) {
    let (to_calls, calls) = mpsc::unbounded_channel();
    let (to_news, news) = mpsc::unbounded_channel();
    let entries = Arc::new(Semaphore::new(entries));
    let room = Room { entries, kib: Arc::new(Semaphore::new(MAX_KIB as usize)) };
    let behind = Arc::default();
    let mailbox = Mailbox { calls: to_calls, news: to_news, room, behind, backlog, crowd };
    (mailbox, Inbox { calls, news, after_call: false })
}

impl Crowd {
    pub(super) fn set(&self, crowded: bool) {
        self.0.store(crowded, Ordering::Relaxed);
    }
}

impl Waits {
    fn begin(behind: &Arc<Behind>, mail: &Mail) -> Self {
        let bytes = mail.bytes();
        behind.mails.fetch_add(1, Ordering::Relaxed);
        behind.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { behind: behind.clone(), bytes }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.behind.mails.fetch_sub(1, Ordering::Relaxed);
        self.behind.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Mailbox {
    /// For calls, whose answer somebody waits for: taken in their order, without waiting for room, until the plugin is
    /// too far behind.
    pub(super) fn post(&self, mail: Mail) -> Result<(), Returned> {
        self.check(&mail)?;
        let waits = Waits::begin(&self.behind, &mail);
        self.send(mail, waits, None)
    }

    /// Does not wait: where it is full the mail is lost.
    pub(super) fn offer(&self, mail: Mail) -> Result<(), Returned> {
        match self.place(&mail) {
            Some(place) => {
                let waits = Waits::begin(&self.behind, &mail);
                self.send(mail, waits, Some(place))
            }
            None if self.is_closed() => Err(Returned::Closed(Box::new(mail))),
            None => Err(Returned::Full),
        }
    }

    /// For what a message at QoS 1 waits for: it is taken also where there is no room, until the plugin is too far
    /// behind.
    pub(super) fn press(&self, mail: Mail) -> Result<(), Returned> {
        self.check(&mail)?;
        let (waits, place) = (Waits::begin(&self.behind, &mail), self.place(&mail));
        self.send(mail, waits, place)
    }

    /// How many pieces of mail wait.
    pub(super) fn behind(&self) -> usize {
        self.behind.mails.load(Ordering::Relaxed)
    }

    fn check(&self, mail: &Mail) -> Result<(), Returned> {
        let part = if self.crowd.0.load(Ordering::Relaxed) { PART } else { 1 };
        let (mails, bytes) = (self.behind(), self.behind.bytes.load(Ordering::Relaxed));
        if mail.cause().was_kept() || (mails < self.backlog.div_ceil(part) && bytes < MOST_BYTES / part) {
            return Ok(());
        }
        Err(Returned::Behind(mails))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.calls.is_closed()
    }

    fn place(&self, mail: &Mail) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let Room { entries, kib } = self.room.clone();
        let entry = entries.try_acquire_owned().ok()?;
        Some((entry, kib.try_acquire_many_owned(weight(mail)).ok()?))
    }

    fn send(
        &self,
        mail: Mail,
        waits: Waits,
        place: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    ) -> Result<(), Returned> {
        let lane = if matches!(mail, Mail::Hook { .. }) { &self.calls } else { &self.news };
        let sent = lane.send(Letter { mail, _waits: waits, _place: place });
        sent.map_err(|mpsc::error::SendError(letter)| Returned::Closed(Box::new(letter.mail)))
    }
}

impl Inbox {
    /// Whether no mail waits.
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.news.is_empty()
    }

    /// The next piece of mail; nothing once it is closed and empty. Cancel-safe.
    pub(super) async fn recv(&mut self, lane: Lane) -> Option<Mail> {
        let letter = match lane {
            Lane::Calls => self.calls.recv().await,
            Lane::Both => self.recv_either().await,
        };
        let mail = letter?.mail;
        self.after_call = matches!(mail, Mail::Hook { .. });
        Some(mail)
    }

    async fn recv_either(&mut self) -> Option<Letter> {
        let (first, second) = match self.after_call {
            true => (&mut self.news, &mut self.calls),
            false => (&mut self.calls, &mut self.news),
        };
        tokio::select! {
            biased;
            Some(letter) = first.recv() => Some(letter),
            Some(letter) = second.recv() => Some(letter),
            else => None,
        }
    }

    /// Takes no further mail; what is there can still be taken out.
    pub(super) fn close(&mut self) {
        self.calls.close();
        self.news.close();
    }
}

fn weight(mail: &Mail) -> u32 {
    u32::try_from(mail.bytes() / 1024 + 1).unwrap_or(MAX_KIB).min(MAX_KIB)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::value::to_raw_value;
    use tokio::sync::oneshot;

    use super::{Crowd, Lane, MAX_KIB, MOST_BYTES, PART, Returned, open};
    use crate::{
        effects::{Budget, Cause},
        model::{frame::Input, message::EventInfo},
        plugin::mail::{Event, Mail},
    };

    fn event(bytes: usize) -> Mail {
        let info = EventInfo { name: "e".into(), plugin: None, id: String::new(), timestamp: String::new() };
        let event = Arc::new(Event::new(info, to_raw_value(&"x".repeat(bytes)).unwrap()));
        Mail::Event { event, cause: Cause::none(), reply: oneshot::channel().0 }
    }

    fn hook() -> Mail {
        let reply = oneshot::channel().0;
        Mail::Hook { hook: "on_chat", input: Input::Nothing, cause: Cause::none(), reply }
    }

    #[tokio::test]
    async fn it_is_full_by_entries_and_by_bytes() {
        let (mailbox, mut inbox) = open(2, 9, Crowd::default());
        assert!(mailbox.offer(event(1)).is_ok() && mailbox.offer(event(1)).is_ok());
        assert!(matches!(mailbox.offer(event(1)), Err(Returned::Full)));
        inbox.recv(Lane::Both).await.unwrap();
        assert!(mailbox.offer(event(1)).is_ok());

        let (mailbox, mut inbox) = open(256, 999, Crowd::default());
        let half = MAX_KIB as usize * 512;
        assert!(mailbox.offer(event(half)).is_ok());
        assert!(matches!(mailbox.offer(event(half)), Err(Returned::Full)), "with its own weight it is more");
        assert!(mailbox.offer(event(1)).is_ok(), "a small one still fits");
        inbox.recv(Lane::Both).await.unwrap();
        inbox.recv(Lane::Both).await.unwrap();
        assert!(mailbox.offer(event(4 * half)).is_ok(), "one may wait, however large");
        assert!(mailbox.offer(event(1)).is_err());
    }

    #[tokio::test]
    async fn calls_and_what_a_message_waits_for_need_no_room() {
        let (mailbox, mut inbox) = open(1, 9, Crowd::default());
        mailbox.offer(event(1)).unwrap();
        assert!(mailbox.offer(event(1)).is_err());
        assert!(mailbox.press(event(1)).is_ok());
        assert!(mailbox.post(hook()).is_ok() && mailbox.post(hook()).is_ok());
        assert_eq!(mailbox.behind(), 4);
        for _ in 0..4 {
            inbox.recv(Lane::Both).await.unwrap();
        }
        assert_eq!(mailbox.behind(), 0);
        assert!(mailbox.offer(event(1)).is_ok());
    }

    #[test]
    fn one_that_is_too_far_behind_is_refused_and_sooner_in_a_crowd() {
        let crowd = Crowd::default();
        let (mailbox, mut inbox) = open(1, 100, crowd.clone());
        for _ in 0..100 / PART {
            mailbox.press(event(1)).unwrap();
        }
        crowd.set(true);
        assert!(matches!(mailbox.press(event(1)), Err(Returned::Behind(10))));
        let (receipt, _settled) = crate::mqtt::Receipt::kept();
        let cause = Cause::message(receipt, 0, Budget::of_message());
        let kept = Mail::Hook { hook: "on_chat", input: Input::Nothing, cause, reply: oneshot::channel().0 };
        assert!(mailbox.press(kept).is_ok(), "what an earlier run has taken is refused nowhere");
        crowd.set(false);
        while mailbox.behind() < 100 {
            mailbox.press(event(1)).unwrap();
        }
        assert!(matches!(mailbox.press(event(1)), Err(Returned::Behind(100))));
        inbox.news.try_recv().unwrap();
        assert!(mailbox.press(event(1)).is_ok());

        let (mailbox, _inbox) = open(1, 9, Crowd::default());
        mailbox.press(event(MOST_BYTES)).unwrap();
        assert!(mailbox.press(event(1)).is_err());
    }

    #[test]
    fn nothing_is_put_in_where_nobody_takes_it_out() {
        let (mailbox, inbox) = open(1, 9, Crowd::default());
        drop(inbox);
        assert!(matches!(mailbox.post(hook()), Err(Returned::Closed(_))));
        assert!(matches!(mailbox.offer(event(1)), Err(Returned::Closed(_))));
        assert!(matches!(mailbox.press(event(1)), Err(Returned::Closed(_))));
    }

    #[tokio::test]
    async fn a_call_does_not_wait_behind_all_news_nor_news_behind_all_calls() {
        let (mailbox, mut inbox) = open(99, 99, Crowd::default());
        for _ in 0..3 {
            mailbox.press(event(1)).unwrap();
        }
        for _ in 0..2 {
            mailbox.post(hook()).unwrap();
        }
        let mut came = Vec::new();
        for _ in 0..5 {
            came.push(matches!(inbox.recv(Lane::Both).await, Some(Mail::Hook { .. })));
        }
        assert_eq!(came, [true, false, true, false, false]);
        mailbox.press(event(1)).unwrap();
        mailbox.post(hook()).unwrap();
        mailbox.post(hook()).unwrap();
        for _ in 0..2 {
            assert!(matches!(inbox.recv(Lane::Calls).await, Some(Mail::Hook { .. })));
        }
        assert!(!inbox.is_empty(), "the event waits on");
    }
}
