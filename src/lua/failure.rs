//! What a hook's error object or broken limit becomes for people. Looks at raw values only: no metamethod of a
//! plugin runs here.

use mlua::{Table, Value};

use super::{
    limits::{Cause, Trip},
    text,
};
use crate::model::{ErrorCode, Failure, Limits};

/// Bytes of an error's text that are shown.
const MAX_TEXT: usize = 2048;
/// Bytes of a code that a plugin chose.
const MAX_CODE: usize = 64;
/// What Lua says when its heap is full.
pub(super) const NO_MEMORY: &str = "not enough memory";

/// Globals of plain Lua that plugins do not have, and what serves instead.
const ABSENT: &[(&str, &str)] = &[
    ("os", "use jarvis.time for clocks and dates"),
    ("io", "plugins have no files, use jarvis.state to keep values"),
    ("debug", "it could break out of the sandbox"),
    ("require", "a plugin is one file"),
    ("package", "a plugin is one file"),
    ("load", "plugins cannot compile code"),
    ("loadstring", "plugins cannot compile code"),
    ("loadfile", "plugins have no files"),
    ("dofile", "plugins have no files"),
    ("warn", "use jarvis.log.warn"),
];

/// Who failed: begins every sentence that is not the plugin's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blame<'a> {
    pub(super) plugin: &'a str,
    /// The hook or callback, as in `on_chat`.
    pub(super) what: &'a str,
}

impl Blame<'_> {
    fn failure(self, code: ErrorCode, text: &str) -> Failure {
        Failure::new(code, format!("plugin `{}`: {} {text}", self.plugin, self.what))
    }

    /// A call that passed a limit.
    pub(super) fn stopped(self, trip: Trip, limits: &Limits) -> Failure {
        let place = trip.place.as_ref().map(|place| format!(" at {place}")).unwrap_or_default();
        let (code, reason) = match trip.cause {
            Cause::Cpu => {
                let reason = format!("it used its {} ms of CPU time (limits.hook_cpu_ms)", limits.cpu_ms);
                (ErrorCode::Timeout, reason)
            }
            Cause::Wall => {
                let reason = format!("it ran for {} ms (limits.hook_wall_ms)", limits.wall_ms);
                (ErrorCode::Timeout, reason)
            }
            Cause::Total => {
                let reason = format!("with its waits it took {} ms (limits.hook_total_ms)", limits.total_ms);
                (ErrorCode::Timeout, reason)
            }
            Cause::Memory => {
                let reason = format!("it used its {} bytes of memory (limits.memory)", limits.memory);
                (ErrorCode::MemoryLimit, reason)
            }
        };
        let failure = self.failure(code, &format!("was stopped{place}: {reason}"));
        Failure { traceback: trip.traceback.text, ..failure }
    }

    /// An error object that a hook raised.
    pub(super) fn raised(self, error: &Value, limits: &Limits) -> Failure {
        match error {
            Value::String(message) if *message.as_bytes() == *NO_MEMORY.as_bytes() => {
                self.out_of_memory(limits)
            }
            Value::String(message) => {
                let mut message = text::clean(&message.as_bytes(), MAX_TEXT);
                if let Some(hint) = hint(&message) {
                    message.push_str(&hint);
                }
                self.hook_error(&message)
            }
            Value::Integer(number) => self.hook_error(&number.to_string()),
            Value::Number(number) => self.hook_error(&number.to_string()),
            Value::Table(table) => chosen(table).unwrap_or_else(|| self.hook_error(&object(error))),
            Value::Error(error) => self.vm_error(error, limits),
            other => self.hook_error(&object(other)),
        }
    }

    /// `return nil, reason`: reaches the user as it is.
    pub(super) fn returned(self, reason: &Value, limits: &Limits) -> Failure {
        match reason {
            Value::String(message) => {
                Failure::new(ErrorCode::HookError, text::clean(&message.as_bytes(), MAX_TEXT))
            }
            other => self.raised(other, limits),
        }
    }

    /// An error that mlua made: for want of memory, or of syntax.
    pub(super) fn vm_error(self, error: &mlua::Error, limits: &Limits) -> Failure {
        match root(error) {
            mlua::Error::MemoryError(_) => self.out_of_memory(limits),
            other => self.hook_error(&text::clean(words(other).as_bytes(), MAX_TEXT)),
        }
    }

    /// A source that Lua cannot compile. What is no plain error of syntax is nested too deep for Lua's compiler,
    /// which then knows no line.
    pub(super) fn unreadable_source(self, chunk: &str, error: &mlua::Error, limits: &Limits) -> Failure {
        match root(error) {
            mlua::Error::MemoryError(_) | mlua::Error::SyntaxError { .. } => self.vm_error(error, limits),
            _ => self.hook_error(&format!(
                "{chunk}: an expression or block is nested too deep, or a chain of `..` too long, for Lua (200 levels): \
                 split it"
            )),
        }
    }

    fn out_of_memory(self, limits: &Limits) -> Failure {
        let text = format!("failed: it used its {} bytes of memory (limits.memory)", limits.memory);
        self.failure(ErrorCode::MemoryLimit, &text)
    }

    fn hook_error(self, text: &str) -> Failure {
        self.failure(ErrorCode::HookError, &format!("failed: {text}"))
    }

    /// A result that is not what this hook may return.
    pub(super) fn wrong_result(self, found: &Value, wanted: &str) -> Failure {
        let text = format!("must return {wanted}; it returned a {}", lua_type(found));
        self.failure(ErrorCode::InvalidResult, &text)
    }
}

/// `error{message = …, code = …}`: the plugin's own words, without a line.
fn chosen(table: &Table) -> Option<Failure> {
    let Ok(Value::String(message)) = table.raw_get("message") else { return None };
    let code = match table.raw_get("code") {
        Ok(Value::String(code)) => ErrorCode::Plugin(text::clean(&code.as_bytes(), MAX_CODE)),
        _ => ErrorCode::HookError,
    };
    Some(Failure::new(code, text::clean(&message.as_bytes(), MAX_TEXT)))
}

/// The error behind what mlua adds to one on its way: a traceback of its own, which shows frames of ours.
pub(super) fn root(error: &mlua::Error) -> &mlua::Error {
    match error {
        mlua::Error::CallbackError { cause, .. } | mlua::Error::WithContext { cause, .. } => root(cause),
        other => other,
    }
}

/// What an error of mlua's says of itself: for one that Lua raised inside a function of ours, mlua has put its own
/// traceback behind the text.
pub(super) fn words(error: &mlua::Error) -> String {
    let mut words = match root(error) {
        mlua::Error::RuntimeError(message) | mlua::Error::SyntaxError { message, .. } => message.clone(),
        other => other.to_string(),
    };
    words.truncate(words.find("\nstack traceback:").unwrap_or(words.len()));
    words
}

fn object(error: &Value) -> String {
    format!("error object is a {} value", lua_type(error))
}

/// The type as Lua's `type` calls it.
pub(super) fn lua_type(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number",
        Value::LightUserData(pointer) if pointer.0.is_null() => "null",
        other => other.type_name(),
    }
}

/// Lua names the global that is nil; authors should read why it is.
fn hint(message: &str) -> Option<String> {
    ABSENT
        .iter()
        .find(|(name, _)| message.contains(&format!("(global '{name}')")))
        .map(|(name, instead)| format!("; `{name}` does not exist in plugins: {instead}"))
}
