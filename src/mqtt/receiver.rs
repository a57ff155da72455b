//! The task behind the session: owner of the receiving connection, of what it has subscribed and of the
//! acknowledgements that are due. Publishes nothing.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rumqttc::{
    Outgoing,
    v5::{
        Event, Incoming,
        mqttbytes::{
            QoS,
            v5::{ConnAck, Publish, SubAck, SubscribeReasonCode},
        },
    },
};
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        oneshot, watch,
    },
    time::{Instant, sleep_until, timeout},
};
use tracing::warn;

use super::{
    backoff::Backoff,
    connect::{Config, WINDOW},
    inbound::{Inbound, inbound},
    link::Link,
    loss::{Loss, Peer},
    receipt::{Acks, Receipt},
    session::{Command, Counters},
    status::{BrokerLimits, RefusedSubscription, State, Status},
    subscriptions::{Change, Subscriptions},
};
use crate::model::Filter;

/// How long a clean end may take.
const GOODBYE: Duration = Duration::from_secs(2);

/// Owner of the connection and all its state. Awaits nothing that depends on its own progress.
pub(super) struct Receiver {
    config: Config,
    commands: mpsc::Receiver<Command>,
    out: Outlets,
    backoff: Backoff,
    subscriptions: Subscriptions,
    /// The broker's, while connected.
    limits: Option<BrokerLimits>,
    acks: Arc<Acks>,
    /// A QoS 1 message that did not fit. Until it does nothing is read: such a message is never dropped.
    held: Option<Inbound>,
    /// Set when the connection is to end, and by when.
    stop_by: Option<Instant>,
    /// Who waits for that.
    stopper: Option<oneshot::Sender<()>>,
}

/// Where it puts what others want to see.
pub(super) struct Outlets {
    pub(super) inbound: mpsc::Sender<Inbound>,
    pub(super) status: watch::Sender<Status>,
    pub(super) filters: watch::Sender<Vec<Filter>>,
    pub(super) counters: Arc<Counters>,
}

/// Why a connection is over.
enum End {
    Lost(Loss),
    Stopped,
}

impl Receiver {
    pub(super) fn new(
        config: &Config,
        commands: mpsc::Receiver<Command>,
        out: Outlets,
        subscriptions: Subscriptions,
    ) -> Self {
        Self {
            backoff: Backoff::new("session", config.address()),
            config: config.clone(),
            commands,
            out,
            subscriptions,
            limits: None,
            acks: Arc::default(),
            held: None,
            stop_by: None,
            stopper: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let End::Lost(loss) = self.connection().await else { break };
            self.disconnected();
            let wait = self.backoff.lost(&loss);
            self.out.status.send_modify(|status| {
                status.state = State::Connecting { error: Some(loss.sentence) };
            });
            if timeout(wait, self.wait_for_stop()).await.is_ok() {
                break;
            }
        }
        self.out.status.send_modify(|status| status.state = State::Stopped);
        if let Some(stopper) = self.stopper {
            stopper.send(()).ok();
        }
    }

    /// Opens one connection and serves it to its end.
    async fn connection(&mut self) -> End {
        let peer = Peer::new(&self.config, self.config.client_id.clone());
        // An acknowledgement for each message that may be unacknowledged, and the subscriptions.
        let queue = usize::from(self.config.receive_maximum) + usize::from(WINDOW) + 2;
        let mut link = Link::open(self.config.session_options(), queue, peer);
        loop {
            let stop_by = self.stop_by;
            tokio::select! {
                event = link.next(), if self.held.is_none() => match event {
                    Ok(Event::Outgoing(Outgoing::Disconnect)) => return End::Stopped,
                    Ok(event) => self.on_event(event),
                    Err(loss) => return if stop_by.is_some() { End::Stopped } else { End::Lost(loss) },
                },
                // A broker may end the connection meanwhile for want of pings; then the message comes again.
                () = room(&self.out.inbound), if self.held.is_some() => {
                    self.hand_over_held();
                    link.heard();
                }
                () = self.acks.ready() => {}
                command = self.commands.recv(), if stop_by.is_none() => self.on_command(command),
                () = sleep_until(stop_by.unwrap_or_else(Instant::now)), if stop_by.is_some() => {
                    return End::Stopped;
                }
            }
            self.acknowledge(&link);
            self.send_changes(&link);
            let stop_now = stop_by.is_none() && self.stop_by.is_some();
            if stop_now && (self.limits.is_none() || link.client.try_disconnect().is_err()) {
                return End::Stopped;
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Incoming(Incoming::ConnAck(ack)) => self.connected(&ack),
            Event::Incoming(Incoming::Publish(publish)) => self.on_publish(publish),
            Event::Incoming(Incoming::SubAck(ack)) => self.on_suback(&ack),
            Event::Incoming(Incoming::UnsubAck(ack)) => {
                self.subscriptions.answered(ack.pkid);
                self.publish_subscriptions();
            }
            Event::Outgoing(Outgoing::Subscribe(packet_id) | Outgoing::Unsubscribe(packet_id)) => {
                self.subscriptions.numbered(packet_id);
            }
            _ => {}
        }
    }

    fn connected(&mut self, ack: &ConnAck) {
        let limits = BrokerLimits::from_connack(ack);
        let session_present = ack.session_present;
        self.limits = Some(limits);
        self.subscriptions.connected();
        self.out.status.send_modify(|status| {
            status.state = State::Connected { session_present, limits };
            status.connects += 1;
            status.pending = self.subscriptions.pending();
            status.refused.clear();
        });
        self.backoff.connected(session_present);
    }

    fn disconnected(&mut self) {
        self.limits = None;
        self.subscriptions.disconnected();
        // Receipts of the old connection settle into the old acknowledgements, which nobody sends.
        self.acks.end();
        self.acks = Arc::default();
        self.publish_subscriptions();
    }

    fn on_publish(&mut self, publish: Publish) {
        if self.stop_by.is_some() {
            return;
        }
        self.out.counters.received.fetch_add(1, Ordering::Relaxed);
        if publish.qos == QoS::AtMostOnce {
            return self.hand_over_if_room(inbound(publish, Receipt::default()));
        }
        let receipt = self.acks.open(publish.pkid);
        self.hand_over(inbound(publish, receipt));
    }

    fn hand_over(&mut self, inbound: Inbound) {
        match self.out.inbound.try_send(inbound) {
            Ok(()) => {}
            Err(TrySendError::Full(inbound)) => self.held = Some(inbound),
            // Nobody takes messages any more: the broker keeps them.
            Err(TrySendError::Closed(inbound)) => inbound.receipt.abandon(),
        }
    }

    fn hand_over_held(&mut self) {
        if let Some(held) = self.held.take() {
            self.hand_over(held);
        }
    }

    /// QoS 0 loses when the inbox fills: the last `receive_maximum` places are for what must not be lost.
    fn hand_over_if_room(&self, inbound: Inbound) {
        let room = self.out.inbound.capacity() > usize::from(self.config.receive_maximum);
        if !room || self.out.inbound.try_send(inbound).is_err() {
            self.out.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn on_suback(&mut self, ack: &SubAck) {
        let Some(Change::Subscribe(subscription)) = self.subscriptions.answered(ack.pkid) else { return };
        let filter = subscription.filter;
        match ack.return_codes.first() {
            Some(SubscribeReasonCode::Success(granted)) => {
                if subscription.qos > *granted as u8 {
                    warn!(%filter, "the broker delivers this filter at QoS 0 only: messages can get lost");
                }
                self.not_refused(&filter);
            }
            Some(code) => self.refused(filter, format!("{code:?}")),
            None => self.refused(filter, "an answer without a reason".to_owned()),
        }
        self.publish_subscriptions();
    }

    fn refused(&self, filter: Filter, reason: String) {
        warn!(%filter, reason, "the broker refuses a subscription: check what its access list allows the bridge");
        self.out.status.send_modify(|status| {
            status.refused.retain(|refused| refused.filter != filter);
            status.refused.push(RefusedSubscription { filter, reason });
        });
    }

    fn not_refused(&self, filter: &Filter) {
        self.out.status.send_if_modified(|status| {
            let before = status.refused.len();
            status.refused.retain(|refused| refused.filter != *filter);
            status.refused.len() != before
        });
    }

    fn on_command(&mut self, command: Option<Command>) {
        let connected = self.limits.is_some();
        match command {
            Some(Command::Subscribe(subscription, noted)) => {
                self.subscriptions.want(subscription.clone());
                if connected {
                    self.subscriptions.tell(Change::Subscribe(subscription));
                }
                self.publish_subscriptions();
                noted.send(()).ok();
            }
            Some(Command::Unsubscribe(filter, noted)) => {
                self.subscriptions.unwant(&filter);
                self.not_refused(&filter);
                if connected {
                    self.subscriptions.tell(Change::Unsubscribe(filter));
                }
                self.publish_subscriptions();
                noted.send(()).ok();
            }
            Some(Command::ForgetUnwanted(noted)) => {
                for filter in self.subscriptions.decide() {
                    if connected {
                        self.subscriptions.tell(Change::Unsubscribe(filter));
                    }
                }
                self.publish_subscriptions();
                noted.send(()).ok();
            }
            Some(Command::Stop(stopper)) => self.stop(Some(stopper)),
            None => self.stop(None),
        }
    }

    fn stop(&mut self, stopper: Option<oneshot::Sender<()>>) {
        self.stop_by = Some(Instant::now() + GOODBYE);
        self.stopper = stopper;
        if let Some(held) = self.held.take() {
            held.receipt.abandon();
        }
    }

    /// Between two connections: notes commands until one says stop.
    async fn wait_for_stop(&mut self) {
        while self.stop_by.is_none() {
            tokio::select! {
                command = self.commands.recv() => self.on_command(command),
                () = room(&self.out.inbound), if self.held.is_some() => self.hand_over_held(),
            }
        }
    }

    /// Sends the acknowledgements that are due.
    fn acknowledge(&self, link: &Link) {
        while let Some(packet_id) = self.acks.due() {
            let publish = Publish { qos: QoS::AtLeastOnce, pkid: packet_id, ..Publish::default() };
            if link.client.try_ack(&publish).is_err() {
                // A broker that sends more than it may: the next event makes room.
                return;
            }
            self.acks.acknowledged();
            self.out.counters.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells the broker of changed subscriptions, as many at a time as rumqttc has packet identifiers for.
    fn send_changes(&mut self, link: &Link) {
        let Some(limits) = self.limits else { return };
        let window = usize::from(limits.receive_maximum.min(WINDOW));
        while self.subscriptions.in_flight() < window {
            let Some(change) = self.subscriptions.next() else { return };
            if change.size() > limits.max_packet_size as usize {
                self.refused(change.filter().clone(), "larger than the broker's largest packet".to_owned());
                self.publish_subscriptions();
                continue;
            }
            if !send_change(link, &change, limits) {
                // Not reached while the broker keeps to the receive maximum; an acknowledgement makes room.
                return self.subscriptions.put_back(change);
            }
            self.subscriptions.sent(change);
        }
    }

    fn publish_subscriptions(&self) {
        let pending = self.subscriptions.pending();
        self.out.status.send_if_modified(|status| std::mem::replace(&mut status.pending, pending) != pending);
        let filters = self.subscriptions.filters();
        self.out.filters.send_if_modified(|known| {
            let changed = *known != filters;
            *known = filters;
            changed
        });
    }
}

/// Waits until the inbox has room, or nobody reads it.
async fn room(inbound: &mpsc::Sender<Inbound>) {
    inbound.reserve().await.ok();
}

/// Says no where the client takes none.
fn send_change(link: &Link, change: &Change, limits: BrokerLimits) -> bool {
    let client = &link.client;
    let sent = match change {
        Change::Subscribe(subscription) => match subscription.wire_properties() {
            Some(properties) if limits.subscription_ids => {
                client.try_subscribe_many_with_properties([subscription.wire_filter()], properties)
            }
            // MQTT 5 §3.2.2.3.12: an identifier would be a protocol error here.
            _ => client.try_subscribe_many([subscription.wire_filter()]),
        },
        Change::Unsubscribe(filter) => client.try_unsubscribe(filter.as_str()),
    };
    sent.is_ok()
}
