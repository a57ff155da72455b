//! Which plugin listens to which filter, and what was last heard. Knows identifiers, not connections.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Filter, PluginId, message::Payload};

/// Topics whose last value is kept; beyond it the value of a new topic is not kept.
const MAX_TOPICS: usize = 2_000;
/// Bytes of a value that is kept.
const MAX_VALUE: usize = 16 * 1024;

/// The filters that plugins subscribed to. The identifier of each is one of its own (MQTT 5 §3.8.2.1.2).
#[derive(Debug)]
pub(super) struct Subscriptions {
    filters: BTreeMap<Filter, Listeners>,
    next: usize,
    last: BTreeMap<String, Payload>,
}

#[derive(Debug)]
struct Listeners {
    identifier: usize,
    /// The highest that any handler asked for.
    qos: u8,
    plugins: BTreeMap<PluginId, usize>,
}

impl Subscriptions {
    /// `first` is the first identifier that is free.
    pub(super) fn from(first: usize) -> Self {
        Self { filters: BTreeMap::new(), next: first, last: BTreeMap::new() }
    }

    /// Counts one more handler of a plugin; gives the filter's identifier and the quality of service it needs.
    pub(super) fn add(&mut self, filter: &Filter, plugin: &PluginId, qos: u8) -> (usize, u8) {
        let next = &mut self.next;
        let listeners = self.filters.entry(filter.clone()).or_insert_with(|| {
            let identifier = *next;
            *next += 1;
            Listeners { identifier, qos, plugins: BTreeMap::new() }
        });
        *listeners.plugins.entry(plugin.clone()).or_default() += 1;
        listeners.qos = listeners.qos.max(qos);
        (listeners.identifier, listeners.qos)
    }

    /// Counts one handler less. True where nobody listens to the filter any more.
    pub(super) fn remove(&mut self, filter: &Filter, plugin: &PluginId) -> bool {
        let Some(listeners) = self.filters.get_mut(filter) else { return false };
        if let Some(count) = listeners.plugins.get_mut(plugin) {
            *count -= 1;
            if *count == 0 {
                listeners.plugins.remove(plugin);
            }
        }
        if !listeners.plugins.is_empty() {
            return false;
        }
        self.filters.remove(filter);
        let filters = &self.filters;
        self.last.retain(|topic, _| filters.keys().any(|filter| filter.matches(topic)));
        true
    }

    /// The filters a message came for, each with who listens. A broker that sends no identifiers is
    /// answered by matching.
    pub(super) fn listeners(&self, topic: &str, identifiers: &[usize]) -> Vec<(Filter, BTreeSet<PluginId>)> {
        let meant = |filter: &Filter, listeners: &Listeners| match identifiers {
            [] => filter.matches(topic),
            some => some.contains(&listeners.identifier),
        };
        self.filters
            .iter()
            .filter(|(filter, listeners)| meant(filter, listeners))
            .map(|(filter, listeners)| (filter.clone(), listeners.plugins.keys().cloned().collect()))
            .collect()
    }

    /// The filters behind some identifiers.
    pub(super) fn filters(&self, identifiers: &[usize]) -> Vec<Filter> {
        let meant = |listeners: &Listeners| identifiers.contains(&listeners.identifier);
        let filters = self.filters.iter().filter(|(_, listeners)| meant(listeners));
        filters.map(|(filter, _)| filter.clone()).collect()
    }

    /// The identifiers of some filters.
    pub(super) fn identifiers(&self, filters: &[Filter]) -> Vec<usize> {
        filters.iter().filter_map(|filter| Some(self.filters.get(filter)?.identifier)).collect()
    }

    /// Keeps a value for [`Subscriptions::last`]. What is too large or one topic too many is not kept.
    pub(super) fn heard(&mut self, topic: &str, payload: &Payload) {
        let known = self.last.contains_key(topic);
        if payload.as_bytes().is_empty() || payload.as_bytes().len() > MAX_VALUE {
            self.last.remove(topic);
        } else if known || self.last.len() < MAX_TOPICS {
            self.last.insert(topic.to_owned(), payload.clone());
        }
    }

    /// The last value of a topic within a subscription of this plugin.
    pub(super) fn last(&self, plugin: &PluginId, topic: &str) -> Option<Payload> {
        let listens = |(filter, listeners): (&Filter, &Listeners)| {
            listeners.plugins.contains_key(plugin) && filter.matches(topic)
        };
        self.filters.iter().any(listens).then(|| self.last.get(topic).cloned()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::Subscriptions;
    use crate::model::{Filter, PluginId, message::Payload};

    #[test]
    fn a_filter_lives_as_long_as_somebody_listens() {
        let filter = Filter::parse("a/+").unwrap();
        let (one, two) = (PluginId::parse("one").unwrap(), PluginId::parse("two").unwrap());
        let mut subscriptions = Subscriptions::from(2);
        assert_eq!(subscriptions.add(&filter, &one, 1), (2, 1));
        assert_eq!(subscriptions.add(&filter, &two, 0), (2, 1), "nobody gets less than was asked for");
        assert_eq!(subscriptions.add(&Filter::parse("#").unwrap(), &two, 0), (3, 0));
        assert_eq!(subscriptions.listeners("a/b", &[2]).len(), 1);
        assert_eq!(subscriptions.listeners("a/b", &[]).len(), 2, "without identifiers all that match");
        let filters = subscriptions.filters(&[2, 9]);
        assert_eq!((&filters[..], subscriptions.identifiers(&filters)), (&[filter.clone()][..], vec![2]));
        subscriptions.heard("a/b", &Payload::Text("1".into()));
        assert_eq!(subscriptions.last(&one, "a/b"), Some(Payload::Text("1".into())));
        assert!(!subscriptions.remove(&filter, &one));
        assert_eq!(subscriptions.last(&one, "a/b"), None, "not for who does not listen");
        assert!(subscriptions.remove(&filter, &two));
    }
}
