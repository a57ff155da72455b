//! Lua values to JSON text, within bounds of bytes, depth and number of values.

use std::{ffi::c_void, fmt::Write as _, io};

use mlua::{LuaString, Table, Value};
use serde_json::value::RawValue;

use crate::{
    lua::{failure::lua_type, text},
    model::{ErrorCode, Failure, Limits},
};

/// How large a value may become.
#[derive(Debug, Clone, Copy)]
pub(in crate::lua) struct Bounds {
    /// Bytes of JSON text.
    pub(in crate::lua) bytes: usize,
    /// Nesting of tables.
    pub(in crate::lua) depth: usize,
    /// Values in all.
    pub(in crate::lua) nodes: usize,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Self { bytes: limits.result, depth: limits.depth, nodes: limits.nodes }
    }
}

/// Why a Lua value cannot be sent.
#[derive(Debug)]
pub(in crate::lua) struct Unsendable {
    code: ErrorCode,
    /// From the inside out.
    path: Vec<Step>,
    reason: String,
}

#[derive(Debug)]
enum Step {
    Key(String),
    Index(i64),
}

impl Unsendable {
    fn new(code: ErrorCode, reason: impl Into<String>) -> Box<Self> {
        Box::new(Self { code, path: Vec::new(), reason: reason.into() })
    }

    fn invalid(reason: impl Into<String>) -> Box<Self> {
        Self::new(ErrorCode::InvalidResult, reason)
    }

    fn within(mut self: Box<Self>, step: Step) -> Box<Self> {
        self.path.push(step);
        self
    }

    /// The sentence, beginning with the place or, at the top, with `what`.
    pub(in crate::lua) fn sentence(&self, what: &str) -> String {
        let mut place = String::new();
        for step in self.path.iter().rev() {
            match step {
                Step::Index(index) => _ = write!(place, "[{index}]"),
                Step::Key(key) if !is_identifier(key) => _ = write!(place, "[\"{key}\"]"),
                Step::Key(key) if place.is_empty() => place.push_str(key),
                Step::Key(key) => _ = write!(place, ".{key}"),
            }
        }
        if place.is_empty() {
            return format!("{what} {}", self.reason);
        }
        format!("{what}: `{place}` {}", self.reason)
    }

    /// The failure of the hook that returned the value.
    pub(in crate::lua) fn failure(self, what: &str) -> Failure {
        Failure::new(self.code.clone(), self.sentence(what))
    }
}

fn is_identifier(key: &str) -> bool {
    !key.starts_with(|first: char| first.is_ascii_digit())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Writes a value as JSON text. Tables with the `marker` metatable are lists.
pub(in crate::lua) fn to_json(
    value: &Value,
    bounds: Bounds,
    marker: &Table,
) -> Result<Box<RawValue>, Box<Unsendable>> {
    let mut writer = Writer {
        out: Vec::with_capacity(128),
        nodes: 0,
        open: Vec::new(),
        bounds,
        marker: marker.to_pointer(),
    };
    writer.value(value)?;
    let text = String::from_utf8(writer.out).map_err(|_| Unsendable::invalid("is not UTF-8"))?;
    RawValue::from_string(text).map_err(|error| Unsendable::invalid(error.to_string()))
}

/// How many bytes some text takes as JSON.
pub(in crate::lua) fn escaped_length(text: &str) -> usize {
    struct Counter(usize);
    impl io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Counting cannot fail.
    let _ = serde_json::to_writer(&mut counter, text);
    counter.0
}

struct Writer {
    out: Vec<u8>,
    nodes: usize,
    /// The tables that are being written, to see cycles.
    open: Vec<*const c_void>,
    bounds: Bounds,
    marker: *const c_void,
}

/// What a table has turned out to be so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Empty,
    Object,
    List(i64),
}

/// Why a walk over a table ended early.
enum Halt {
    Failed(Box<Unsendable>),
    /// Integer keys, but not in order: a list that was filled otherwise than from its front, or no list.
    Unordered,
}

impl From<Box<Unsendable>> for Halt {
    fn from(problem: Box<Unsendable>) -> Self {
        Self::Failed(problem)
    }
}

type Written = Result<(), Box<Unsendable>>;

impl Writer {
    fn value(&mut self, value: &Value) -> Written {
        self.nodes += 1;
        if self.nodes > self.bounds.nodes {
            let reason = format!("has more than {} values (limits.nodes)", self.bounds.nodes);
            return Err(Unsendable::new(ErrorCode::TooLarge, reason));
        }
        match value {
            Value::Nil => self.push(b"null"),
            Value::Boolean(true) => self.push(b"true"),
            Value::Boolean(false) => self.push(b"false"),
            Value::LightUserData(pointer) if pointer.0.is_null() => self.push(b"null"),
            Value::Integer(number) => self.json(number),
            Value::Number(number) if number.is_nan() => Err(Unsendable::invalid("is not a number (NaN)")),
            Value::Number(number) if number.is_infinite() => Err(Unsendable::invalid("is infinite")),
            Value::Number(number) => self.json(number),
            Value::String(text) => self.string(text),
            Value::Table(table) => self.table(table),
            other => {
                let kind = other.type_name();
                Err(Unsendable::invalid(format!("is a {kind}, which cannot be sent")))
            }
        }?;
        self.check_bytes(0)
    }

    fn push(&mut self, bytes: &[u8]) -> Written {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn json(&mut self, value: &impl serde::Serialize) -> Written {
        serde_json::to_writer(&mut self.out, value).map_err(|error| Unsendable::invalid(error.to_string()))
    }

    fn string(&mut self, text: &LuaString) -> Written {
        let bytes = text.as_bytes();
        self.check_bytes(bytes.len())?;
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return Err(Unsendable::invalid("is a string that is not UTF-8"));
        };
        self.json(&text)
    }

    /// Refuses what would pass the bound with `more` bytes.
    fn check_bytes(&self, more: usize) -> Written {
        if self.out.len() + more <= self.bounds.bytes {
            return Ok(());
        }
        let reason = format!("makes it larger than {} bytes (limits.result)", self.bounds.bytes);
        Err(Unsendable::new(ErrorCode::TooLarge, reason))
    }

    fn table(&mut self, table: &Table) -> Written {
        let pointer = table.to_pointer();
        if self.open.contains(&pointer) {
            return Err(Unsendable::invalid("contains itself"));
        }
        if self.open.len() == self.bounds.depth {
            let reason = format!("is nested deeper than {} (limits.depth)", self.bounds.depth);
            return Err(Unsendable::invalid(reason));
        }
        self.open.push(pointer);
        self.entries(table)?;
        self.open.pop();
        Ok(())
    }

    fn entries(&mut self, table: &Table) -> Written {
        let metatable = if table.has_metatable() { table.metatable() } else { None };
        let marked = metatable.as_ref().is_some_and(|metatable| metatable.to_pointer() == self.marker);
        if let Some(name) = metatable.filter(|_| !marked).as_ref().and_then(locked_name) {
            return Err(Unsendable::invalid(format!("is `{name}` itself, which cannot be sent")));
        }
        let (start, nodes, open) = (self.out.len(), self.nodes, self.open.len());
        let mut shape = if marked { Shape::List(0) } else { Shape::Empty };
        let walked = walk(table, |key, value| self.entry(&mut shape, key, value));
        match walked {
            Ok(()) => {}
            Err(Halt::Failed(problem)) => return Err(problem),
            Err(Halt::Unordered) => {
                self.out.truncate(start);
                self.nodes = nodes;
                self.open.truncate(open);
                return self.unordered(table);
            }
        }
        match shape {
            Shape::Empty => self.push(b"{}"),
            Shape::Object => self.push(b"}"),
            Shape::List(0) => self.push(b"[]"),
            Shape::List(_) => self.push(b"]"),
        }
    }

    fn entry(&mut self, shape: &mut Shape, key: &Value, value: &Value) -> Result<(), Halt> {
        match (key, *shape) {
            (Value::Integer(index), Shape::Empty | Shape::List(_)) => {
                let done = if let Shape::List(done) = *shape { done } else { 0 };
                if *index != done + 1 {
                    return Err(Halt::Unordered);
                }
                *shape = Shape::List(*index);
                self.element(*index, value)?;
            }
            (Value::String(key), Shape::Empty | Shape::Object) => {
                self.push(if *shape == Shape::Empty { b"{" } else { b"," })?;
                *shape = Shape::Object;
                self.field(key, value)?;
            }
            (Value::Integer(_) | Value::String(_), _) => return Err(mixed().into()),
            (other, _) => {
                let kind = lua_type(other);
                let reason = format!("has a {kind} as a key: use names, or 1, 2, 3 … for a list");
                return Err(Unsendable::invalid(reason).into());
            }
        }
        Ok(())
    }

    fn element(&mut self, index: i64, value: &Value) -> Written {
        self.push(if index == 1 { b"[" } else { b"," })?;
        self.value(value).map_err(|problem| problem.within(Step::Index(index)))
    }

    fn field(&mut self, key: &LuaString, value: &Value) -> Written {
        let step = || Step::Key(text::clean(&key.as_bytes(), 40));
        self.string(key).map_err(|problem| problem.within(step()))?;
        self.push(b":")?;
        self.value(value).map_err(|problem| problem.within(step()))
    }

    /// A table with integer keys that the walk did not meet in order.
    fn unordered(&mut self, table: &Table) -> Written {
        let mut count = 0;
        let mut highest = 0;
        walk(table, |key, _| match key {
            Value::Integer(index) if *index < 1 => Err(list_hole(*index)),
            Value::Integer(index) => {
                count += 1;
                highest = highest.max(*index);
                Ok(())
            }
            _ => Err(mixed()),
        })?;
        for index in 1..=count {
            let value: Value =
                table.raw_get(index).map_err(|error| Unsendable::invalid(error.to_string()))?;
            if value.is_nil() {
                return Err(list_hole(index).within(Step::Index(index)));
            }
            self.element(index, &value)?;
        }
        self.push(b"]")
    }
}

/// What a read-only table of ours is called: it shows another, and would be sent as an empty one. A plugin that gives its
/// own table such a field only hurts itself.
fn locked_name(metatable: &Table) -> Option<String> {
    match metatable.raw_get("__locked") {
        Ok(Value::String(name)) => Some(text::clean(&name.as_bytes(), 40)),
        _ => None,
    }
}

fn mixed() -> Box<Unsendable> {
    Unsendable::invalid("mixes numbers and names as keys: it can be a list or an object, not both")
}

fn list_hole(index: i64) -> Box<Unsendable> {
    let reason = if index < 1 {
        format!("has the key {index}: a list counts from 1, and an object's keys are strings")
    } else {
        "is missing in a list: fill it with jarvis.json.null, or use strings as keys".to_owned()
    };
    Unsendable::invalid(reason)
}

/// Calls `visit` for every entry of a table until it fails.
fn walk<E: From<Box<Unsendable>>>(
    table: &Table,
    mut visit: impl FnMut(&Value, &Value) -> Result<(), E>,
) -> Result<(), E> {
    let mut failed = None;
    let walked = table.for_each(|key: Value, value: Value| {
        visit(&key, &value).map_err(|problem| {
            failed = Some(problem);
            mlua::Error::RuntimeError(String::new())
        })
    });
    match (failed, walked) {
        (Some(problem), _) => Err(problem),
        (None, Err(error)) => Err(Unsendable::invalid(error.to_string()).into()),
        (None, Ok(())) => Ok(()),
    }
}
