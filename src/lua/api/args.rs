//! Reads the arguments of API functions: says which one is wrong and what belongs there.

use mlua::{Function, LuaString, Table, Value};

use super::{Invocation, Problem};
use crate::lua::failure::lua_type;

/// The longest delay, ten years in milliseconds: beyond it is no plan but a slip.
const MAX_DELAY_MS: f64 = 10.0 * 365.0 * 86_400_000.0;
/// Bytes of a text that is taken over from Lua before its own limit is looked at.
const MAX_TEXT: usize = 1024 * 1024;

impl Invocation<'_> {
    /// An argument, counted from 0.
    pub(super) fn value(&self, index: usize) -> &Value {
        self.arguments.get(index).unwrap_or(&Value::Nil)
    }

    /// A mistake of the caller's, with the function's name before it.
    pub(super) fn mistake(&self, text: &str) -> Problem {
        Problem::mistake(format!("{} {text}", self.name))
    }

    fn wants(&self, wanted: &str, what: &str, found: &Value) -> Problem {
        self.mistake(&format!("wants {wanted} as {what}, got {}", lua_type(found)))
    }

    /// A string of valid UTF-8.
    pub(super) fn text(&self, index: usize, what: &str) -> Result<String, Problem> {
        self.text_of(self.value(index), what)
    }

    fn text_of(&self, value: &Value, what: &str) -> Result<String, Problem> {
        let Value::String(text) = value else { return Err(self.wants("a string", what, value)) };
        if text.as_bytes().len() > MAX_TEXT {
            return Err(self.mistake(&format!("wants at most 1 MiB as {what}")));
        }
        let text = text.to_str().map_err(|_| self.mistake(&format!("wants UTF-8 text as {what}")))?;
        Ok(text.to_owned())
    }

    /// A string of any bytes.
    pub(super) fn bytes(&self, index: usize, what: &str) -> Result<LuaString, Problem> {
        match self.value(index) {
            Value::String(text) => Ok(text.clone()),
            other => Err(self.wants("a string", what, other)),
        }
    }

    /// A text that people read as one line.
    fn check_line(&self, text: &str, what: &str) -> Result<(), Problem> {
        if text.chars().any(char::is_control) {
            return Err(self.mistake(&format!("wants {what} without control characters")));
        }
        Ok(())
    }

    /// A key of state or configuration that is written. Others are read as they were kept.
    pub(super) fn new_key(&self, index: usize) -> Result<String, Problem> {
        let key = self.key(index)?;
        self.check_line(&key, "a key")?;
        Ok(key)
    }

    /// A key of state or configuration.
    pub(super) fn key(&self, index: usize) -> Result<String, Problem> {
        let key = self.text(index, "the key")?;
        if (1..=256).contains(&key.len()) {
            return Ok(key);
        }
        Err(self.mistake(&format!("wants a key of 1 to 256 bytes, got {}", key.len())))
    }

    pub(super) fn function(&self, index: usize, what: &str) -> Result<Function, Problem> {
        match self.value(index) {
            Value::Function(function) => Ok(function.clone()),
            other => Err(self.wants("a function", what, other)),
        }
    }

    /// A table of options whose every key is known, or nothing.
    pub(super) fn options(
        &self,
        index: usize,
        known: &'static [&'static str],
    ) -> Result<Options<'_>, Problem> {
        let table = match self.value(index) {
            Value::Nil => None,
            Value::Table(table) => Some(table.clone()),
            other => return Err(self.wants("a table", "its options", other)),
        };
        let options = Options { invocation: self, table };
        options.check_keys(known)?;
        Ok(options)
    }

    /// A delay: seconds, or text such as `2m30s`. In milliseconds.
    pub(super) fn delay(&self, value: &Value, what: &str) -> Result<u64, Problem> {
        let millis = match value {
            #[expect(
                clippy::cast_precision_loss,
                reason = "what is too large for a float is too long anyway"
            )]
            Value::Integer(seconds) => *seconds as f64 * 1000.0,
            Value::Number(seconds) => *seconds * 1000.0,
            Value::String(text) => {
                let text = text.to_string_lossy();
                parse_delay(&text).ok_or_else(|| {
                    let shown: String = text.chars().take(40).collect();
                    self.mistake(&format!("cannot read `{shown}` as {what}: write seconds, or \"2m30s\""))
                })?
            }
            other => return Err(self.wants("seconds or text such as \"2m30s\"", what, other)),
        };
        if (0.0..=MAX_DELAY_MS).contains(&millis) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range was checked"
            )]
            return Ok(millis.round() as u64);
        }
        Err(self.mistake(&format!("wants {what} of 0 seconds to 10 years")))
    }
}

/// The options of a call.
pub(super) struct Options<'a> {
    invocation: &'a Invocation<'a>,
    table: Option<Table>,
}

impl Options<'_> {
    /// A typing mistake in an option must not go unseen.
    fn check_keys(&self, known: &[&str]) -> Result<(), Problem> {
        let Some(table) = &self.table else { return Ok(()) };
        let mut unknown = None;
        table.for_each(|key: Value, _: Value| {
            let is_known = match &key {
                Value::String(name) => known.iter().any(|known| *name.as_bytes() == *known.as_bytes()),
                _ => false,
            };
            if !is_known {
                unknown = Some(key);
            }
            Ok(())
        })?;
        let Some(key) = unknown else { return Ok(()) };
        let shown = match &key {
            Value::String(name) => format!("`{}`", crate::lua::text::clean(&name.as_bytes(), 40)),
            other => format!("with a {} as its name", lua_type(other)),
        };
        Err(self.invocation.mistake(&format!("has no option {shown}, only {}", known.join(", "))))
    }

    /// The raw value of an option.
    pub(super) fn get(&self, name: &str) -> Result<Value, Problem> {
        self.table.as_ref().map_or(Ok(Value::Nil), |table| Ok(table.raw_get(name)?))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.get(name)? {
            Value::Nil => Ok(None),
            value => self.invocation.text_of(&value, &format!("the option `{name}`")).map(Some),
        }
    }

    /// A short text in one line.
    pub(super) fn name(&self, name: &str, most: usize) -> Result<Option<String>, Problem> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if !(1..=most).contains(&text.len()) {
            return Err(self.invocation.mistake(&format!("wants 1 to {most} bytes as the option `{name}`")));
        }
        self.invocation.check_line(&text, &format!("the option `{name}`"))?;
        Ok(Some(text))
    }

    /// A switch, with what holds where it is not given.
    pub(super) fn switch(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.get(name)? {
            Value::Nil => Ok(default),
            Value::Boolean(value) => Ok(value),
            other => Err(self.wants("true or false", name, &other)),
        }
    }

    pub(super) fn integer(&self, name: &str, default: i64) -> Result<i64, Problem> {
        match self.get(name)? {
            Value::Nil => Ok(default),
            Value::Integer(value) => Ok(value),
            other => Err(self.wants("a whole number", name, &other)),
        }
    }

    pub(super) fn table(&self, name: &str) -> Result<Option<Table>, Problem> {
        match self.get(name)? {
            Value::Nil => Ok(None),
            Value::Table(table) => Ok(Some(table)),
            other => Err(self.wants("a table", name, &other)),
        }
    }

    /// MQTT's quality of service; 1 where it is not given, so that nothing is lost unasked.
    pub(super) fn qos(&self) -> Result<u8, Problem> {
        match self.integer("qos", 1)? {
            0 => Ok(0),
            1 => Ok(1),
            _ => Err(self.invocation.mistake("wants 0 or 1 as the option `qos`")),
        }
    }

    fn wants(&self, wanted: &str, name: &str, found: &Value) -> Problem {
        self.invocation.wants(wanted, &format!("the option `{name}`"), found)
    }
}

/// `2m30s`, `500ms`, `1.5h`; a bare number is seconds. In milliseconds.
fn parse_delay(text: &str) -> Option<f64> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Some(seconds * 1000.0);
    }
    let mut millis = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return None,
        };
        millis += number.parse::<f64>().ok()? * factor;
        rest = tail.trim_start();
    }
    (!text.is_empty()).then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::parse_delay;

    #[test]
    fn delays_are_read_as_people_write_them() {
        let check = |text: &str, expect: Option<f64>| assert_eq!(parse_delay(text), expect, "{text}");
        check("5", Some(5_000.0));
        check("2m30s", Some(150_000.0));
        check("1h 30m", Some(5_400_000.0));
        check("500ms", Some(500.0));
        check("1.5d", Some(129_600_000.0));
        for bad in ["", "m", "5x", "5m3", "soon", "-5s", "1..2s"] {
            check(bad, None);
        }
    }
}
