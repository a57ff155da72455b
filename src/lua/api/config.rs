//! `jarvis.config`: the operator's values and what the plugin set itself.

use super::{Answer, Entry, Invocation, Reply};
use crate::lua::books::Shelf;

pub(super) const FUNCTIONS: &[Entry] = &[("jarvis.config.get", get), ("jarvis.config.set", set)];

fn get(call: &Invocation<'_>) -> Answer {
    let key = call.key(0)?;
    let books = call.host.books.borrow();
    match books.config(&key) {
        Some(value) => Ok(Reply::Value(call.host.read_json(call.lua, value)?)),
        None => Ok(Reply::Value(call.value(1).clone())),
    }
}

fn set(call: &Invocation<'_>) -> Answer {
    let key = if call.value(1).is_nil() { call.key(0)? } else { call.new_key(0)? };
    let value = match call.value(1) {
        value if value.is_nil() => None,
        value => Some(call.host.write_json(value, &format!("{} `{key}`", call.name))?),
    };
    call.host.books.borrow_mut().write(Shelf::Config, key, value)?;
    Ok(Reply::Nothing)
}
