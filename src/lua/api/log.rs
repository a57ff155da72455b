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

/// Lets so many lines a second through; says how many it dropped, and which limits were met, each at most once a
/// second.
#[derive(Default)]
pub(in crate::lua) struct LogGate {
    begun: Cell<Option<Instant>>,
    passed: Cell<u32>,
    dropped: Cell<u32>,
    warned: Cell<Option<Instant>>,
    refused: Cell<Option<Instant>>,
}

const SECOND: Duration = Duration::from_secs(1);

/// Whether something happened less than a second ago.
fn is_recent(moment: &Cell<Option<Instant>>) -> bool {
    moment.get().is_some_and(|moment| moment.elapsed() < SECOND)
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
        if is_recent(&self.begun) {
            return;
        }
        self.end_call(host);
        self.begun.set(Some(Instant::now()));
        self.passed.set(0);
    }

    /// Says what was dropped at the end of a call: no other may come for long.
    pub(in crate::lua) fn end_call(&self, host: &Host) {
        if self.dropped.get() > 0 && !is_recent(&self.warned) {
            self.warn(host);
        }
    }

    /// Says which limit the plugin met: it may have caught the error.
    pub(in crate::lua) fn refused(&self, host: &Host, text: &str) {
        if is_recent(&self.refused) {
            return;
        }
        self.refused.set(Some(Instant::now()));
        let message = text::clean(format!("refused: {text}").as_bytes(), MAX_BYTES);
        host.link.log(LogLine { level: Level::Warn, message, fields: None });
    }

    fn warn(&self, host: &Host) {
        let dropped = self.dropped.take();
        self.warned.set(Some(Instant::now()));
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
