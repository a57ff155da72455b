//! What the functions of the `jarvis` table share: the plugin's rights, its books and its way to the bridge.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use chrono_tz::Tz;
use mlua::{Lua, Table, Value};
use serde_json::value::RawValue;

use super::{
    Link,
    api::log::LogGate,
    books::Books,
    convert::{Bounds, Unreadable, from_json, to_json},
    limits::Limiter,
};
use crate::model::{
    Limits, Rights,
    frame::{About, Operation, Refusal, Request},
};

/// The surroundings of one plugin in its VM.
pub(super) struct Host {
    pub(super) about: About,
    pub(super) limits: Limits,
    pub(super) rights: Rights,
    pub(super) zone: Tz,
    pub(super) link: Rc<dyn Link>,
    pub(super) limiter: Rc<Limiter>,
    pub(super) books: RefCell<Books>,
    pub(super) logs: LogGate,
    /// The metatable of lists.
    pub(super) marker: Table,
    /// The running call; 0 while the source runs.
    pub(super) call: Cell<u64>,
    /// Why no event may follow from the running call.
    pub(super) cut: RefCell<Option<String>>,
    pub(super) requests: Cell<u64>,
    /// Of the running call.
    pub(super) asked: Cell<Asked>,
}

/// How often one call has asked the bridge for something.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Asked {
    all: usize,
    http: usize,
}

/// Why a function of the API did not do its work.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    /// The plugin's mistake: raises an error with this text.
    #[error("{0}")]
    Mistake(String),
    /// The plugin has had all that a limit allows: raises an error too, and the log hears of it.
    #[error("{0}")]
    Quota(String),
    /// The VM failed, for want of memory.
    #[error(transparent)]
    Vm(#[from] mlua::Error),
}

impl Problem {
    pub(super) fn mistake(text: impl Into<String>) -> Self {
        Self::Mistake(text.into())
    }

    pub(super) fn quota(text: impl Into<String>) -> Self {
        Self::Quota(text.into())
    }
}

impl Host {
    /// Begins a call.
    pub(super) fn begin(&self, call: u64) {
        self.call.set(call);
        self.asked.set(Asked::default());
    }

    /// Asks the bridge and waits: its answer, or why the world did not do it.
    pub(super) fn ask(&self, operation: Operation) -> Result<Result<Box<RawValue>, String>, Problem> {
        self.count(&operation)?;
        let number = self.requests.get() + 1;
        self.requests.set(number);
        let request = Request { call: self.call.get(), number, operation };
        match self.limiter.waiting(|| self.link.ask(request)) {
            Ok(answer) => Ok(Ok(answer)),
            Err(Refusal::Failure(text)) => Ok(Err(text)),
            Err(Refusal::Mistake(text)) => Err(Problem::Mistake(text)),
        }
    }

    fn count(&self, operation: &Operation) -> Result<(), Problem> {
        let is_http = matches!(operation, Operation::Http(_));
        let Asked { all, http } = self.asked.get();
        let Limits { requests: most, http: most_http, .. } = self.limits;
        if all >= most {
            return Err(Problem::quota(format!(
                "at most {most} requests of all kinds (http, sleep, command, mqtt.get …) in one hook call \
                 (limits.requests): go on in a timer"
            )));
        }
        if is_http && http >= most_http {
            return Err(Problem::quota(format!(
                "at most {most_http} http requests in one hook call (limits.http): ask for more at once, or go on in \
                 a timer"
            )));
        }
        self.asked.set(Asked { all: all + 1, http: http + usize::from(is_http) });
        Ok(())
    }

    /// Writes a value as JSON text within the plugin's limits; `what` it is begins the error.
    pub(super) fn write_json(&self, value: &Value, what: &str) -> Result<Box<RawValue>, Problem> {
        to_json(value, Bounds::from(&self.limits), &self.marker)
            .map_err(|problem| Problem::mistake(problem.sentence(what)))
    }

    /// Reads JSON text that is known to be JSON.
    pub(super) fn read_json(&self, lua: &Lua, text: &RawValue) -> Result<Value, Problem> {
        from_json(lua, &self.marker, text.get().as_bytes()).map_err(|problem| match problem {
            Unreadable::Syntax(error) => Problem::mistake(error.to_string()),
            Unreadable::Memory => Problem::Vm(mlua::Error::MemoryError("not enough memory".into())),
        })
    }
}
