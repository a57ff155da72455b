//! Which publishes are on their way and in which order they go again when the connection is lost. Sends
//! nothing itself.

use std::{collections::VecDeque, mem, time::Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    outbox::{Outgoing, Refused},
    receipt::Receipt,
};

/// After this many lost connections in a row a message is suspected of losing them, and sent alone.
const SUSPECT: u8 = 3;
/// After this many it is the culprit, alone as it was every time since, each time behind a confirmed
/// `online`: it is given up, or nothing would ever be sent again.
const GIVE_UP: u8 = 8;

/// A publish and who waits for it. One that is dropped before it is finished gives up its receipt: what was
/// not published is not acknowledged either.
pub(super) struct Item {
    pub(super) outgoing: Outgoing,
    pub(super) kind: Kind,
    receipt: Receipt,
    waiter: Option<oneshot::Sender<Result<(), Refused>>>,
    made: Instant,
    losses: u8,
    /// Its share of the memory that queued messages may take.
    pub(super) share: Option<OwnedSemaphorePermit>,
}

/// What a publish is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Somebody wants it sent.
    Message,
    /// Says that the bridge is there; made anew for each connection.
    Online,
    /// Says that it is gone.
    Offline,
}

/// The publishes of the outbox from their leaving the queue to their PUBACK.
#[derive(Default)]
pub(super) struct Flight {
    /// To be sent again, before anything new.
    again: VecDeque<Item>,
    /// Given to the client.
    given: VecDeque<Item>,
    /// Written, with their packet identifiers.
    unconfirmed: VecDeque<(u16, Item)>,
}

impl Item {
    pub(super) fn new(
        mut outgoing: Outgoing,
        kind: Kind,
        waiter: Option<oneshot::Sender<Result<(), Refused>>>,
    ) -> Self {
        let receipt = mem::take(&mut outgoing.receipt);
        Self { outgoing, kind, receipt, waiter, made: Instant::now(), losses: 0, share: None }
    }

    /// It is done with, one way or the other.
    pub(super) fn finish(mut self, result: Result<(), Refused>) {
        if let Some(waiter) = self.waiter.take() {
            // Nobody may be waiting any more.
            waiter.send(result).ok();
        }
        drop(mem::take(&mut self.receipt));
    }

    /// For how many seconds it is still of interest; `Some(0)` when it is too late.
    pub(super) fn expiry(&self) -> Option<u32> {
        let waited = u32::try_from(self.made.elapsed().as_secs()).unwrap_or(u32::MAX);
        self.outgoing.properties.message_expiry.map(|expiry| expiry.saturating_sub(waited))
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        mem::take(&mut self.receipt).abandon();
    }
}

impl Flight {
    /// Whether one more may be sent where `window` are allowed unconfirmed.
    pub(super) fn has_room(&self, window: usize) -> bool {
        let suspect = |item: &Item| item.losses >= SUSPECT;
        let alone = self.again.front().is_some_and(suspect)
            || self.given.iter().chain(self.unconfirmed.iter().map(|(_, item)| item)).any(suspect);
        self.given.len() + self.unconfirmed.len() < if alone { 1 } else { window }
    }

    /// The next one to send again.
    pub(super) fn next(&mut self) -> Option<Item> {
        self.again.pop_front()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.again.is_empty() && self.given.is_empty() && self.unconfirmed.is_empty()
    }

    /// An item could not be given to the client after all.
    pub(super) fn put_back(&mut self, item: Item) {
        self.again.push_front(item);
    }

    /// An item was given to the client.
    pub(super) fn given(&mut self, item: Item) {
        self.given.push_back(item);
    }

    /// The client wrote the oldest item it was given, with this packet identifier; one at QoS 0 has none and
    /// is done.
    pub(super) fn written(&mut self, packet_id: u16) -> Option<Item> {
        let item = self.given.pop_front()?;
        if packet_id == 0 {
            return Some(item);
        }
        self.unconfirmed.push_back((packet_id, item));
        None
    }

    /// The broker answered.
    pub(super) fn confirmed(&mut self, packet_id: u16) -> Option<Item> {
        let index = self.unconfirmed.iter().position(|(id, _)| *id == packet_id)?;
        self.unconfirmed.remove(index).map(|(_, item)| item)
    }

    /// The connection is lost: everything unconfirmed goes again, in order, before what waited already. Gives
    /// those that lost it too often.
    pub(super) fn lost(&mut self) -> Vec<Item> {
        let unconfirmed = mem::take(&mut self.unconfirmed).into_iter().map(|(_, item)| item);
        let flying = unconfirmed.chain(mem::take(&mut self.given));
        let (mut given_up, mut again) = (Vec::new(), VecDeque::new());
        for mut item in flying.filter(|item| item.kind == Kind::Message) {
            item.losses += 1;
            if item.losses >= GIVE_UP { given_up.push(item) } else { again.push_back(item) }
        }
        again.append(&mut self.again);
        self.again = again;
        given_up
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Flight, GIVE_UP, Item, Kind, Outgoing, SUSPECT};
    use crate::{model::Topic, mqtt::OutgoingProperties};

    fn item(topic: &str) -> Item {
        Item::new(Outgoing::new(Topic::parse(topic).unwrap(), "x"), Kind::Message, None)
    }

    fn topics(flight: &mut Flight) -> Vec<String> {
        std::iter::from_fn(|| flight.next())
            .map(|item| {
                let topic = item.outgoing.topic.to_string();
                item.finish(Ok(()));
                topic
            })
            .collect()
    }

    #[test]
    fn what_is_unconfirmed_goes_again_in_order_before_the_rest() {
        let mut flight = Flight::default();
        for (index, topic) in ["a", "b", "c", "d"].into_iter().enumerate() {
            flight.given(item(topic));
            if index < 3 {
                assert!(flight.written(u16::try_from(index).unwrap() + 1).is_none());
            }
        }
        flight.put_back(item("e"));
        assert_eq!(flight.confirmed(2).unwrap().outgoing.topic.as_str(), "b");
        assert!(flight.confirmed(2).is_none());
        assert!(flight.lost().is_empty());
        assert_eq!(topics(&mut flight), ["a", "c", "d", "e"]);
        assert!(flight.is_empty());
    }

    #[test]
    fn a_message_at_qos_0_is_done_when_written() {
        let mut flight = Flight::default();
        flight.given(item("a"));
        assert!(flight.written(0).is_some());
        assert!(flight.is_empty());
    }

    #[test]
    fn the_message_that_loses_every_connection_is_found_and_given_up() {
        let mut flight = Flight::default();
        ["good", "bad", "other"].into_iter().for_each(|topic| flight.put_back(item(topic)));
        let mut sent = Vec::new();
        let mut given_up = Vec::new();
        for _ in 0..20 {
            // "bad" loses the connection as soon as it is sent; what was sent before it is confirmed or not.
            while flight.has_room(100) {
                let Some(item) = flight.next() else { break };
                let topic = item.outgoing.topic.to_string();
                sent.push(topic.clone());
                flight.given(item);
                flight.written(1);
                if topic != "bad" && !flight.has_room(100) {
                    flight.confirmed(1).unwrap().finish(Ok(()));
                }
            }
            given_up.extend(flight.lost().into_iter().map(|item| item.outgoing.topic.to_string()));
        }
        assert_eq!(given_up, ["bad"]);
        assert_eq!(sent.iter().filter(|topic| *topic == "bad").count(), usize::from(GIVE_UP));
        assert!(sent.iter().filter(|topic| *topic != "bad").count() <= 2 * usize::from(SUSPECT + 1));
        assert!(flight.is_empty());
    }

    #[test]
    fn expiry_counts_the_time_in_the_queue() {
        let mut item = item("a");
        assert_eq!(item.expiry(), None);
        item.outgoing.properties =
            OutgoingProperties { message_expiry: Some(60), ..OutgoingProperties::default() };
        item.made = item.made.checked_sub(Duration::from_secs(20)).unwrap();
        assert_eq!(item.expiry(), Some(40));
        item.made = item.made.checked_sub(Duration::from_secs(70)).unwrap();
        assert_eq!(item.expiry(), Some(0));
    }
}
