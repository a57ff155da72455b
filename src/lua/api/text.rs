//! What the `string` library lacks. Strings are bytes here, as everywhere in Lua; numbers are read as strings,
//! as the library itself does.

use std::borrow::Cow;

use mlua::{LuaString, Value};

use super::{Answer, Entry, Invocation, Problem, Reply};
use crate::lua::failure::lua_type;

/// Bytes of a separator: no limit reaches the search, so its cost must not grow with both of its texts.
const MAX_SEPARATOR: usize = 64;

pub(super) const FUNCTIONS: &[Entry] = &[
    ("string.trim", trim),
    ("string.split", split),
    ("string.starts_with", starts_with),
    ("string.ends_with", ends_with),
];

fn trim(call: &Invocation<'_>) -> Answer {
    let text = string(call, 0)?;
    Ok(Reply::Value(Value::String(call.lua.create_string(text.as_bytes().trim_ascii())?)))
}

/// Between separators, at most `max` parts; without a separator the words between white space.
fn split(call: &Invocation<'_>) -> Answer {
    let text = string(call, 0)?;
    let text = text.as_bytes();
    let parts = if call.value(1).is_nil() {
        call.lua.create_sequence_from(
            text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).map(Bytes),
        )?
    } else {
        let separator = string(call, 1)?;
        let separator = separator.as_bytes();
        if !(1..=MAX_SEPARATOR).contains(&separator.len()) {
            return Err(call.mistake("wants a separator of 1 to 64 bytes"));
        }
        let most = match call.value(2) {
            Value::Nil => usize::MAX,
            Value::Integer(most) if *most > 0 => usize::try_from(*most).unwrap_or(usize::MAX),
            _ => return Err(call.mistake("wants a whole number above 0 as how many parts")),
        };
        call.lua
            .create_sequence_from(Parts { rest: Some(&text), separator: &separator, left: most }.map(Bytes))?
    };
    parts.set_metatable(Some(call.host.marker.clone()))?;
    Ok(Reply::Value(Value::Table(parts)))
}

fn starts_with(call: &Invocation<'_>) -> Answer {
    let (text, prefix) = (string(call, 0)?, string(call, 1)?);
    Ok(Reply::Value(Value::Boolean(text.as_bytes().starts_with(&prefix.as_bytes()))))
}

fn ends_with(call: &Invocation<'_>) -> Answer {
    let (text, suffix) = (string(call, 0)?, string(call, 1)?);
    Ok(Reply::Value(Value::Boolean(text.as_bytes().ends_with(&suffix.as_bytes()))))
}

fn string(call: &Invocation<'_>, index: usize) -> Result<LuaString, Problem> {
    let value = call.value(index);
    if let Value::String(_) | Value::Integer(_) | Value::Number(_) = value
        && let Some(text) = call.lua.coerce_string(value.clone())?
    {
        return Ok(text);
    }
    let function = call.name.trim_start_matches("string.");
    let (number, found) =
        (index + 1, if value.is_nil() { Cow::Borrowed("nil") } else { lua_type(value).into() });
    // The words of Lua's own library.
    Err(Problem::mistake(format!("bad argument #{number} to '{function}' (string expected, got {found})")))
}

/// A piece of a Lua string.
struct Bytes<'a>(&'a [u8]);

impl mlua::IntoLua for Bytes<'_> {
    fn into_lua(self, lua: &mlua::Lua) -> mlua::Result<Value> {
        lua.create_string(self.0).map(Value::String)
    }
}

/// The parts of some bytes between separators.
struct Parts<'a> {
    rest: Option<&'a [u8]>,
    separator: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        self.left -= 1;
        let found = rest.windows(self.separator.len()).position(|window| window == self.separator);
        let Some(position) = found.filter(|_| self.left > 0) else {
            self.rest = None;
            return Some(rest);
        };
        self.rest = rest.get(position + self.separator.len()..);
        rest.get(..position)
    }
}
