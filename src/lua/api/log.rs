//! `jarvis.log`: lines for the log, so many a second.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use mlua::Value;
use serde_json::value::RawValue;

use super::{Answer, Invocation, Reply};
use crate::{
    lua::{
        convert::{Bounds, to_json},
        host::Host,
        text,
    },
    model::frame::{Level, LogLine},
};

/// Bytes of a line's text, and of its fields.
const MAX_BYTES: usize = 4096;

/// Lets so many lines a second through; says how many it dropped.
#[derive(Default)]
pub(in crate::lua) struct LogGate {
    begun: Cell<Option<Instant>>,
    passed: Cell<u32>,
    dropped: Cell<u32>,
    warned: Cell<bool>,
}

impl LogGate {
    fn passes(&self, host: &Host) -> bool {
        self.turn(host);
        if self.passed.get() < host.limits.logs_per_second {
            self.passed.set(self.passed.get() + 1);
            return true;
        }
        self.dropped.set(self.dropped.get().saturating_add(1));
        false
    }

    /// Begins a new second where the last one is over.
    fn turn(&self, host: &Host) {
        let now = Instant::now();
        if self.begun.get().is_some_and(|begun| now - begun < Duration::from_secs(1)) {
            return;
        }
        if self.begun.get().is_some() && self.dropped.get() > 0 {
            self.warn(host);
        }
        self.begun.set(Some(now));
        self.passed.set(0);
        self.warned.set(false);
    }

    /// Says what was dropped at the end of a call: no other may come for long.
    pub(in crate::lua) fn end_call(&self, host: &Host) {
        if self.dropped.get() > 0 && !self.warned.get() {
            self.warn(host);
        }
    }

    fn warn(&self, host: &Host) {
        let dropped = self.dropped.take();
        self.warned.set(true);
        let message = format!(
            "{dropped} log lines were dropped: at most {} a second (limits.logs_per_second)",
            host.limits.logs_per_second
        );
        host.link.log(LogLine { level: Level::Warn, message, fields: None });
    }
}

/// `level, text, fields`.
pub(super) fn write(call: &Invocation<'_>) -> Answer {
    if !call.host.logs.passes(call.host) {
        return Ok(Reply::Nothing);
    }
    let level = match call.text(0, "its level")?.as_str() {
        "debug" => Level::Debug,
        "warn" => Level::Warn,
        "error" => Level::Error,
        _ => Level::Info,
    };
    let mut message = text::clean(&call.bytes(1, "its text")?.as_bytes(), MAX_BYTES);
    let fields = match call.value(2) {
        Value::Nil => None,
        fields => match fields_json(call.host, fields) {
            Ok(fields) => Some(fields),
            // A log line is no reason to fail a hook.
            Err(why) => {
                message = text::clean(format!("{message} [{why}]").as_bytes(), MAX_BYTES);
                None
            }
        },
    };
    call.host.link.log(LogLine { level, message, fields });
    Ok(Reply::Nothing)
}

fn fields_json(host: &Host, fields: &Value) -> Result<Box<RawValue>, String> {
    let json =
        to_json(fields, bounds(host), &host.marker).map_err(|problem| problem.sentence("its fields"))?;
    if json.get().starts_with('{') { Ok(json) } else { Err("its fields must be a table with names".into()) }
}

/// What stands in the log for a table.
pub(super) fn describe(host: &Host, value: &Value) -> String {
    match to_json(value, bounds(host), &host.marker) {
        Ok(json) => json.get().to_owned(),
        Err(problem) => format!("({})", problem.sentence("a table that")),
    }
}

fn bounds(host: &Host) -> Bounds {
    Bounds { bytes: MAX_BYTES, ..Bounds::from(&host.limits) }
}
