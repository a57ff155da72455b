//! Which filters are wanted, which are to go, and what the broker has not answered yet. Sends nothing itself.

use std::collections::VecDeque;

use rumqttc::v5::mqttbytes::{
    QoS,
    v5::{Filter as WireFilter, RetainForwardRule, Subscribe, SubscribeProperties, Unsubscribe},
};

use crate::model::Filter;

/// What to subscribe to. A filter has one subscription: a second one replaces the first, identifier and all
/// (MQTT 5 §3.8.4), so whoever wants a filter for several takers hands its messages to each of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// To what.
    pub filter: Filter,
    /// Comes back with each message; 1 to [`LARGEST_ID`], else there is none.
    pub id: usize,
    /// 0 or 1.
    pub qos: u8,
    /// Which retained messages to send when it is made.
    pub retain_handling: RetainHandling,
    /// Whether messages keep the retain flag that their sender gave them.
    pub retain_as_published: bool,
}

/// Which retained messages the broker sends when a subscription is made (MQTT 5 §3.8.3.1). Every connect
/// subscribes anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetainHandling {
    /// All, at every connect.
    SendAtSubscribe,
    /// All, unless the broker knew the subscription.
    OnlyIfNew,
    /// None.
    Never,
}

/// The largest identifier of a subscription, as of any variable byte integer (MQTT 5 §1.5.5).
pub const LARGEST_ID: usize = 268_435_455;

/// A change that the broker has to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Subscribe(Subscription),
    Unsubscribe(Filter),
}

/// The filters of a session.
pub(super) struct Subscriptions {
    wanted: Vec<Subscription>,
    /// What the broker may still have and is to give up.
    unwanted: Vec<Filter>,
    /// What the broker may have from an earlier run, while it is open whether that is still wanted.
    undecided: Vec<Filter>,
    /// What to tell the broker on this connection; empty while there is none.
    queue: VecDeque<Change>,
    /// What it was told and has not answered, with the packet identifier once that is known.
    sent: VecDeque<(Option<u16>, Change)>,
}

impl Subscriptions {
    /// `known` are the filters that the broker's session may have from an earlier run: they stay until
    /// [`Subscriptions::decide`].
    pub(super) fn new(wanted: Vec<Subscription>, known: Vec<Filter>) -> Self {
        let mut all = Self {
            wanted: Vec::new(),
            unwanted: Vec::new(),
            undecided: known,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
        };
        for subscription in wanted {
            all.want(subscription);
        }
        all
    }

    /// Every filter that the broker may have.
    pub(super) fn filters(&self) -> Vec<Filter> {
        let wanted = self.wanted.iter().map(|wanted| &wanted.filter);
        wanted.chain(&self.unwanted).chain(&self.undecided).cloned().collect()
    }

    /// How many changes the broker has not answered.
    pub(super) fn pending(&self) -> usize {
        self.queue.len() + self.sent.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.sent.len()
    }

    /// A connection stands: everything has to be told again, also on a session that the broker knew, since
    /// it may have been another bridge's or be older than the configuration.
    pub(super) fn connected(&mut self) {
        self.sent.clear();
        let subscribe = self.wanted.iter().cloned().map(Change::Subscribe);
        let unsubscribe = self.unwanted.iter().cloned().map(Change::Unsubscribe);
        self.queue = subscribe.chain(unsubscribe).collect();
    }

    /// The connection is gone.
    pub(super) fn disconnected(&mut self) {
        self.sent.clear();
        self.queue.clear();
    }

    /// Wants a filter from now on.
    pub(super) fn want(&mut self, subscription: Subscription) {
        self.unwanted.retain(|filter| *filter != subscription.filter);
        self.undecided.retain(|filter| *filter != subscription.filter);
        match self.wanted.iter_mut().find(|wanted| wanted.filter == subscription.filter) {
            Some(wanted) => *wanted = subscription,
            None => self.wanted.push(subscription),
        }
    }

    /// Wants a filter no longer.
    pub(super) fn unwant(&mut self, filter: &Filter) {
        self.wanted.retain(|wanted| wanted.filter != *filter);
        if !self.unwanted.contains(filter) {
            self.unwanted.push(filter.clone());
        }
    }

    /// All that is wanted of an earlier run's filters is wanted by now; gives the rest, which is wanted no longer.
    pub(super) fn decide(&mut self) -> Vec<Filter> {
        let rest = std::mem::take(&mut self.undecided);
        rest.iter().for_each(|filter| self.unwant(filter));
        rest
    }

    /// Has the broker told of a change, on a connection that stands.
    pub(super) fn tell(&mut self, change: Change) {
        self.queue.push_back(change);
    }

    pub(super) fn next(&mut self) -> Option<Change> {
        self.queue.pop_front()
    }

    pub(super) fn put_back(&mut self, change: Change) {
        self.queue.push_front(change);
    }

    pub(super) fn sent(&mut self, change: Change) {
        self.sent.push_back((None, change));
    }

    /// rumqttc sends in order and says which packet identifier it took.
    pub(super) fn numbered(&mut self, packet_id: u16) {
        if let Some((id, _)) = self.sent.iter_mut().find(|(id, _)| id.is_none()) {
            *id = Some(packet_id);
        }
    }

    /// The broker answered.
    pub(super) fn answered(&mut self, packet_id: u16) -> Option<Change> {
        let index = self.sent.iter().position(|(id, _)| *id == Some(packet_id))?;
        let (_, change) = self.sent.remove(index)?;
        if let Change::Unsubscribe(gone) = &change {
            self.unwanted.retain(|filter| filter != gone);
        }
        Some(change)
    }
}

impl Change {
    pub(super) fn filter(&self) -> &Filter {
        match self {
            Self::Subscribe(subscription) => &subscription.filter,
            Self::Unsubscribe(filter) => filter,
        }
    }

    /// The packet's size in bytes; rumqttc would lose the connection over one that is too large, for ever.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Subscribe(subscription) => {
                Subscribe::new(subscription.wire_filter(), subscription.wire_properties()).size()
            }
            Self::Unsubscribe(filter) => Unsubscribe::new(filter.as_str(), None).size(),
        }
    }
}

impl Subscription {
    pub(super) fn wire_filter(&self) -> WireFilter {
        let qos = if self.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        let mut filter = WireFilter::new(self.filter.as_str(), qos);
        filter.preserve_retain = self.retain_as_published;
        filter.retain_forward_rule = match self.retain_handling {
            RetainHandling::SendAtSubscribe => RetainForwardRule::OnEverySubscribe,
            RetainHandling::OnlyIfNew => RetainForwardRule::OnNewSubscribe,
            RetainHandling::Never => RetainForwardRule::Never,
        };
        filter
    }

    /// Nothing where the identifier is none (MQTT 5 §3.8.2.1.2): it would be a protocol error.
    pub(super) fn wire_properties(&self) -> Option<SubscribeProperties> {
        (1..=LARGEST_ID)
            .contains(&self.id)
            .then(|| SubscribeProperties { id: Some(self.id), user_properties: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::{Change, Filter, RetainHandling, Subscription, Subscriptions};

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    fn subscription(text: &str, id: usize) -> Subscription {
        Subscription {
            filter: filter(text),
            id,
            qos: 1,
            retain_handling: RetainHandling::Never,
            retain_as_published: true,
        }
    }

    fn drain(subscriptions: &mut Subscriptions) -> Vec<Change> {
        std::iter::from_fn(|| subscriptions.next()).collect()
    }

    #[test]
    fn a_connect_subscribes_what_is_wanted_and_ends_what_is_not() {
        let known = vec![filter("old/#"), filter("late"), filter("a")];
        let mut all = Subscriptions::new(vec![subscription("a", 1), subscription("b", 2)], known);
        let wanted = [Change::Subscribe(subscription("a", 1)), Change::Subscribe(subscription("b", 2))];
        all.connected();
        assert_eq!(drain(&mut all), wanted, "what an earlier run had may be wanted yet");
        all.want(subscription("late", 3));
        assert_eq!(all.decide(), [filter("old/#")]);
        all.connected();
        let late = Change::Subscribe(subscription("late", 3));
        let rest = [late, Change::Unsubscribe(filter("old/#"))];
        assert_eq!(drain(&mut all), [&wanted[..], &rest[..]].concat());
        assert_eq!(all.filters(), ["a", "b", "late", "old/#"].map(filter));
        assert_eq!(all.decide(), []);
    }

    #[test]
    fn a_filter_is_known_until_its_end_is_answered() {
        let mut all = Subscriptions::new(vec![subscription("a", 1)], Vec::new());
        all.unwant(&filter("a"));
        all.connected();
        let change = all.next().unwrap();
        all.sent(change);
        all.numbered(5);
        all.disconnected();
        assert_eq!((all.filters(), all.pending()), (vec![filter("a")], 0));
        all.connected();
        let change = all.next().unwrap();
        all.sent(change);
        all.numbered(1);
        assert_eq!(all.answered(5), None);
        assert_eq!(all.answered(1), Some(Change::Unsubscribe(filter("a"))));
        assert_eq!(all.filters(), []);
    }

    #[test]
    fn a_filter_wanted_again_stays() {
        let mut all = Subscriptions::new(vec![subscription("a", 1)], Vec::new());
        all.unwant(&filter("a"));
        all.want(subscription("a", 2));
        all.want(subscription("a", 3));
        all.connected();
        assert_eq!(drain(&mut all), [Change::Subscribe(subscription("a", 3))]);
    }
}
