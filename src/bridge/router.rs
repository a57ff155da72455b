//! Takes what arrives and gives it to its channel, one task per request, in the order of arrival.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{
    address::{self, Address, Channel, Misaddressed},
    automation, chat, command, control,
    desk::Desk,
    event,
    outcome::Outcome,
    payload::{self, Payload},
    reply::ReplyTo,
    request::{self, Request},
};
use crate::{
    effects::{
        Hush, MAX_HOPS,
        bus::{HOPS, ORIGIN, REQUESTS},
    },
    model::{ErrorCode, Failure, PluginId, shown},
    mqtt::{Inbound, Inbox},
};

/// Requests at QoS 0 that may run; more are dropped. Those at QoS 1 are bounded by what may be in flight and parked.
const MAX_RUNNING: usize = 512;

/// Characters of a topic that the log shows.
const MAX_TOPIC: usize = 200;

/// Routes until it is stopped.
pub struct Router {
    desk: Desk,
    /// What is told of messages that go round and round.
    circles: Hush,
}

impl Router {
    /// A router for a desk.
    #[must_use]
    pub fn new(desk: Desk) -> Self {
        Self { desk, circles: Hush::default() }
    }

    /// Takes what the last run has parked, then messages until `stop` comes or the session ends. What is in the
    /// inbox then is not acknowledged, so the broker keeps it.
    pub async fn run(mut self, mut inbox: Inbox, mut stop: oneshot::Receiver<()>) {
        match self.desk.parking().left().await {
            Ok(left) => left.into_iter().for_each(|inbound| self.take(inbound)),
            Err(error) => {
                tracing::error!(%error, "what was parked in the last run cannot be read: it waits on")
            }
        }
        loop {
            let told = self.circles.due();
            tokio::select! {
                biased;
                _ = &mut stop => return,
                () = until(told) => self.tell(),
                inbound = inbox.recv() => match inbound {
                    Some(inbound) => self.take(inbound),
                    None => return,
                },
            }
        }
    }

    fn take(&mut self, mut inbound: Inbound) {
        let is_request = address::is_request(&self.desk.config().base, &inbound.topic);
        if is_request {
            // Nobody reads a request's other properties, and there is no bound on them.
            inbound.properties.user.retain(|(name, _)| name == HOPS || name == ORIGIN);
        }
        self.desk.parking().watch(&inbound);
        if is_request {
            let ids = &inbound.properties.subscription_ids;
            // A plugin's wide filter may match a request too; requests go through the hooks only.
            if ids.is_empty() || ids.contains(&REQUESTS) {
                self.take_request(inbound);
            }
            return;
        }
        let hops = hops(&inbound);
        if hops > MAX_HOPS {
            return self.cut(&inbound.topic);
        }
        let cause = self.desk.bus().cause(inbound.receipt.clone(), hops, &inbound.properties);
        for delivery in self.desk.bus().deliveries(&inbound) {
            if self.desk.registry().deliver_message(delivery, &cause) {
                self.desk.drop_one();
            }
        }
    }

    /// Drops a message that has gone through too many plugins. Each of them may send several on, so they come in
    /// floods.
    fn cut(&mut self, topic: &str) {
        self.desk.drop_one();
        if self.circles.lets(topic, Instant::now()) {
            let plugins = self.desk.registry().listeners(topic);
            let plugins: Vec<&str> = plugins.iter().map(PluginId::as_str).collect();
            let (topic, plugins) = (shown(topic, MAX_TOPIC), plugins.join(", "));
            tracing::error!(
                topic,
                plugins,
                "a message is dropped: plugins publish in a circle, and these listen to its topic"
            );
        }
    }

    /// Says how many messages of the last second the log has not told of.
    fn tell(&mut self) {
        let more = self.circles.take();
        tracing::error!(more, "messages that went in a circle were dropped, this many more");
    }

    fn take_request(&self, inbound: Inbound) {
        let unkept = match inbound.qos {
            0 => match self.desk.begin_unkept(MAX_RUNNING) {
                Some(unkept) => Some(unkept),
                None => return self.desk.drop_one(),
            },
            _ => None,
        };
        if inbound.retain {
            if inbound.payload.is_empty() {
                return;
            }
            warn_retained(&inbound.topic);
        }
        let (desk, running) = (self.desk.clone(), self.desk.begin());
        tokio::spawn(async move {
            answer(&desk, inbound).await;
            drop((running, unkept));
        });
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

fn warn_retained(topic: &str) {
    tracing::warn!(
        topic,
        "a request was published as retained: it runs once and stays on the broker; clear it with \
         `mosquitto_pub -r -n -t '{topic}'`"
    );
}

/// One request, from its payload to its envelope.
async fn answer(desk: &Desk, inbound: Inbound) {
    let arrived = Instant::now();
    let hops = hops(&inbound);
    let Inbound { topic, payload: bytes, properties, receipt, .. } = inbound;
    let cause = desk.bus().cause(receipt, hops.min(MAX_HOPS), &properties);
    let Some(address) = address::read(&desk.config().base, &topic) else { return };
    let fixed = match &address {
        Ok(Address { fixed, .. }) | Err(Misaddressed { fixed, .. }) => fixed.clone(),
    };
    let payload = payload::read(&bytes, desk.config().payload);
    drop(bytes);
    let fields = match &payload {
        Ok(Payload::Object(fields)) => Some(fields),
        Ok(Payload::Array(_) | Payload::Text(_)) | Err(_) => None,
    };
    let mut reply = ReplyTo::new(desk, fixed, &properties);
    if let Some(fields) = fields {
        reply = reply.or_field(desk, fields);
    }
    drop(properties);
    let whole = address.as_ref().is_ok_and(takes_whole);
    let (echo, bad_echo) = match fields {
        None => (request::nameless(), None),
        Some(fields) if whole => (request::echo_transaction(fields), None),
        Some(fields) => match request::echo(fields) {
            Ok(echo) => (echo, None),
            Err(failure) => (request::nameless(), Some(failure)),
        },
    };
    let request = Request { arrived, cause, echo };
    let ready = address
        .map_err(|misaddressed| misaddressed.failure)
        .and_then(|address| Ok((address, payload?)))
        .and_then(|ready| bad_echo.map_or(Ok(ready), Err))
        .and_then(|ready| if hops > MAX_HOPS { Err(too_many_hops()) } else { Ok(ready) });
    match ready {
        Ok((address, payload)) => dispatch(desk, request, address, payload, reply).await,
        Err(failure) => {
            let envelope = Outcome::default().failed(failure).envelope(&request);
            reply.send(desk, &envelope, &request.cause).await;
        }
    }
}

/// Whether a payload on this address belongs to the command or event as a whole, or names a plugin: an `id`
/// or `user` in it then means something else.
fn takes_whole(address: &Address) -> bool {
    match address.channel {
        Channel::Command => address.path.is_some(),
        Channel::Event | Channel::Bridge => true,
        Channel::Chat | Channel::Automation => false,
    }
}

async fn dispatch(desk: &Desk, request: Request, address: Address, payload: Payload, reply: ReplyTo) {
    let envelope = match address.channel {
        Channel::Chat => return chat::answer(desk, request, &address, payload, reply).await,
        Channel::Command => command::answer(desk, &request, address.path, payload).await,
        Channel::Automation => automation::answer(desk, &request, address.path, payload).await,
        Channel::Event => event::answer(desk, &request, address.path, payload).await,
        Channel::Bridge => control::answer(desk, &request, address.path, payload).await,
    };
    reply.send(desk, &envelope, &request.cause).await;
}

fn hops(inbound: &Inbound) -> u8 {
    let property = inbound.properties.user.iter().find(|(name, _)| name == HOPS);
    property.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
}

fn too_many_hops() -> Failure {
    let text =
        format!("the message has gone through plugins {MAX_HOPS} times already: they publish in a circle");
    Failure::new(ErrorCode::RateLimited, text)
}
