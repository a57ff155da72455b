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
        Cause, MAX_HOPS,
        bus::{HOPS, REQUESTS},
    },
    model::{ErrorCode, Failure},
    mqtt::{Inbound, Inbox},
};

/// Requests that may run before those at QoS 0 are dropped. Those at QoS 1 are bounded by the receive maximum.
const MAX_RUNNING: usize = 512;

/// Routes until it is stopped.
#[derive(Clone)]
pub struct Router {
    desk: Desk,
}

impl Router {
    /// A router for a desk.
    #[must_use]
    pub fn new(desk: Desk) -> Self {
        Self { desk }
    }

    /// Takes what the last run has parked, then messages until `stop` comes or the session ends. What is in the inbox then is not acknowledged,
    /// so the broker keeps it.
    pub async fn run(self, mut inbox: Inbox, mut stop: oneshot::Receiver<()>) {
        match self.desk.parking().left().await {
            Ok(left) => left.into_iter().for_each(|inbound| self.take(inbound)),
            Err(error) => {
                tracing::error!(%error, "what was parked in the last run cannot be read: it waits on")
            }
        }
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => return,
                inbound = inbox.recv() => match inbound {
                    Some(inbound) => self.take(inbound),
                    None => return,
                },
            }
        }
    }

    fn take(&self, inbound: Inbound) {
        self.desk.parking().watch(&inbound);
        let base = &self.desk.config().base;
        if address::is_request(base, &inbound.topic) {
            let ids = &inbound.properties.subscription_ids;
            // A plugin's wide filter may match a request too; requests go through the hooks only.
            if ids.is_empty() || ids.contains(&REQUESTS) {
                self.take_request(inbound);
            }
            return;
        }
        let hops = hops(&inbound);
        if hops > MAX_HOPS {
            tracing::error!(topic = inbound.topic, "a message is dropped: plugins publish in a circle");
            return self.desk.drop_one();
        }
        let cause = Cause::message(inbound.receipt.clone(), hops);
        for delivery in self.desk.bus().deliveries(&inbound) {
            if self.desk.registry().deliver_message(delivery, &cause) {
                self.desk.drop_one();
            }
        }
    }

    fn take_request(&self, inbound: Inbound) {
        if inbound.qos == 0 && self.desk.running() >= MAX_RUNNING {
            return self.desk.drop_one();
        }
        if inbound.retain {
            if inbound.payload.is_empty() {
                return;
            }
            warn_retained(&inbound.topic);
        }
        let (desk, running) = (self.desk.clone(), self.desk.begin());
        tokio::spawn(async move {
            answer(&desk, inbound).await;
            drop(running);
        });
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
    let cause = Cause::message(receipt, hops.min(MAX_HOPS));
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
