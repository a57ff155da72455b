//! `jarvis.mqtt`: topics within the plugin's permissions.

use mlua::Value;

use super::{Answer, Entry, Invocation, Problem, Reply, events};
use crate::{
    lua::{
        books::{Handler, HandlerKind},
        convert::escaped_length,
        failure::lua_type,
        text,
    },
    model::{
        Filter, Topic,
        frame::{Effect, Operation, Publish},
        message::Payload,
    },
};

pub(super) const FUNCTIONS: &[Entry] = &[
    ("jarvis.mqtt.publish", publish),
    ("jarvis.mqtt.subscribe", subscribe),
    ("jarvis.mqtt.unsubscribe", unsubscribe),
    ("jarvis.mqtt.get", get),
];

fn publish(call: &Invocation<'_>) -> Answer {
    let topic = topic(call)?;
    let host = call.host;
    call.host.rights.check_publish(&topic).map_err(Problem::mistake)?;
    let payload = payload(call, &topic)?;
    let options = call.options(2, &["qos", "retain", "now"])?;
    let (qos, retain) = (options.qos()?, options.switch("retain", false)?);
    let now = options.switch("now", false)?;
    host.books.borrow_mut().count_output()?;
    let bytes = topic.as_str().len() + json_length(&payload);
    let publish = Publish { topic, payload, qos, retain };
    if !now {
        host.books.borrow_mut().push(Effect::Publish(publish), bytes)?;
        return Ok(Reply::Value(Value::Boolean(true)));
    }
    match host.ask(Operation::Publish(publish))? {
        Ok(_) => Ok(Reply::Value(Value::Boolean(true))),
        Err(why) => Ok(Reply::Failure(why)),
    }
}

fn subscribe(call: &Invocation<'_>) -> Answer {
    let filter = Filter::parse(&call.text(0, "the topic filter")?)
        .map_err(|error| Problem::mistake(error.to_string()))?;
    let function = call.function(1, "what to call")?;
    let options = call.options(2, &["qos", "retained"])?;
    let (qos, retained) = (options.qos()?, options.switch("retained", true)?);
    call.host.rights.check_subscribe(&filter).map_err(Problem::mistake)?;
    let (name, bytes) = (text::clean(filter.as_str().as_bytes(), 120), filter.as_str().len());
    let handler = Handler { function, kind: HandlerKind::Subscription, name, once: false };
    let effect = |handler| Effect::Subscribe { handler, filter, qos, retained };
    let number = call.host.books.borrow_mut().add_handler(handler, bytes, effect)?;
    Ok(Reply::Value(events::number_value(number)))
}

fn unsubscribe(call: &Invocation<'_>) -> Answer {
    events::remove(call, HandlerKind::Subscription)
}

/// The last value that a subscription of the plugin's saw.
fn get(call: &Invocation<'_>) -> Answer {
    let topic = topic(call)?;
    let answer = match call.host.ask(Operation::Get(topic.as_str().to_owned()))? {
        Ok(answer) => answer,
        Err(why) => return Ok(Reply::Failure(why)),
    };
    let payload: Option<Payload> = serde_json::from_str(answer.get())
        .map_err(|error| call.mistake(&format!("got an answer that is no payload: {error}")))?;
    match payload {
        Some(payload) => Ok(Reply::Value(Value::String(call.lua.create_string(payload.as_bytes())?))),
        None => Ok(Reply::Nothing),
    }
}

fn topic(call: &Invocation<'_>) -> Result<Topic, Problem> {
    Topic::parse(&call.text(0, "the topic")?).map_err(|error| Problem::mistake(error.to_string()))
}

/// Strings go out as they are, tables as JSON, numbers and booleans as Lua prints them.
fn payload(call: &Invocation<'_>, topic: &Topic) -> Result<Payload, Problem> {
    let payload = match call.value(1) {
        Value::String(bytes) => {
            check_size(call, bytes.as_bytes().len())?;
            Payload::from_bytes(&bytes.as_bytes())
        }
        value @ (Value::Table(_)
        | Value::Boolean(_)
        | Value::Integer(_)
        | Value::Number(_)
        | Value::LightUserData(_)) => {
            let text = call.host.write_json(value, &format!("the payload for `{topic}`"))?;
            Payload::Text(text.get().to_owned())
        }
        Value::Nil => {
            return Err(
                call.mistake("wants a payload: use \"\" for an empty one, which clears a retained value")
            );
        }
        other => return Err(call.mistake(&format!("cannot send a {}", lua_type(other)))),
    };
    check_size(call, json_length(&payload))?;
    Ok(payload)
}

fn check_size(call: &Invocation<'_>, bytes: usize) -> Result<(), Problem> {
    let limit = call.host.limits.result;
    if bytes <= limit {
        return Ok(());
    }
    Err(call.mistake(&format!(
        "has a payload of {bytes} bytes as JSON, at most {limit} are allowed (limits.result)"
    )))
}

/// What a payload takes in a frame: bytes that are no text become a list of numbers.
fn json_length(payload: &Payload) -> usize {
    match payload {
        Payload::Text(text) => escaped_length(text),
        Payload::Bytes(bytes) => {
            2 + bytes.iter().map(|byte| 2 + usize::from(*byte > 9) + usize::from(*byte > 99)).sum::<usize>()
        }
    }
}
