//! One hook called once, without a broker: the same reading and the same envelope as over MQTT.

use std::time::Instant;

use serde_json::{Map, Value, value::RawValue, value::to_raw_value};

use super::{
    automation, chat, command,
    outcome::Outcome,
    payload::{self, Payload, invalid},
    request::{self, Request},
};
use crate::{
    effects::Cause,
    model::{Envelope, Failure, frame::Input},
    plugin::{Registry, known_hook},
};

/// A call to be made.
#[derive(Debug, Clone, Copy)]
pub struct Once<'call> {
    /// The hook.
    pub hook: &'call str,
    /// What it gets, as it would be published.
    pub payload: &'call [u8],
    /// Bytes of the payload.
    pub limit: usize,
    /// Only this plugin is asked.
    pub plugin: Option<&'call str>,
}

/// Calls a hook and gives the envelope, whatever happens.
pub async fn call_once(registry: &Registry, once: Once<'_>) -> Envelope {
    let mut request = Request { arrived: Instant::now(), cause: Cause::none(), echo: request::nameless() };
    let outcome = match known_hook(once.hook) {
        Ok(hook) => match run(registry, hook, once, &mut request).await {
            Ok(outcome) => outcome,
            Err(failure) => Outcome::of(hook).failed(failure),
        },
        Err(failure) => Outcome::default().failed(failure),
    };
    outcome.envelope(&request)
}

async fn run(
    registry: &Registry,
    hook: &'static str,
    once: Once<'_>,
    request: &mut Request,
) -> Result<Outcome, Failure> {
    let payload = payload::read(once.payload, once.limit)?;
    if let Payload::Object(fields) = &payload {
        request.echo = request::echo(fields)?;
    }
    let mut outcome = Outcome::of(hook);
    let input = match hook {
        "on_command" => {
            let command = command::read_unnamed(payload)?;
            if once.plugin.is_none() {
                return Ok(command::ask(registry, request, command).await);
            }
            outcome = outcome.named(&command.name);
            raw(&command::input(request, &command))?
        }
        "on_automation" => {
            let automation = automation::read(None, payload)?;
            outcome = outcome.named(&automation.name);
            raw(&automation::input(request, automation.fields))?
        }
        "on_chat" | "filter_message" | "filter_response" => {
            let message = chat::read(request, None, payload)?;
            if hook != "on_chat" && once.plugin.is_none() {
                return filter(registry, hook, message.fields, request).await;
            }
            raw(&message.fields)?
        }
        _ => match payload {
            Payload::Object(fields) => raw(&fields)?,
            Payload::Array(values) => raw(&values)?,
            Payload::Text(text) => raw(&text)?,
        },
    };
    match once.plugin {
        Some(id) => {
            let step = registry.call(id, hook, Input::Value(input), &request.cause).await?;
            let id = crate::model::PluginId::parse(id).map_err(|error| invalid(error.to_string()))?;
            outcome.add(vec![(id, step)]);
        }
        None => outcome.add(registry.call_all(hook, &input, &request.cause).await),
    }
    Ok(outcome)
}

async fn filter(
    registry: &Registry,
    hook: &'static str,
    message: Map<String, Value>,
    request: &Request,
) -> Result<Outcome, Failure> {
    let filtered = registry.filter(hook, message, &request.cause).await;
    let mut outcome = Outcome::of(hook);
    outcome.note(filtered.failures);
    Ok(match filtered.stopped {
        Some(stop) => outcome.failed(chat::cancelled(&stop)),
        None => outcome.with_data(&filtered.message),
    })
}

fn raw(value: &impl serde::Serialize) -> Result<Box<RawValue>, Failure> {
    to_raw_value(value).map_err(|error| invalid(error.to_string()))
}
