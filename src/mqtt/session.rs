//! The receiving connection's handle: what the rest of the bridge can ask of it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    connect::Config,
    inbound::Inbox,
    receiver::{Outlets, Receiver},
    status::Status,
    subscriptions::{Subscription, Subscriptions},
};
use crate::model::Filter;

/// Room for QoS 0 messages and for those of a lost connection that nobody has taken yet.
const SPARE: usize = 256;

/// The receiving connection. Cheap to clone; when the last clone is dropped the connection ends as if
/// stopped.
///
/// ```no_run
/// # use jarvis_bridge::{model::Filter, mqtt::{Config, RetainHandling, Session, Subscription}};
/// # async fn example(config: &Config, filter: Filter) {
/// let requests = Subscription {
///     filter,
///     id: 1,
///     qos: 1,
///     retain_handling: RetainHandling::Never,
///     retain_as_published: true,
/// };
/// let (session, mut inbox) = Session::start(config, vec![requests], Vec::new());
/// while let Some(message) = inbox.recv().await {
///     println!("{}: {} bytes", message.topic, message.payload.len());
///     drop(message.receipt); // and with its last clone the acknowledgement goes out
/// }
/// # session.stop().await;
/// # }
/// ```
#[derive(Clone)]
pub struct Session {
    /// Whoever changes subscriptions waits when it is full.
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<Status>,
    filters: watch::Receiver<Vec<Filter>>,
    counters: Arc<Counters>,
}

/// What a session has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionCounters {
    /// Messages that arrived.
    pub received: u64,
    /// QoS 0 messages that were dropped because too many were waiting.
    pub dropped: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) acknowledged: AtomicU64,
}

/// What the handle asks of the task; the sender is told when it is noted, or done.
pub(super) enum Command {
    Subscribe(Subscription, oneshot::Sender<()>),
    Unsubscribe(Filter, oneshot::Sender<()>),
    ForgetUnwanted(oneshot::Sender<()>),
    Stop(oneshot::Sender<()>),
}

impl Session {
    /// Opens the connection and keeps it open. `known` are the filters that an earlier run had: they stay until
    /// [`Session::forget_unwanted`]. Must be called in a tokio runtime.
    #[must_use]
    pub fn start(config: &Config, wanted: Vec<Subscription>, known: Vec<Filter>) -> (Self, Inbox) {
        let receive_maximum = config.receive_maximum.max(1);
        let (inbound_tx, inbound_rx) = mpsc::channel(usize::from(receive_maximum) + SPARE);
        let (command_tx, command_rx) = mpsc::channel(64);
        let subscriptions = Subscriptions::new(wanted, known);
        let (status_tx, status_rx) = watch::channel(Status::new());
        let (filters_tx, filters_rx) = watch::channel(subscriptions.filters());
        let counters = Arc::new(Counters::default());
        let outlets = Outlets {
            inbound: inbound_tx,
            status: status_tx,
            filters: filters_tx,
            counters: Arc::clone(&counters),
        };
        let receiver = Receiver::new(config, command_rx, outlets, subscriptions);
        tokio::spawn(receiver.run());
        let session = Self { commands: command_tx, status: status_rx, filters: filters_rx, counters };
        (session, Inbox::new(inbound_rx))
    }

    /// Wants a filter from now on, in the place of an earlier subscription to it. Returns when that is noted,
    /// before the broker has answered: [`Status`] says what is pending or refused.
    pub async fn subscribe(&self, subscription: Subscription) {
        self.command(|noted| Command::Subscribe(subscription, noted)).await;
    }

    /// Wants a filter no longer. Returns when that is noted.
    pub async fn unsubscribe(&self, filter: Filter) {
        self.command(|noted| Command::Unsubscribe(filter, noted)).await;
    }

    /// Unsubscribes what an earlier run had and is not wanted by now. Until then the broker keeps for it what comes:
    /// whoever wants it again misses nothing.
    pub async fn forget_unwanted(&self) {
        self.command(Command::ForgetUnwanted).await;
    }

    /// Acknowledges what is settled and disconnects, subscriptions and session kept. What arrived and is not
    /// settled is not acknowledged: it comes again at the next start.
    pub async fn stop(&self) {
        self.command(Command::Stop).await;
    }

    /// Whether it is connected, and to what the broker refuses a subscription.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Every filter that the broker's session may have: what to give as `known` at the next start.
    #[must_use]
    pub fn filters(&self) -> watch::Receiver<Vec<Filter>> {
        self.filters.clone()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> SessionCounters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SessionCounters {
            received: read(&self.counters.received),
            dropped: read(&self.counters.dropped),
            acknowledged: read(&self.counters.acknowledged),
        }
    }

    async fn command(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) {
        let (done_tx, done_rx) = oneshot::channel();
        // Both fail only when the session has stopped, and then there is nothing to do.
        if self.commands.send(command(done_tx)).await.is_ok() {
            done_rx.await.ok();
        }
    }
}
