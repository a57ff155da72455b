//! `jarvis.state`: values that outlive the plugin. Kept as JSON text and read afresh at each `get`, so that no
//! table is shared with what was stored.

use mlua::Value;
use serde_json::value::RawValue;

use super::{Answer, Entry, Invocation, Problem, Reply};
use crate::lua::books::Shelf;

pub(super) const FUNCTIONS: &[Entry] = &[
    ("jarvis.state.get", get),
    ("jarvis.state.set", set),
    ("jarvis.state.delete", delete),
    ("jarvis.state.keys", keys),
    ("jarvis.state.incr", incr),
];

fn get(call: &Invocation<'_>) -> Answer {
    let key = call.key(0)?;
    let books = call.host.books.borrow();
    match books.state(&key) {
        Some(value) => Ok(Reply::Value(call.host.read_json(call.lua, value)?)),
        None => Ok(Reply::Value(call.value(1).clone())),
    }
}

fn set(call: &Invocation<'_>) -> Answer {
    if call.value(1).is_nil() {
        return delete(call);
    }
    let key = call.new_key(0)?;
    let value = call.host.write_json(call.value(1), &format!("{} `{key}`", call.name))?;
    call.host.books.borrow_mut().write(Shelf::State, key, Some(value))?;
    Ok(Reply::Nothing)
}

fn delete(call: &Invocation<'_>) -> Answer {
    let key = call.key(0)?;
    let mut books = call.host.books.borrow_mut();
    if books.state(&key).is_some() {
        books.write(Shelf::State, key, None)?;
    }
    Ok(Reply::Nothing)
}

fn keys(call: &Invocation<'_>) -> Answer {
    let prefix = if call.value(0).is_nil() { String::new() } else { call.text(0, "the prefix")? };
    let books = call.host.books.borrow();
    let keys = call.lua.create_sequence_from(books.state_keys(&prefix))?;
    keys.set_metatable(Some(call.host.marker.clone()))?;
    Ok(Reply::Value(Value::Table(keys)))
}

fn incr(call: &Invocation<'_>) -> Answer {
    let key = call.new_key(0)?;
    let step = match call.value(1) {
        Value::Nil => Value::Integer(1),
        step @ (Value::Integer(_) | Value::Number(_)) => step.clone(),
        _ => return Err(call.mistake("wants a number as what to add")),
    };
    let old = call.host.books.borrow().state(&key).map(|value| read_number(call, &key, value)).transpose()?;
    let sum = add(&old.unwrap_or(Value::Integer(0)), &step);
    let text = call.host.write_json(&sum, &format!("{} `{key}`", call.name))?;
    call.host.books.borrow_mut().write(Shelf::State, key, Some(text))?;
    Ok(Reply::Value(sum))
}

fn read_number(call: &Invocation<'_>, key: &str, value: &RawValue) -> Result<Value, Problem> {
    match call.host.read_json(call.lua, value)? {
        number @ (Value::Integer(_) | Value::Number(_)) => Ok(number),
        _ => Err(call.mistake(&format!("cannot count `{key}`: it holds no number"))),
    }
}

/// Adds as Lua does, but an integer that would wrap around becomes a float.
#[expect(clippy::cast_precision_loss, reason = "a float is what Lua has beyond its integers")]
fn add(left: &Value, right: &Value) -> Value {
    let float = |value: &Value| match value {
        Value::Integer(number) => *number as f64,
        Value::Number(number) => *number,
        _ => 0.0,
    };
    if let (Value::Integer(left), Value::Integer(right)) = (left, right)
        && let Some(sum) = left.checked_add(*right)
    {
        return Value::Integer(sum);
    }
    Value::Number(float(left) + float(right))
}
