//! Which plugin listens to which filter, and what each last heard. Knows identifiers, not connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::model::{Filter, PluginId, message::Payload};

/// Bytes of the last values that are kept for one plugin, topics and [`OVERHEAD`] included. When full, the value of
/// a further topic is not kept; a wide filter of one plugin takes nothing from another.
const MAX_KEPT: usize = 1 << 20;
/// Bytes of a value that is kept.
const MAX_VALUE: usize = 16 * 1024;
/// What an entry takes besides its topic and value.
const OVERHEAD: usize = 128;

/// The filters that plugins subscribed to. The identifier of each is one of its own (MQTT 5 §3.8.2.1.2).
#[derive(Debug)]
pub(super) struct Subscriptions {
    filters: BTreeMap<Filter, Listeners>,
    next: usize,
    last: BTreeMap<PluginId, LastValues>,
}

/// What one plugin heard last on each topic.
#[derive(Debug, Default)]
struct LastValues {
    values: BTreeMap<String, Arc<Payload>>,
    bytes: usize,
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
        let nobody = listeners.plugins.is_empty();
        if nobody {
            self.filters.remove(filter);
        }
        self.forget(plugin);
        nobody
    }

    /// Drops the last values that a plugin listens for no more.
    fn forget(&mut self, plugin: &PluginId) {
        let listens = |(filter, listeners): (&Filter, &Listeners), topic: &str| {
            listeners.plugins.contains_key(plugin) && filter.matches(topic)
        };
        let Some(last) = self.last.get_mut(plugin) else { return };
        let filters = &self.filters;
        last.keep_only(|topic| filters.iter().any(|entry| listens(entry, topic)));
        if last.values.is_empty() {
            self.last.remove(plugin);
        }
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

    /// Keeps a value for [`Subscriptions::last`] of these plugins. What is too large or too much is not kept.
    pub(super) fn heard<'a>(
        &mut self,
        topic: &str,
        payload: &Payload,
        plugins: impl Iterator<Item = &'a PluginId>,
    ) {
        let bytes = payload.as_bytes().len();
        let value = (1..=MAX_VALUE).contains(&bytes).then(|| Arc::new(payload.clone()));
        for plugin in plugins {
            match self.last.get_mut(plugin) {
                Some(last) => last.put(topic, value.clone()),
                None => self.last.entry(plugin.clone()).or_default().put(topic, value.clone()),
            }
        }
    }

    /// The last value of a topic within a subscription of this plugin.
    pub(super) fn last(&self, plugin: &PluginId, topic: &str) -> Option<Payload> {
        self.last.get(plugin)?.values.get(topic).map(|payload| Payload::clone(payload))
    }
}

impl LastValues {
    fn put(&mut self, topic: &str, value: Option<Arc<Payload>>) {
        if let Some(old) = self.values.remove(topic) {
            self.bytes -= weight(topic, &old);
        }
        let Some(value) = value else { return };
        let bytes = weight(topic, &value);
        if self.bytes + bytes <= MAX_KEPT {
            self.bytes += bytes;
            self.values.insert(topic.to_owned(), value);
        }
    }

    fn keep_only(&mut self, wanted: impl Fn(&str) -> bool) {
        self.values.retain(|topic, _| wanted(topic));
        self.bytes = self.values.iter().map(|(topic, value)| weight(topic, value)).sum();
    }
}

fn weight(topic: &str, value: &Payload) -> usize {
    topic.len() + value.as_bytes().len() + OVERHEAD
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
        subscriptions.heard("a/b", &Payload::Text("1".into()), [&one, &two].into_iter());
        assert_eq!(subscriptions.last(&one, "a/b"), Some(Payload::Text("1".into())));
        assert!(!subscriptions.remove(&filter, &one));
        assert_eq!(subscriptions.last(&one, "a/b"), None, "not for who does not listen");
        assert!(subscriptions.remove(&filter, &two));
    }

    #[test]
    fn what_is_kept_of_what_was_heard_is_bounded_for_each_plugin() {
        let (greedy, modest) = (PluginId::parse("greedy").unwrap(), PluginId::parse("modest").unwrap());
        let mut subscriptions = Subscriptions::from(2);
        subscriptions.add(&Filter::parse("#").unwrap(), &greedy, 0);
        subscriptions.add(&Filter::parse("a").unwrap(), &modest, 0);
        let value = |byte: u8, length: usize| Payload::Bytes(vec![byte; length]);
        for topic in 0..1_000 {
            subscriptions.heard(&format!("b/{topic}"), &value(1, 10_000), [&greedy].into_iter());
        }
        subscriptions.heard("a", &value(2, 10_000), [&greedy, &modest].into_iter());
        let kept =
            (0..1_000).filter(|topic| subscriptions.last(&greedy, &format!("b/{topic}")).is_some()).count();
        assert!((50..105).contains(&kept), "{kept}");
        assert_eq!(subscriptions.last(&greedy, "a"), None);
        assert_eq!(subscriptions.last(&modest, "a"), Some(value(2, 10_000)));
        // A newer value takes its place, an empty or large one leaves none.
        subscriptions.heard("a", &value(3, 1), [&modest].into_iter());
        assert_eq!(subscriptions.last(&modest, "a"), Some(value(3, 1)));
        subscriptions.heard("a", &value(3, 20_000), [&modest].into_iter());
        assert_eq!(subscriptions.last(&modest, "a"), None);
        assert!(subscriptions.remove(&Filter::parse("#").unwrap(), &greedy));
        assert!(subscriptions.last.is_empty() || subscriptions.last.keys().all(|plugin| plugin == &modest));
    }
}
