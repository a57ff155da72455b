//! Takes what arrives and gives it to its channel, one task per request, in the order of arrival.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::sync::oneshot;

use super::{
    address::{self, Address, Channel, Misaddressed},
    automation, chat, command, control, desk::Desk, event,
    outcome::Outcome,
    payload::{self, Payload},
    reply::ReplyTo,
    request::{self, Request},
};
use crate::{
    effects::{
        Cause,
        bus::{HOPS, REQUESTS},
    },
    model::{Envelope, ErrorCode, Failure},
    mqtt::{Inbound, Inbox},
};

/// How often a message may go through plugins and back.
const MAX_HOPS: u8 = 8;

/// What was dropped at the door.
#[derive(Debug, Default)]
pub struct Counters {
    /// QoS 0 messages for a plugin whose mailbox was full.
    pub dropped: AtomicU64,
}

/// Routes until it is stopped.
#[derive(Clone)]
pub struct Router {
    desk: Desk,
    counters: Arc<Counters>,
}

impl Router {
    /// A router for a desk.
    #[must_use]
    pub fn new(desk: Desk) -> Self {
        Self { desk, counters: Arc::default() }
    }

    /// Takes messages until `stop` comes or the session ends. What is in the inbox then is not acknowledged,
    /// so the broker keeps it.
    pub async fn run(self, mut inbox: Inbox, mut stop: oneshot::Receiver<()>) {
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
        let base = &self.desk.config().base;
        if address::is_request(base, &inbound.topic) {
            let ids = &inbound.properties.subscription_ids;
            // A plugin's wide filter may match a request too; requests go through the hooks only.
            if ids.is_empty() || ids.contains(&REQUESTS) {
                self.take_request(inbound);
            }
            return;
        }
        let cause = Cause::message(inbound.receipt.clone(), hops(&inbound).min(MAX_HOPS));
        for delivery in self.desk.bus().deliveries(&inbound) {
            if self.desk.registry().deliver_message(delivery, &cause) {
                self.counters.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn take_request(&self, inbound: Inbound) {
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
    let (fixed, address) = match address {
        Ok(address) => (address.fixed.clone(), Ok(address)),
        Err(Misaddressed { fixed, failure }) => (fixed, Err(failure)),
    };
    let reply = ReplyTo::new(desk, fixed, &properties);
    let payload = payload::read(&bytes, desk.config().payload);
    drop(bytes);
    let (reply, mut echo) = match &payload {
        Ok(Payload::Object(fields)) => (reply.or_field(desk, fields), request::echo(fields)),
        Ok(Payload::Array(_) | Payload::Text(_)) | Err(_) => (reply, Ok(request::nameless())),
    };
    if let (Ok(address), Ok(echo)) = (&address, &mut echo)
        && takes_whole(address)
    {
        // Its payload is the command's own: an `id` or `user` in it means something else.
        *echo = model_echo(&payload);
    }
    let (request_echo, bad_echo) = match echo {
        Ok(echo) => (echo, None),
        Err(failure) => (request::nameless(), Some(failure)),
    };
    let request = Request { arrived, cause, echo: request_echo };
    let ready = address.and_then(|address| match (bad_echo, payload) {
        (_, Err(failure)) => Err((failure, Some(address))),
        (Some(failure), _) if !takes_whole(&address) => Err((failure, Some(address))),
        (_, Ok(payload)) => match hops > MAX_HOPS {
            true => Err((too_many_hops(), Some(address))),
            false => Ok((address, payload)),
        },
    }.map_err(|(failure, _)| failure));
    match ready {
        Ok((address, payload)) => dispatch(desk, request, address, payload, reply).await,
        Err(failure) => {
            let envelope = Outcome::default().failed(failure).envelope(&request);
            finish(desk, &request, reply, &envelope).await;
        }
    }
}

/// Whether a payload on this address belongs to the command or event as a whole, or names a plugin.
fn takes_whole(address: &Address) -> bool {
    match address.channel {
        Channel::Command => address.path.is_some(),
        Channel::Event | Channel::Bridge => true,
        Channel::Chat | Channel::Automation => false,
    }
}

/// Of a payload that is not the bridge's to read, only the `transaction` is given back.
fn model_echo(payload: &Result<Payload, Failure>) -> crate::model::message::Echo {
    let transaction = match payload {
        Ok(Payload::Object(fields)) => fields.get("transaction").filter(|value| !value.is_null()).cloned(),
        Ok(Payload::Array(_) | Payload::Text(_)) | Err(_) => None,
    };
    crate::model::message::Echo { transaction, ..request::nameless() }
}

async fn dispatch(desk: &Desk, request: Request, address: Address, payload: Payload, reply: ReplyTo) {
    let envelope = match address.channel {
        Channel::Chat => return chat::answer(desk, request, &address, payload, reply).await,
        Channel::Command => command::answer(desk, &request, address.path, payload).await,
        Channel::Automation => automation::answer(desk, &request, address.path, payload).await,
        Channel::Event => event::answer(desk, &request, address.path, payload).await,
        Channel::Bridge => control::answer(desk, &request, address.path, payload).await,
    };
    finish(desk, &request, reply, &envelope).await;
}

/// Sends the envelope of a request.
pub(super) async fn finish(desk: &Desk, request: &Request, reply: ReplyTo, envelope: &Envelope) {
    reply.send(desk, envelope, &request.cause).await;
}

fn hops(inbound: &Inbound) -> u8 {
    let property = inbound.properties.user.iter().find(|(name, _)| name == HOPS);
    property.and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
}

fn too_many_hops() -> Failure {
    let text = format!("the message has gone through plugins {MAX_HOPS} times already: they publish in a circle");
    Failure::new(ErrorCode::RateLimited, text)
}
