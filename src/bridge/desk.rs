//! What all channels share: the plugins, the way out, the settings, and who waits for an assistant.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool, atomic::AtomicU64, atomic::Ordering},
    time::Instant,
};

use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::{Config, chat::Answer, parking::Parking};
use crate::{
    effects::Bus,
    mqtt::{Outbox, Session},
    plugin::{PluginManager, Registry},
    store::Store,
};

/// The bridge's desk. Cheap to clone.
#[derive(Clone)]
pub struct Desk(Arc<Inner>);

struct Inner {
    config: Config,
    plugins: PluginManager,
    outbox: Outbox,
    session: Session,
    bus: Bus,
    parking: Parking,
    store: Store,
    started: Instant,
    waiting: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    requests: AtomicU64,
    dropped: AtomicU64,
    closed: AtomicBool,
    busy: watch::Sender<usize>,
    /// Each clone is a request at QoS 0 that runs.
    unkept: Arc<()>,
}

/// A request that runs and that nobody sends again.
pub(super) struct Unkept {
    _place: Arc<()>,
}

impl Desk {
    /// Sets the desk up.
    #[must_use]
    pub fn new(
        config: Config,
        plugins: PluginManager,
        outbox: Outbox,
        session: Session,
        bus: Bus,
        store: Store,
    ) -> Self {
        let parking = Parking::new(store.clone(), bus.clone(), plugins.registry().clone(), config.park_after);
        Self(Arc::new(Inner {
            parking,
            config,
            plugins,
            outbox,
            session,
            bus,
            store,
            started: Instant::now(),
            waiting: Mutex::default(),
            requests: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            busy: watch::Sender::new(0),
            unkept: Arc::new(()),
        }))
    }

    pub(super) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(super) fn plugins(&self) -> &PluginManager {
        &self.0.plugins
    }

    pub(super) fn registry(&self) -> &Registry {
        self.0.plugins.registry()
    }

    pub(super) fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    pub(super) fn session(&self) -> &Session {
        &self.0.session
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.0.bus
    }

    pub(super) fn parking(&self) -> &Parking {
        &self.0.parking
    }

    /// Parks what takes long until `stop` is dropped.
    pub async fn park(self, stop: oneshot::Receiver<()>) {
        self.0.parking.clone().run(stop).await;
    }

    /// Waits until what was parked and is settled by now is forgotten.
    pub async fn finish(&self) {
        self.0.parking.finish().await;
    }

    pub(super) fn store(&self) -> &Store {
        &self.0.store
    }

    pub(super) fn uptime(&self) -> std::time::Duration {
        self.0.started.elapsed()
    }

    /// Requests taken so far.
    pub(super) fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// QoS 0 messages that were dropped because too much was waiting.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Counts a QoS 0 message as dropped.
    pub(super) fn drop_one(&self) {
        self.0.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a place among the requests that nobody sends again, until it is dropped; nothing where they are taken.
    pub(super) fn begin_unkept(&self, most: usize) -> Option<Unkept> {
        let taken = Arc::strong_count(&self.0.unkept);
        (taken <= most).then(|| Unkept { _place: self.0.unkept.clone() })
    }

    /// Counts a request as taken and running, until the mark is dropped.
    pub(super) fn begin(&self) -> Running {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.busy.send_modify(|busy| *busy += 1);
        Running(self.0.clone())
    }

    /// Lets no further answer out: what still runs was given up.
    pub fn close(&self) {
        self.0.closed.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    /// Waits until no request runs.
    pub async fn drained(&self) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.0.busy.subscribe().wait_for(|busy| *busy == 0).await;
    }

    /// Waits for an assistant's answer to the message with this id; nothing where too many wait already.
    pub(super) fn wait_for_answer(&self, id: &Value) -> Option<oneshot::Receiver<Answer>> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= self.0.config.waiting {
            return None;
        }
        let (answer, received) = oneshot::channel();
        waiting.insert(id.to_string(), answer);
        Some(received)
    }

    /// Who waits for an answer to the message with this id; nobody does afterwards.
    pub(super) fn waiting_for(&self, id: &Value) -> Option<oneshot::Sender<Answer>> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&id.to_string())
    }
}

/// A request that runs.
pub(super) struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy = busy.saturating_sub(1));
    }
}
