//! The task behind the outbox: owner of the publishing connection and of every message that is on its way.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rumqttc::{
    Outgoing as Written,
    v5::{
        Event, Incoming,
        mqttbytes::v5::{ConnAck, PubAck, PubAckReason},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tracing::error;

use super::{
    backoff::Backoff,
    connect::{Config, OFFLINE, ONLINE, WINDOW},
    flight::{Flight, Item, Kind},
    link::Link,
    loss::{Loss, Peer},
    outbox::{Counters, Outgoing, Refused},
    status::{BrokerLimits, State, Status},
};

/// How long saying goodbye may take, after the time for what is queued.
const GOODBYE: Duration = Duration::from_secs(2);

/// The order to stop.
pub(super) struct Stop {
    /// When what is queued must have been sent.
    pub(super) by: Instant,
    /// Told when it is done.
    pub(super) done: Option<oneshot::Sender<()>>,
}

pub(super) struct Publisher {
    config: Config,
    /// The session's status, where this connection follows it.
    gate: Option<watch::Receiver<Status>>,
    queue: mpsc::Receiver<Item>,
    stops: mpsc::Receiver<Stop>,
    status: watch::Sender<Status>,
    connections: watch::Sender<u64>,
    counters: Arc<Counters>,
    backoff: Backoff,
    flight: Flight,
    phase: Phase,
    /// What the last CONNACK said.
    session_present: bool,
    limits: BrokerLimits,
    stop: Option<Stop>,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No CONNACK yet.
    Opening,
    /// `online` is on its way, alone: confirmed it proves that publishing works at all.
    Announcing,
    /// Messages are sent.
    Ready,
    /// `offline` is on its way.
    Leaving,
}

/// Why a connection is over.
enum End {
    Lost(Loss),
    Stopped,
}

impl Publisher {
    pub(super) fn new(
        config: &Config,
        gate: Option<watch::Receiver<Status>>,
        queue: mpsc::Receiver<Item>,
        stops: mpsc::Receiver<Stop>,
        status: watch::Sender<Status>,
        connections: watch::Sender<u64>,
        counters: &Arc<Counters>,
    ) -> Self {
        Self {
            backoff: Backoff::new("outbox", config.address()),
            config: config.clone(),
            gate,
            queue,
            stops,
            status,
            connections,
            counters: Arc::clone(counters),
            flight: Flight::default(),
            phase: Phase::Opening,
            session_present: false,
            limits: BrokerLimits::UNLIMITED,
            stop: None,
        }
    }

    pub(super) async fn run(mut self) {
        while !self.has_to_give_up_while_closed().await
            && let End::Lost(loss) = self.connection().await
        {
            self.lost();
            let wait = self.backoff.lost(&loss);
            self.status.send_modify(|status| {
                status.state = State::Connecting { error: Some(loss.sentence) };
            });
            if self.has_to_give_up_while_waiting(Instant::now() + wait).await {
                break;
            }
        }
        self.status.send_modify(|status| status.state = State::Stopped);
        if let Some(done) = self.stop.take().and_then(|stop| stop.done) {
            // What is left gives up its receipts before anybody hears that it is over.
            drop(self);
            done.send(()).ok();
        }
    }

    /// Opens one connection and serves it to its end.
    async fn connection(&mut self) -> End {
        let peer = Peer::new(&self.config, self.config.outbox_client_id());
        // The window, `offline` and the end.
        let mut link = Link::open(self.config.outbox_options(), usize::from(WINDOW) + 2, peer);
        self.phase = Phase::Opening;
        loop {
            let wants_more = self.send_again(&link);
            let stop_by = self.stop.as_ref().map(|stop| stop.by);
            tokio::select! {
                event = link.next() => match event {
                    Ok(Event::Outgoing(Written::Disconnect)) => return End::Stopped,
                    Ok(event) => self.on_event(event, &link),
                    Err(loss) => return self.on_loss(loss, &link),
                },
                Some(item) = self.queue.recv(), if wants_more => {
                    self.publish(item, &link);
                }
                stop = self.stops.recv(), if stop_by.is_none() => self.on_stop(stop),
                () = sleep_until(stop_by.unwrap_or_else(Instant::now)), if stop_by.is_some() => {
                    if self.phase != Phase::Ready {
                        return End::Stopped;
                    }
                    self.leave(&link);
                }
            }
            let all_sent = self.flight.is_empty() && self.queue.is_empty();
            if self.stop.is_some() && all_sent && self.phase == Phase::Ready {
                self.leave(&link);
            }
        }
    }

    /// Sends again what a lost connection left unconfirmed. Says whether there is room for more after that.
    fn send_again(&mut self, link: &Link) -> bool {
        if self.phase != Phase::Ready {
            return false;
        }
        let window = usize::from(self.limits.receive_maximum.min(WINDOW));
        while self.flight.has_room(window) {
            let Some(item) = self.flight.next() else { return true };
            if !self.publish(item, link) {
                return false;
            }
        }
        false
    }

    /// Gives a message to the client; one that cannot be sent ends here. Says no where the client takes none,
    /// which the window prevents.
    fn publish(&mut self, item: Item, link: &Link) -> bool {
        let (limits, topic) = (self.limits, &item.outgoing.topic);
        let expiry = item.expiry();
        if expiry == Some(0) {
            let refused = Refused::Expired(topic.clone());
            self.counters.refuse(item, refused);
            return true;
        }
        let packet = item.outgoing.packet(expiry, limits);
        // The packet identifier is not in it yet.
        let size = packet.size() + 2;
        if size > limits.max_packet_size as usize {
            let refused = Refused::TooLarge { topic: topic.clone(), size, max: limits.max_packet_size };
            self.counters.refuse(item, refused);
            return true;
        }
        let properties = packet.properties.unwrap_or_default();
        let sent = link.client.try_publish_with_properties(
            topic.as_str(),
            packet.qos,
            packet.retain,
            packet.payload,
            properties,
        );
        if sent.is_err() {
            self.flight.put_back(item);
            return false;
        }
        self.flight.given(item);
        true
    }

    fn on_event(&mut self, event: Event, link: &Link) {
        match event {
            Event::Incoming(Incoming::ConnAck(ack)) => self.on_connack(&ack, link),
            Event::Outgoing(Written::Publish(packet_id)) => {
                if let Some(item) = self.flight.written(packet_id) {
                    self.finish(item, link);
                }
            }
            Event::Incoming(Incoming::PubAck(ack)) => self.on_puback(&ack, link),
            _ => {}
        }
    }

    fn on_connack(&mut self, ack: &ConnAck, link: &Link) {
        self.session_present = ack.session_present;
        self.limits = BrokerLimits::from_connack(ack);
        self.phase = Phase::Announcing;
        self.publish(self.announcement(Kind::Online, ONLINE), link);
    }

    fn on_puback(&mut self, ack: &PubAck, link: &Link) {
        let Some(item) = self.flight.confirmed(ack.pkid) else { return };
        if matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
            return self.finish(item, link);
        }
        let (topic, reason) = (item.outgoing.topic.clone(), format!("{:?}", ack.reason));
        let kind = item.kind;
        self.counters.refuse(item, Refused::Broker { topic, reason });
        self.move_on(kind, link);
    }

    fn finish(&mut self, item: Item, link: &Link) {
        let kind = item.kind;
        if kind == Kind::Message {
            self.counters.published.fetch_add(1, Ordering::Relaxed);
        }
        item.finish(Ok(()));
        self.move_on(kind, link);
    }

    /// What follows when the broker has answered.
    fn move_on(&mut self, answered: Kind, link: &Link) {
        match (answered, self.phase) {
            (Kind::Online, Phase::Announcing) => self.connected(),
            (Kind::Offline, _) => {
                // Where it does not fit, the deadline ends the connection.
                link.client.try_disconnect().ok();
            }
            _ => {}
        }
    }

    fn connected(&mut self) {
        let (session_present, limits) = (self.session_present, self.limits);
        self.phase = Phase::Ready;
        self.status.send_modify(|status| {
            status.state = State::Connected { session_present, limits };
            status.connects += 1;
        });
        self.connections.send_modify(|connections| *connections += 1);
        self.backoff.connected(session_present);
    }

    /// What the broker confirmed just before the end must not go again.
    fn on_loss(&mut self, mut loss: Loss, link: &Link) -> End {
        for event in mem::take(&mut loss.rest) {
            self.on_event(event, link);
        }
        if self.phase == Phase::Leaving { End::Stopped } else { End::Lost(loss) }
    }

    fn lost(&mut self) {
        self.phase = Phase::Opening;
        for item in self.flight.lost() {
            let topic = item.outgoing.topic.clone();
            error!(%topic, "the broker ends every connection on which this is published: it is lost");
            self.counters.refuse(item, Refused::Poison(topic));
        }
    }

    fn on_stop(&mut self, stop: Option<Stop>) {
        // Nobody can send any more: there is no reason to wait.
        self.stop = Some(stop.unwrap_or_else(|| Stop { by: Instant::now() + GOODBYE, done: None }));
        self.queue.close();
    }

    fn leave(&mut self, link: &Link) {
        self.phase = Phase::Leaving;
        self.publish(self.announcement(Kind::Offline, OFFLINE), link);
        if let Some(stop) = &mut self.stop {
            stop.by = Instant::now() + GOODBYE;
        }
    }

    /// Waits for the next attempt. Says whether there is no use in one: it is to stop, and has nothing to
    /// send or no time left.
    async fn has_to_give_up_while_waiting(&mut self, until: Instant) -> bool {
        loop {
            if self.is_over() {
                return true;
            }
            let stop_by = self.stop.as_ref().map(|stop| stop.by);
            tokio::select! {
                () = sleep_until(stop_by.map_or(until, |by| by.min(until))) => {
                    if Instant::now() >= until {
                        return false;
                    }
                }
                stop = self.stops.recv(), if stop_by.is_none() => self.on_stop(stop),
            }
        }
    }

    /// Whether it was stopped and there is nothing left to send or no time for it.
    fn is_over(&self) -> bool {
        let idle = self.flight.is_empty() && self.queue.is_empty();
        self.stop.as_ref().is_some_and(|stop| idle || stop.by <= Instant::now())
    }

    /// Waits until the session hears requests. True where it was stopped meanwhile.
    async fn has_to_give_up_while_closed(&mut self) -> bool {
        loop {
            let Some(gate) = &mut self.gate else { return false };
            let open = hears_requests(&gate.borrow_and_update());
            if open {
                return false;
            }
            if self.is_over() {
                return true;
            }
            let stop_by = self.stop.as_ref().map(|stop| stop.by);
            let Some(gate) = &mut self.gate else { return false };
            tokio::select! {
                changed = gate.changed() => if changed.is_err() {
                    return false;
                },
                () = sleep_until(stop_by.unwrap_or_else(Instant::now)), if stop_by.is_some() => {}
                stop = self.stops.recv(), if stop_by.is_none() => self.on_stop(stop),
            }
        }
    }

    fn announcement(&self, kind: Kind, state: &'static str) -> Item {
        let outgoing = Outgoing { retain: true, ..Outgoing::new(self.config.state_topic.clone(), state) };
        Item::new(outgoing, kind, None)
    }
}

/// Whether a session hears what is sent. One that was stopped will not any more, and what is left goes out all
/// the same.
fn hears_requests(session: &Status) -> bool {
    session.state == State::Stopped || session.is_connected() && session.pending == 0
}
