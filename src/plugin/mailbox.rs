//! A plugin's mailbox, bounded in entries and in bytes. Knows how much mail weighs, never what it is for.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::mail::Mail;

/// Mail that may wait, in KiB. One piece may always wait, however large.
const MAX_KIB: u32 = 8 * 1024;

/// Puts mail in. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    letters: mpsc::UnboundedSender<Letter>,
    room: Room,
}

/// Takes mail out.
#[derive(Debug)]
pub(super) struct Inbox {
    letters: mpsc::UnboundedReceiver<Letter>,
    room: Room,
}

/// Why mail was not taken.
#[derive(Debug)]
pub(super) enum Returned {
    /// There is no room: what nobody would send again is lost.
    Full,
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
    /// Given back when the plugin takes the mail; nothing for what may not be refused.
    _place: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
}

/// Sets up a mailbox for so many entries.
pub(super) fn open(entries: usize) -> (Mailbox, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let entries = Arc::new(Semaphore::new(entries));
    let room = Room { entries, kib: Arc::new(Semaphore::new(MAX_KIB as usize)) };
    (Mailbox { letters: sender, room: room.clone() }, Inbox { letters: receiver, room })
}

impl Mailbox {
    /// Waits for room: a request's task stands still meanwhile, and there are only so many of those.
    pub(super) async fn post(&self, mail: Mail) -> Result<(), Returned> {
        let Room { entries, kib } = self.room.clone();
        let Ok(entry) = entries.acquire_owned().await else { return Err(Returned::Closed(Box::new(mail))) };
        let Ok(kib) = kib.acquire_many_owned(weight(&mail)).await else {
            return Err(Returned::Closed(Box::new(mail)));
        };
        self.send(mail, Some((entry, kib)))
    }

    /// Does not wait: where it is full the mail is lost.
    pub(super) fn offer(&self, mail: Mail) -> Result<(), Returned> {
        match self.place(&mail) {
            Some(place) => self.send(mail, Some(place)),
            None if self.is_closed() => Err(Returned::Closed(Box::new(mail))),
            None => Err(Returned::Full),
        }
    }

    /// For what a message at QoS 1 waits for: it is taken also where there is no room. What is in flight and
    /// parked bounds the messages, and the emitter's backlog what they may cause: it, not this plugin, is refused.
    pub(super) fn press(&self, mail: Mail) -> Result<(), Returned> {
        let place = self.place(&mail);
        self.send(mail, place)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.letters.is_closed()
    }

    fn place(&self, mail: &Mail) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let Room { entries, kib } = self.room.clone();
        let entry = entries.try_acquire_owned().ok()?;
        Some((entry, kib.try_acquire_many_owned(weight(mail)).ok()?))
    }

    fn send(
        &self,
        mail: Mail,
        place: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    ) -> Result<(), Returned> {
        let sent = self.letters.send(Letter { mail, _place: place });
        sent.map_err(|mpsc::error::SendError(letter)| Returned::Closed(Box::new(letter.mail)))
    }
}

impl Inbox {
    /// The next piece of mail; nothing once it is closed and empty. Cancel-safe.
    pub(super) async fn recv(&mut self) -> Option<Mail> {
        self.letters.recv().await.map(|letter| letter.mail)
    }

    /// Takes no further mail; what is there can still be taken out.
    pub(super) fn close(&mut self) {
        self.letters.close();
        self.room.entries.close();
        self.room.kib.close();
    }
}

/// Whoever waits for room in a mailbox that nobody empties is told so.
impl Drop for Inbox {
    fn drop(&mut self) {
        self.close();
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

    use super::{MAX_KIB, Returned, open};
    use crate::{
        effects::Cause,
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
        let (mailbox, mut inbox) = open(2);
        assert!(mailbox.offer(event(1)).is_ok() && mailbox.offer(event(1)).is_ok());
        assert!(matches!(mailbox.offer(event(1)), Err(Returned::Full)));
        inbox.recv().await.unwrap();
        assert!(mailbox.offer(event(1)).is_ok());

        let (mailbox, mut inbox) = open(256);
        let half = MAX_KIB as usize * 512;
        assert!(mailbox.offer(event(half)).is_ok());
        assert!(matches!(mailbox.offer(event(half)), Err(Returned::Full)), "with its own weight it is more");
        assert!(mailbox.offer(event(1)).is_ok(), "a small one still fits");
        inbox.recv().await.unwrap();
        inbox.recv().await.unwrap();
        assert!(mailbox.offer(event(4 * half)).is_ok(), "one may wait, however large");
        assert!(mailbox.offer(event(1)).is_err());
    }

    #[tokio::test]
    async fn a_request_waits_for_room_and_what_a_message_waits_for_does_not() {
        let (mailbox, mut inbox) = open(1);
        mailbox.post(hook()).await.unwrap();
        let waits = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { mailbox.post(hook()).await.is_ok() }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        assert!(mailbox.press(event(1)).is_ok());
        assert!(matches!(inbox.recv().await, Some(Mail::Hook { .. })));
        assert!(waits.await.unwrap());
        assert!(matches!(inbox.recv().await, Some(Mail::Event { .. })));
        assert!(matches!(inbox.recv().await, Some(Mail::Hook { .. })));
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_end() {
        let (mailbox, inbox) = open(1);
        mailbox.post(hook()).await.unwrap();
        let waits = tokio::spawn({
            let mailbox = mailbox.clone();
            async move { matches!(mailbox.post(hook()).await, Err(Returned::Closed(_))) }
        });
        tokio::task::yield_now().await;
        drop(inbox);
        assert!(waits.await.unwrap());
        assert!(matches!(mailbox.offer(event(1)), Err(Returned::Closed(_))));
        assert!(matches!(mailbox.press(event(1)), Err(Returned::Closed(_))));
    }
}
