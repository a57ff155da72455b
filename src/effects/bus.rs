//! The plugins' way to the broker: what they publish and what they subscribe to.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Budget, Cause, Shared, budget::Origins, lock, subscriptions::Subscriptions};
use crate::{
    model::{
        Filter, PluginId, Topic,
        frame::Publish,
        message::{MqttMessage, Payload, Properties},
    },
    mqtt::{
        Inbound, InboundProperties, LARGEST_ID, Outbox, Outgoing, Receipt, RetainHandling, Session,
        Subscription,
    },
};

/// The subscription identifier of the bridge's own request filter.
pub const REQUESTS: usize = 1;
/// The user property that counts how many plugins a message came through.
pub const HOPS: &str = "jarvis-hops";

/// The user property that names what a message goes back to.
pub const ORIGIN: &str = "jarvis-origin";

/// Where publishes go. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Kind);

#[derive(Clone)]
enum Kind {
    Broker {
        outbox: Outbox,
        session: Session,
        subscriptions: Shared<Subscriptions>,
        origins: Origins,
        /// Whether the bridge is on its way out.
        closed: Arc<AtomicBool>,
    },
    Notebook(Shared<Vec<Publish>>),
    Nowhere,
}

/// A message for a plugin: which filter it came for, who listens, and what it says.
#[derive(Debug)]
pub struct Delivery {
    /// The filter.
    pub filter: Filter,
    /// Plugins with at least one handler for it.
    pub plugins: BTreeSet<PluginId>,
    /// The message as a plugin sees it.
    pub message: MqttMessage,
}

impl Bus {
    /// A bus over two connections. What the session knows by now the broker has from an earlier run.
    #[must_use]
    pub fn over(outbox: Outbox, session: Session) -> Self {
        let earlier = session.filters().borrow().iter().cloned().collect();
        let subscriptions = Subscriptions::new(REQUESTS + 1..=LARGEST_ID, earlier);
        let subscriptions = Arc::new(Mutex::new(subscriptions));
        let (origins, closed) = (Origins::default(), Arc::default());
        Self(Kind::Broker { outbox, session, subscriptions, origins, closed })
    }

    /// A bus that only notes what would be published.
    #[must_use]
    pub fn notebook() -> Self {
        Self(Kind::Notebook(Shared::default()))
    }

    /// A bus that leads nowhere.
    #[must_use]
    pub fn nowhere() -> Self {
        Self(Kind::Nowhere)
    }

    /// What a [`Bus::notebook`] has noted so far.
    #[must_use]
    pub fn noted(&self) -> Vec<Publish> {
        match &self.0 {
            Kind::Notebook(notes) => lock(notes).clone(),
            Kind::Broker { .. } | Kind::Nowhere => Vec::new(),
        }
    }

    /// Publishes; waits while the outbox is full. The cause's message is not acknowledged before the broker
    /// has taken it.
    pub async fn publish(&self, publish: Publish, cause: &Cause) {
        match &self.0 {
            Kind::Broker { outbox, origins, .. } => {
                let Publish { topic, payload, qos, retain } = publish;
                let payload: bytes::Bytes = match payload {
                    Payload::Text(text) => text.into(),
                    Payload::Bytes(bytes) => bytes.into(),
                };
                let mut outgoing = Outgoing::new(topic, payload);
                (outgoing.qos, outgoing.retain, outgoing.receipt) = (qos, retain, cause.receipt());
                outgoing.properties.user.push((HOPS.into(), (cause.hops() + 1).to_string()));
                if let Some(budget) = cause.budget() {
                    outgoing.properties.user.push((ORIGIN.into(), origins.name(budget)));
                }
                outbox.send(outgoing).await;
            }
            Kind::Notebook(notes) => lock(notes).push(publish),
            Kind::Nowhere => {}
        }
    }

    /// Why an inbound message's hooks run: it came over `hops` plugins, and what goes back to the same beginning counts
    /// together.
    #[must_use]
    pub fn cause(&self, receipt: Receipt, hops: u8, properties: &InboundProperties) -> Cause {
        let known = match &self.0 {
            Kind::Broker { origins, .. } => {
                let origin = properties.user.iter().find(|(name, _)| name == ORIGIN);
                origin.and_then(|(_, name)| origins.find(name))
            }
            Kind::Notebook(_) | Kind::Nowhere => None,
        };
        Cause::message(receipt, hops, known.unwrap_or_else(Budget::of_message))
    }

    /// Publishes JSON at QoS 1.
    pub async fn publish_json(&self, topic: Topic, json: String, cause: &Cause) {
        let publish = Publish { topic, payload: Payload::Text(json), qos: 1, retain: false };
        self.publish(publish, cause).await;
    }

    /// Counts a handler for a filter and asks the broker for it. Its retained values come (again) where they
    /// are wanted.
    pub async fn subscribe(&self, plugin: &PluginId, filter: &Filter, qos: u8, retained: bool) {
        let Kind::Broker { session, subscriptions, .. } = &self.0 else { return };
        let (id, qos) = lock(subscriptions).add(filter, plugin, qos);
        let retain_handling =
            if retained { RetainHandling::SendAtSubscribe } else { RetainHandling::OnlyIfNew };
        let subscription =
            Subscription { filter: filter.clone(), id, qos, retain_handling, retain_as_published: false };
        session.subscribe(subscription).await;
    }

    /// Leaves the broker what it is subscribed to from now on: for a plugin that ends with the bridge it keeps what
    /// comes, until the next run.
    pub fn close(&self) {
        if let Kind::Broker { closed, .. } = &self.0 {
            closed.store(true, Ordering::Relaxed);
        }
    }

    /// Takes a handler away.
    pub async fn unsubscribe(&self, plugin: &PluginId, filter: &Filter) {
        let Kind::Broker { session, subscriptions, closed, .. } = &self.0 else { return };
        let last = lock(subscriptions).remove(filter, plugin);
        if last && !closed.load(Ordering::Relaxed) {
            session.unsubscribe(filter.clone()).await;
        }
    }

    /// Whom an inbound message is for besides the bridge itself.
    #[must_use]
    pub fn deliveries(&self, inbound: &Inbound) -> Vec<Delivery> {
        let Kind::Broker { subscriptions, .. } = &self.0 else { return Vec::new() };
        let mut subscriptions = lock(subscriptions);
        let identifiers = &inbound.properties.subscription_ids;
        let listeners = subscriptions.listeners(&inbound.topic, identifiers);
        // At QoS 0 a message may overtake what the broker has kept.
        if inbound.qos > 0 {
            subscriptions.caught_up(&inbound.topic, identifiers);
        }
        if listeners.is_empty() {
            return Vec::new();
        }
        let payload = Payload::from_bytes(&inbound.payload);
        let plugins: BTreeSet<&PluginId> = listeners.iter().flat_map(|(_, plugins)| plugins).collect();
        subscriptions.heard(&inbound.topic, &payload, plugins.into_iter());
        drop(subscriptions);
        listeners
            .into_iter()
            .map(|(filter, plugins)| {
                let levels = filter.captures(&inbound.topic).unwrap_or_default();
                let levels = levels.into_iter().map(str::to_owned).collect();
                let message = MqttMessage {
                    topic: inbound.topic.clone(),
                    payload: payload.clone(),
                    levels,
                    qos: inbound.qos,
                    retained: inbound.retain,
                    properties: properties(inbound),
                };
                Delivery { filter, plugins, message }
            })
            .collect()
    }

    /// The plugins' filters behind subscription identifiers. To be kept instead of those, which another run may
    /// have given to others.
    #[must_use]
    pub fn filters(&self, identifiers: &[usize]) -> Vec<Filter> {
        let Kind::Broker { subscriptions, .. } = &self.0 else { return Vec::new() };
        lock(subscriptions).filters(identifiers)
    }

    /// The identifiers of filters, where plugins still listen to them.
    #[must_use]
    pub fn identifiers(&self, filters: &[Filter]) -> Vec<usize> {
        let Kind::Broker { subscriptions, .. } = &self.0 else { return Vec::new() };
        lock(subscriptions).identifiers(filters)
    }

    pub(super) fn last_value(&self, plugin: &PluginId, topic: &str) -> Option<Payload> {
        let Kind::Broker { subscriptions, .. } = &self.0 else { return None };
        lock(subscriptions).last(plugin, topic)
    }
}

fn properties(inbound: &Inbound) -> Properties {
    let properties = &inbound.properties;
    Properties {
        content_type: properties.content_type.clone(),
        response_topic: properties.response_topic.clone(),
        correlation_data: properties.correlation_data.as_ref().map(|data| Payload::from_bytes(data)),
        user: properties.user.clone(),
    }
}
