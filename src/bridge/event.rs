//! `<base>/event/request/<event_name>`: an event from outside, for the plugins that listen.

use std::sync::Arc;

use serde_json::{json, value::to_raw_value};

use super::{
    desk::Desk,
    outcome::Outcome,
    payload::{Payload, invalid},
    request::Request,
};
use crate::{
    model::{
        Envelope,
        message::{EventInfo, is_event_name},
    },
    plugin::{Event, Heard},
};

pub(super) async fn answer(
    desk: &Desk,
    request: &Request,
    path: Option<String>,
    payload: Payload,
) -> Envelope {
    let Some(name) = path else {
        let failure = invalid("the event's name is missing: publish to `event/request/<event_name>`");
        return Outcome::default().failed(failure).envelope(request);
    };
    let outcome = Outcome::default().named(&name);
    if !is_event_name(&name) {
        let text = format!("`{name}` is not an event's name: 1 to 64 letters, digits, `_`, `.`, `:` or `-`");
        return outcome.failed(invalid(text)).envelope(request);
    }
    let data = match payload {
        Payload::Object(mut fields) => {
            fields.remove("reply_to");
            fields.remove("transaction");
            to_raw_value(&fields)
        }
        Payload::Array(values) => to_raw_value(&values),
        Payload::Text(text) if text.is_empty() => to_raw_value(&json!({})),
        Payload::Text(text) => to_raw_value(&text),
    };
    let data = match data {
        Ok(data) => data,
        Err(error) => return outcome.failed(invalid(error.to_string())).envelope(request),
    };
    let info = EventInfo {
        name,
        plugin: None,
        id: uuid::Uuid::now_v7().to_string(),
        timestamp: crate::model::now(),
    };
    let heard = desk.registry().deliver(&Arc::new(Event::new(info, data)), &request.cause);
    let mut sum = Heard::default();
    for heard in heard {
        // A plugin that was unloaded in the meantime has heard nothing.
        let heard = heard.await.unwrap_or_default();
        sum.handlers += heard.handlers;
        sum.failures.extend(heard.failures);
    }
    let errors: Vec<&str> = sum.failures.iter().map(|failure| failure.message.as_str()).collect();
    let data = match errors.is_empty() {
        true => json!({ "delivered": sum.handlers }),
        false => json!({ "delivered": sum.handlers, "errors": errors }),
    };
    outcome.with_data(&data).envelope(request)
}
