//! `jarvis.json`: text to values and back.

use mlua::Value;

use super::{Answer, Entry, Invocation, Reply};
use crate::lua::{
    convert::{Unreadable, from_json},
    failure::lua_type,
};

pub(super) const FUNCTIONS: &[Entry] =
    &[("jarvis.json.encode", encode), ("jarvis.json.decode", decode), ("jarvis.json.array", array)];

fn encode(call: &Invocation<'_>) -> Answer {
    let text = call.host.write_json(call.value(0), "jarvis.json.encode: the value")?;
    Ok(Reply::Value(Value::String(call.lua.create_string(text.get())?)))
}

/// Text that is no JSON came from the world, so it gives nil and why.
fn decode(call: &Invocation<'_>) -> Answer {
    let text = call.bytes(0, "its text")?;
    match from_json(call.lua, &call.host.marker, &text.as_bytes()) {
        Ok(value) => Ok(Reply::Value(value)),
        Err(Unreadable::Syntax(error)) => Ok(Reply::Failure(format!("not JSON: {error}"))),
        Err(Unreadable::Memory) => Err(mlua::Error::MemoryError("not enough memory".into()).into()),
    }
}

/// Marks a table as a list, so that it is `[]` while it is empty.
fn array(call: &Invocation<'_>) -> Answer {
    let table = match call.value(0) {
        Value::Nil => call.lua.create_table()?,
        Value::Table(table) => table.clone(),
        other => {
            return Err(call.mistake(&format!("wants a table or nothing, got {}", lua_type(other))));
        }
    };
    let marker = &call.host.marker;
    if table.metatable().is_some_and(|metatable| metatable.to_pointer() != marker.to_pointer()) {
        return Err(call.mistake("cannot mark a table that has a metatable"));
    }
    table.set_metatable(Some(marker.clone()))?;
    Ok(Reply::Value(Value::Table(table)))
}
