//! A request as it arrived, read as far as every channel needs it.

use std::time::Instant;

use serde_json::{Map, Value, json};

use super::payload::{invalid, kind};
use crate::{
    effects::Cause,
    model::{Failure, message::Echo},
};

/// Bytes of an `id`.
const MAX_ID: usize = 128;

/// What goes with a request through all its channel does.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) arrived: Instant,
    pub(super) cause: Cause,
    pub(super) echo: Echo,
}

/// The name of an id's field.
const ID: &str = "id";

/// Reads what the envelope gives back; an `id` is made where there is none.
///
/// # Errors
/// When `id` is neither a short string nor an integer.
pub(super) fn echo(fields: &Map<String, Value>) -> Result<Echo, Failure> {
    let id = match fields.get(ID) {
        None | Some(Value::Null) => fresh_id(),
        Some(Value::String(id)) if id.len() > MAX_ID => {
            return Err(invalid(format!("`id` has {} bytes, at most {MAX_ID} are allowed", id.len())));
        }
        Some(id @ Value::String(_)) => id.clone(),
        Some(id @ Value::Number(number)) if !number.is_f64() => id.clone(),
        Some(other) => {
            return Err(invalid(format!("`id` must be a string or an integer, it is {}", describe(other))));
        }
    };
    let field = |name: &str| fields.get(name).filter(|value| !value.is_null()).cloned();
    Ok(Echo {
        id,
        transaction: field("transaction"),
        conversation_id: field("conversation_id"),
        user: field("user"),
        site: field("site"),
    })
}

/// Of a payload that is not the bridge's to read, only the `transaction` is given back.
pub(super) fn echo_transaction(fields: &Map<String, Value>) -> Echo {
    let transaction = fields.get("transaction").filter(|value| !value.is_null()).cloned();
    Echo { transaction, ..nameless() }
}

/// What a request without a readable payload gets.
pub(super) fn nameless() -> Echo {
    Echo { id: fresh_id(), ..Echo::default() }
}

pub(super) fn fresh_id() -> Value {
    json!(uuid::Uuid::now_v7().to_string())
}

/// A field that must be a string where it is there.
///
/// # Errors
/// When it is something else.
pub(super) fn text_field(fields: &Map<String, Value>, name: &str) -> Result<Option<String>, Failure> {
    match fields.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(invalid(format!("`{name}` must be a string, it is {}", describe(other)))),
    }
}

fn describe(value: &Value) -> &'static str {
    match value {
        Value::Number(number) if number.is_f64() => "a fraction",
        other => kind(other),
    }
}
