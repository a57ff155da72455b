//! Which plugin listens to which filter, and what each last heard. Knows identifiers, not connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
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
/// How far behind a filter's home its identifier may have been in a run with other filters. Far more than one plugin
/// may subscribe to, so that none can crowd another's filter out of it.
const NEIGHBOURHOOD: usize = 4_096;

/// The filters that plugins subscribed to. The identifier of each is one of its own (MQTT 5 §3.8.2.1.2), and made
/// from its text: the broker sends a message that it kept with the identifier of the run in which it came.
#[derive(Debug)]
pub(super) struct Subscriptions {
    filters: BTreeMap<Filter, Listeners>,
    by_identifier: BTreeMap<usize, Filter>,
    /// What an identifier can be.
    identifiers: RangeInclusive<usize>,
    /// What the broker had from the run before this one, and has had ever since.
    earlier: BTreeSet<Filter>,
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
    /// Whether the broker did not have it from an earlier run, and it has not [`Subscriptions::caught_up`] yet: of what
    /// was published before it was subscribed there is a copy for others only.
    fresh: bool,
    /// The highest that any handler asked for.
    qos: u8,
    plugins: BTreeMap<PluginId, usize>,
}

impl Subscriptions {
    /// `identifiers` are those that a filter can have, `earlier` what the broker has from the run before.
    pub(super) fn new(identifiers: RangeInclusive<usize>, earlier: BTreeSet<Filter>) -> Self {
        let (filters, by_identifier, last) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { filters, by_identifier, identifiers, earlier, last }
    }

    /// Counts one more handler of a plugin; gives the filter's identifier and the quality of service it needs.
    pub(super) fn add(&mut self, filter: &Filter, plugin: &PluginId, qos: u8) -> (usize, u8) {
        let identifier = self.filters.get(filter).map(|listeners| listeners.identifier);
        let identifier = identifier.unwrap_or_else(|| self.free(filter));
        self.by_identifier.insert(identifier, filter.clone());
        let fresh = !self.earlier.contains(filter);
        let nobody = || Listeners { identifier, fresh, qos, plugins: BTreeMap::new() };
        let listeners = self.filters.entry(filter.clone()).or_insert_with(nobody);
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
            self.by_identifier.remove(&listeners.identifier);
            self.filters.remove(filter);
            self.earlier.remove(filter);
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

    /// The filters a message came for, each with who listens. All of them match its topic, whatever its identifiers
    /// say.
    pub(super) fn listeners(&self, topic: &str, identifiers: &[usize]) -> Vec<(Filter, BTreeSet<PluginId>)> {
        let named = self.filters(identifiers).into_iter().filter(|filter| filter.matches(topic));
        let mut meant: BTreeSet<Filter> = named.collect();
        if identifiers.is_empty() || meant.len() < identifiers.len() {
            meant.extend(self.unnamed(topic, identifiers));
        }
        let plugins = |filter: &Filter| Some(self.filters.get(filter)?.plugins.keys().cloned().collect());
        meant.into_iter().filter_map(|filter| plugins(&filter).map(|plugins| (filter, plugins))).collect()
    }

    /// A copy has come that the broker sends in its turn: of whatever comes after it, these filters have their own.
    pub(super) fn caught_up(&mut self, topic: &str, identifiers: &[usize]) {
        for filter in self.filters(identifiers) {
            let listeners = self.filters.get_mut(&filter).filter(|listeners| listeners.fresh);
            if let Some(listeners) = listeners.filter(|_| filter.matches(topic)) {
                listeners.fresh = false;
            }
        }
    }

    /// The filters that a message is for although its identifiers do not say so: all that match, where the broker
    /// sends none; else those that cannot have a copy of their own, where this one came for a filter that is gone.
    fn unnamed(&self, topic: &str, identifiers: &[usize]) -> Vec<Filter> {
        let may = |filter: &Filter, listeners: &Listeners| {
            identifiers.is_empty() || listeners.fresh || self.had(filter, identifiers)
        };
        let matching = self.filters.iter().filter(|(filter, _)| filter.matches(topic));
        let meant = matching.filter(|(filter, listeners)| may(filter, listeners));
        meant.map(|(filter, _)| filter.clone()).collect()
    }

    /// The filters behind some identifiers.
    pub(super) fn filters(&self, identifiers: &[usize]) -> Vec<Filter> {
        identifiers.iter().filter_map(|identifier| self.by_identifier.get(identifier)).cloned().collect()
    }

    /// The identifiers of some filters.
    pub(super) fn identifiers(&self, filters: &[Filter]) -> Vec<usize> {
        filters.iter().filter_map(|filter| Some(self.filters.get(filter)?.identifier)).collect()
    }

    /// Where a filter lives: its identifier, unless another was there first.
    fn home(&self, filter: &Filter) -> usize {
        let (first, last) = (*self.identifiers.start() as u64, *self.identifiers.end() as u64);
        usize::try_from(first + hash(filter.as_str()) % (last - first + 1)).unwrap_or(*self.identifiers.end())
    }

    /// The first identifier from a filter's home on that no other filter has.
    fn free(&self, filter: &Filter) -> usize {
        let home = self.home(filter);
        let mut all = (home..=*self.identifiers.end()).chain(*self.identifiers.start()..home);
        // There are far more of them than filters could be kept.
        all.find(|identifier| !self.by_identifier.contains_key(identifier)).unwrap_or(home)
    }

    /// Whether one of these identifiers was this filter's in a run where others lived at its home, or do now.
    fn had(&self, filter: &Filter, identifiers: &[usize]) -> bool {
        let home = self.home(filter);
        identifiers.iter().any(|identifier| (home..home + NEIGHBOURHOOD).contains(identifier))
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

/// FNV-1a. The standard library's hasher is another in every process, or may be with every version.
fn hash(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}

fn weight(topic: &str, value: &Payload) -> usize {
    topic.len() + value.as_bytes().len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::Subscriptions;
    use crate::{
        model::{Filter, PluginId, message::Payload},
        mqtt::LARGEST_ID,
    };

    fn filter(text: &str) -> Filter {
        Filter::parse(text).unwrap()
    }

    fn plugin(id: &str) -> PluginId {
        PluginId::parse(id).unwrap()
    }

    fn subscriptions(earlier: &[&str]) -> Subscriptions {
        Subscriptions::new(2..=LARGEST_ID, earlier.iter().map(|text| filter(text)).collect())
    }

    /// Adds filters, each for the plugin `one`; gives their identifiers.
    fn add<const N: usize>(subscriptions: &mut Subscriptions, filters: [&str; N]) -> [usize; N] {
        filters.map(|text| subscriptions.add(&filter(text), &plugin("one"), 1).0)
    }

    fn heard(subscriptions: &Subscriptions, topic: &str, identifiers: &[usize]) -> Vec<String> {
        let listeners = subscriptions.listeners(topic, identifiers);
        listeners.into_iter().map(|(filter, _)| filter.to_string()).collect()
    }

    #[test]
    fn a_filter_lives_as_long_as_somebody_listens() {
        let filter = filter("a/+");
        let (one, two) = (plugin("one"), plugin("two"));
        let mut subscriptions = subscriptions(&[]);
        let (id, qos) = subscriptions.add(&filter, &one, 1);
        assert_eq!(qos, 1);
        assert_eq!(subscriptions.add(&filter, &two, 0), (id, 1), "nobody gets less than was asked for");
        let [wide] = add(&mut subscriptions, ["#"]);
        assert_ne!(wide, id);
        assert_eq!(subscriptions.listeners("a/b", &[id]).len(), 1);
        assert_eq!(subscriptions.listeners("a/b", &[]).len(), 2, "without identifiers all that match");
        let filters = subscriptions.filters(&[id, 9]);
        assert_eq!((&filters[..], subscriptions.identifiers(&filters)), (&[filter.clone()][..], vec![id]));
        subscriptions.heard("a/b", &Payload::Text("1".into()), [&one, &two].into_iter());
        assert_eq!(subscriptions.last(&one, "a/b"), Some(Payload::Text("1".into())));
        assert!(!subscriptions.remove(&filter, &two));
        assert_eq!(subscriptions.last(&two, "a/b"), None, "not for who does not listen");
        assert!(subscriptions.remove(&filter, &one));
        assert_eq!(subscriptions.filters(&[id]), []);
    }

    #[test]
    fn an_identifier_means_the_same_in_every_run() {
        let [a, b] = add(&mut subscriptions(&[]), ["a/#", "b/#"]);
        let mut other = subscriptions(&["a/#", "b/#"]);
        assert_eq!(add(&mut other, ["c/#", "b/#", "a/#"])[1..], [b, a], "in another order, with others");
        assert!(other.remove(&filter("a/#"), &plugin("one")));
        assert_eq!(add(&mut other, ["a/#"]), [a], "and none is used up");
        assert_eq!(a, 143_229_224, "also of another build");
    }

    #[test]
    fn nobody_hears_what_does_not_match() {
        let mut subscriptions = subscriptions(&[]);
        let [a, b] = add(&mut subscriptions, ["a/#", "b/#"]);
        assert_eq!(heard(&subscriptions, "a/1", &[b]), ["a/#"], "an identifier that was another's");
        assert_eq!(heard(&subscriptions, "c/1", &[a, b]), [""; 0]);
    }

    #[test]
    fn a_copy_of_a_filter_that_is_gone_is_for_who_has_none_of_its_own() {
        let mut subscriptions = subscriptions(&["a/#", "a/+", "#"]);
        let [gone, _, all, fresh] = add(&mut subscriptions, ["a/+", "a/#", "#", "a/1"]);
        assert!(subscriptions.remove(&filter("a/+"), &plugin("one")));
        assert_eq!(heard(&subscriptions, "a/1", &[gone]), ["a/1"], "the others get their own");
        assert_eq!(heard(&subscriptions, "a/1", &[gone, all]), ["#", "a/1"], "also of a merged copy");
        assert_eq!(heard(&subscriptions, "a/1", &[fresh]), ["a/1"]);
        subscriptions.caught_up("a/2", &[fresh]);
        assert_eq!(heard(&subscriptions, "a/1", &[gone]), ["a/1"], "an identifier that was another's");
        subscriptions.caught_up("a/1", &[fresh]);
        assert_eq!(heard(&subscriptions, "a/1", &[gone]), [""; 0]);
    }

    #[test]
    fn two_filters_with_one_home_get_along() {
        let narrow =
            |earlier: &[&str]| Subscriptions::new(2..=99, earlier.iter().map(|text| filter(text)).collect());
        let home = |text: &str| narrow(&[]).home(&filter(text));
        let filters: Vec<String> = (0..100).map(|number| format!("{number}/#")).collect();
        let pairs = filters.iter().flat_map(|one| filters.iter().map(move |two| (one, two)));
        let mut pairs = pairs.filter(|(one, two)| one != two && home(one) == home(two) && home(one) < 99);
        let (one, two) = pairs.next().unwrap();
        let home = home(one);
        assert_eq!(add(&mut narrow(&[]), [one, two]), [home, home + 1]);
        let mut now = narrow(&[one, two]);
        assert_eq!(add(&mut now, [two, one]), [home, home + 1], "they have changed places");
        for (filter, identifier) in [(one, home), (two, home + 1)] {
            let topic = filter.replace('#', "x");
            assert_eq!(heard(&now, &topic, &[identifier]), [filter.as_str()], "kept from before");
        }
    }

    #[test]
    fn what_is_kept_of_what_was_heard_is_bounded_for_each_plugin() {
        let (greedy, modest) = (plugin("greedy"), plugin("modest"));
        let mut subscriptions = subscriptions(&[]);
        subscriptions.add(&filter("#"), &greedy, 0);
        subscriptions.add(&filter("a"), &modest, 0);
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
        assert!(subscriptions.remove(&filter("#"), &greedy));
        assert!(subscriptions.last.is_empty() || subscriptions.last.keys().all(|plugin| plugin == &modest));
    }
}
