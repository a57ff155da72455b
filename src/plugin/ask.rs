//! Putting things into a plugin's mailbox, and waiting for what comes back.

use std::{
    future::{Future, poll_fn},
    task::Poll,
    time::Duration,
};

use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::sync::oneshot;

use super::{
    mail::{Mail, Step},
    mailbox::Returned,
    registry::Registry,
    shared::{Shared, State},
};
use crate::{
    effects::Cause,
    model::{ErrorCode, Failure, frame::Input},
};

/// As much of a result as the bridge must read.
#[derive(Deserialize)]
struct Peek {
    response: Option<Value>,
}

/// The string `response` of a result, where it has one.
#[must_use]
pub fn response_of(result: &RawValue) -> Option<String> {
    if !result.get().starts_with('{') {
        return None;
    }
    match serde_json::from_str::<Peek>(result.get()).ok()?.response? {
        Value::String(text) => Some(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A call on its way: its answer comes, or there is none, or the plugin is so far behind that it was refused.
enum Posted {
    Sent(oneshot::Receiver<Step>),
    Gone,
    Behind(usize),
}

/// Puts a call into a plugin's mailbox.
fn post(shared: &Shared, hook: &'static str, input: Input, cause: &Cause) -> Posted {
    let (reply, answer) = oneshot::channel();
    let mail = Mail::Hook { hook, input, cause: cause.clone(), reply };
    match shared.mailbox().post(mail) {
        Ok(()) => Posted::Sent(answer),
        Err(Returned::Behind(mails)) => {
            shared.stats().refused();
            Posted::Behind(mails)
        }
        Err(Returned::Closed(_) | Returned::Full) => Posted::Gone,
    }
}

/// Waits for all of them at once: a plugin that takes long keeps no other one from its mail.
pub(super) async fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(|post| Some(Box::pin(post))).collect();
    let mut done: Vec<Option<T>> = waiting.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (post, done) in waiting.iter_mut().zip(&mut done) {
            if let Some(Poll::Ready(value)) = post.as_mut().map(|post| post.as_mut().poll(context)) {
                (*post, *done) = (None, Some(value));
            }
        }
        if waiting.iter().any(Option::is_some) { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}

/// Waits for the answer; a plugin that cannot run, or was unloaded meanwhile, gives none.
async fn answered(shared: &Shared, posted: Posted) -> Step {
    let text = match posted {
        Posted::Behind(mails) => {
            format!("plugin `{}` is too slow: {mails} messages wait for it already", shared.id())
        }
        Posted::Sent(answer) => match answer.await {
            Ok(step) => return step,
            Err(_) => gone(shared),
        },
        Posted::Gone => gone(shared),
    };
    Step { outcome: Err(Failure::new(ErrorCode::Unavailable, text)), ran: Duration::ZERO }
}

/// Why a plugin gives no answer at all.
fn gone(shared: &Shared) -> String {
    let facts = shared.facts();
    match &facts.last_error {
        Some(error) if facts.state == State::Error => error.message.clone(),
        _ => format!("plugin `{}` was unloaded before it could answer", shared.id()),
    }
}

/// Asks one of several, and waits no longer than its longest call may take: the others shall not wait for all that may
/// lie before it. A call that had not begun by then is not made.
pub(super) async fn ask_among(shared: &Shared, hook: &'static str, input: Input, cause: &Cause) -> Step {
    let patience = shared.patience();
    match tokio::time::timeout(patience, ask(shared, hook, input, cause)).await {
        Ok(step) => step,
        Err(_) => {
            let text = format!(
                "plugin `{}`: {hook} did not come to an end within {} s: {} messages wait for it",
                shared.id(),
                patience.as_secs(),
                shared.mailbox().behind()
            );
            shared.stats().refused();
            Step { outcome: Err(Failure::new(ErrorCode::Timeout, text)), ran: patience }
        }
    }
}

/// Asks and waits.
pub(super) async fn ask(shared: &Shared, hook: &'static str, input: Input, cause: &Cause) -> Step {
    let answer = post(shared, hook, input, cause);
    answered(shared, answer).await
}

/// Puts mail into a mailbox without waiting. Where it is full, what a QoS 1 message has caused goes in all the same,
/// until the plugin is too far behind; anything else is dropped and counted.
pub(super) fn drop_in(registry: &Registry, shared: &Shared, mail: Mail) {
    let sent = match mail.cause().has_receipt() {
        true => shared.mailbox().press(mail),
        false => shared.mailbox().offer(mail),
    };
    match sent {
        Ok(()) => {}
        Err(Returned::Closed(mail)) if registry.is_closing() => mail.abandon(),
        Err(Returned::Closed(_)) => {}
        Err(Returned::Full | Returned::Behind(_)) => {
            if let Some(dropped) = shared.dropped_one() {
                let (plugin, waiting) = (shared.id(), shared.mailbox().behind());
                tracing::warn!(%plugin, waiting, dropped, "the plugin is too slow: events and messages for it are dropped");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::response_of;

    #[test]
    fn only_a_string_is_a_response() {
        let check = |json: &str, expect: Option<&str>| {
            let raw = serde_json::value::RawValue::from_string(json.into()).unwrap();
            assert_eq!(response_of(&raw).as_deref(), expect, "{json}");
        };
        check(r#"{"response":"Sunny ☀️"}"#, Some("Sunny ☀️"));
        check(r#"{"response":5}"#, None);
        check(r#"{"ok":true}"#, None);
        check(r#"[1,2]"#, None);
        check("false", None);
    }
}
