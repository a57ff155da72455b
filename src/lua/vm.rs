//! One plugin's VM: runs its source, calls its hooks, gives back what they want done. Every call is a
//! transaction, and ends within its limits or names the line where it was stopped.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use mlua::{Function, Lua, Value, chunk::ChunkMode};
use serde_json::value::RawValue;

use super::{
    Link, api,
    books::Books,
    convert::{Bounds, to_json},
    failure::Blame,
    host::Host,
    inputs,
    limits::Limiter,
    results::{self, Rule},
    sandbox::{self, Entrance},
};
use crate::model::{
    ErrorCode, Failure, Rights, Topic,
    frame::{Call, Done, HOOKS, Load, Loaded, Outcome, Snapshot, Target},
};

/// Why no VM could be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The VM failed before any plugin code ran.
    #[error("the sandbox cannot be set up: {0}")]
    Sandbox(String),
    /// The bridge sent a time zone that is none.
    #[error("`{0}` is not a time zone, write an IANA name such as `Europe/Paris`")]
    TimeZone(String),
    /// The bridge sent a base topic that is none.
    #[error(transparent)]
    BaseTopic(#[from] crate::model::topic::BadTopic),
}

/// A plugin in its sandbox.
///
/// ```no_run
/// # use jarvis_bridge::{lua::{Link, Vm}, model::frame::{Call, Load}};
/// # fn example(load: Load, link: std::rc::Rc<dyn Link>, call: Call) -> Result<(), Box<dyn std::error::Error>> {
/// let (vm, source) = Vm::build(load, link)?;
/// let loaded = vm.load(&source);
/// let done = vm.call(&call);
/// # Ok(()) }
/// ```
pub struct Vm {
    lua: Lua,
    host: Rc<Host>,
    entrance: Entrance,
    chunk: String,
    /// What was left after the last whole collection, in bytes.
    collected: Cell<usize>,
}

/// A function to call and what may come of it.
struct Callee {
    function: Function,
    rule: Rule,
    /// For errors, as in `on_chat`.
    what: String,
}

impl Vm {
    /// Builds the VM and its sandbox; gives the source back, which has not run yet.
    ///
    /// # Errors
    /// When the sandbox itself cannot be set up.
    pub fn build(load: Load, link: Rc<dyn Link>) -> Result<(Self, String), BuildError> {
        let memory = load.limits.memory;
        let sandbox = |error: mlua::Error| BuildError::Sandbox(error.to_string());
        let lua = sandbox::open().map_err(sandbox)?;
        let chunk = load.chunk.clone();
        let (host, source) = build_host(load, link, &lua)?;
        let host = Rc::new(host);
        let raw = api::build(&lua, &host).map_err(sandbox)?;
        let entrance = sandbox::close(&lua, &host.limiter, raw).map_err(sandbox)?;
        lua.gc_collect().and_then(|()| lua.set_memory_limit(memory)).map_err(sandbox)?;
        Ok((Self { lua, host, entrance, chunk, collected: Cell::new(0) }, source))
    }

    /// Runs the plugin's source.
    pub fn load(&self, source: &str) -> Loaded {
        let chunk = self.lua.load(source).set_name(format!("={}", self.chunk)).set_mode(ChunkMode::Text);
        let blame = Blame { plugin: &self.host.about.id, what: "loading" };
        let ran = match chunk.into_function() {
            Ok(function) => {
                self.transact(blame, Rule::Ignored, &function, (Value::Nil, Value::Nil)).map(drop)
            }
            Err(error) => Err(blame.unreadable_source(&self.chunk, &error, &self.host.limits)),
        };
        let mut books = self.host.books.borrow_mut();
        match ran {
            Ok(()) => {
                let effects = books.commit();
                books.keep_loaded(&effects);
                Loaded { hooks: self.hooks(), result: Ok(effects) }
            }
            Err(failure) => {
                books.roll_back();
                Loaded { hooks: Vec::new(), result: Err(failure) }
            }
        }
    }

    /// Takes state and configuration as they are now in the bridge.
    pub fn restore(&self, snapshot: Snapshot) {
        self.host.books.borrow_mut().restore(snapshot);
    }

    /// Calls a hook or callback.
    pub fn call(&self, call: &Call) -> Done {
        self.host.begin(call.number);
        self.host.cut.replace(call.cut.clone());
        {
            let mut books = self.host.books.borrow_mut();
            books.forget_loaded();
            books.begin(call.left);
        }
        let (outcome, effects) = match self.find(&call.target) {
            None => (Outcome::Missing, Vec::new()),
            Some(callee) => {
                let called = self.call_found(&callee, call);
                let mut books = self.host.books.borrow_mut();
                match called {
                    Ok(Some(value)) => (Outcome::Value(value), books.commit()),
                    Ok(None) => (Outcome::Nothing, books.commit()),
                    Err(failure) => {
                        books.roll_back();
                        if failure.code == ErrorCode::MemoryLimit {
                            // The next call shall not pay for this one. It only fails where there is no heap.
                            let _ = self.lua.gc_collect();
                        }
                        (Outcome::Failed(failure), Vec::new())
                    }
                }
            }
        };
        self.tidy();
        Done { call: call.number, outcome, effects, memory: self.lua.used_memory() }
    }

    fn call_found(&self, callee: &Callee, call: &Call) -> Result<Option<Box<RawValue>>, Failure> {
        let blame = Blame { plugin: &self.host.about.id, what: &callee.what };
        let arguments = inputs::arguments(&self.lua, &self.host, call);
        self.expend(&call.target);
        let arguments = arguments.map_err(|problem| blame.unreadable(&problem, &self.host.limits))?;
        self.transact(blame, callee.rule, &callee.function, arguments)
    }

    /// Looks a function up, in globals raw: a metatable of a plugin's could loop outside of every limit.
    fn find(&self, target: &Target) -> Option<Callee> {
        let books = self.host.books.borrow();
        match target {
            Target::Hook(name) => {
                let Ok(Value::Function(function)) = self.lua.globals().raw_get(name.as_str()) else {
                    return None;
                };
                Some(Callee { function, rule: Rule::of_hook(name), what: name.clone() })
            }
            Target::Handler(number) => books.handler(*number).map(|handler| Callee {
                function: handler.function.clone(),
                rule: Rule::Ignored,
                what: format!("the handler of `{}`", handler.name),
            }),
            Target::Timer(number) => books.timer(*number).map(|timer| Callee {
                function: timer.function.clone(),
                rule: Rule::Ignored,
                what: timer.name.as_ref().map_or("a timer".to_owned(), |name| format!("the timer `{name}`")),
            }),
        }
    }

    /// Drops what is called for the last time. No failure brings it back, or its place would stay taken for
    /// ever; and it goes before the call, so that it does not count against what the call registers instead.
    fn expend(&self, target: &Target) {
        let mut books = self.host.books.borrow_mut();
        match target {
            Target::Hook(_) => {}
            Target::Handler(number) => books.expend_handler(*number),
            Target::Timer(number) => books.expend_timer(*number),
        }
    }

    /// Collects what a call has left, where that could make the next one fail: Lua waits until the heap has doubled,
    /// which near the limit is too late, and what grows a string in one step does not collect at all.
    fn tidy(&self) {
        let (used, memory) = (self.lua.used_memory(), self.host.limits.memory);
        if used > memory / 4 && used.saturating_sub(self.collected.get()) > memory / 8 {
            // It only fails where there is no heap.
            let _ = self.lua.gc_collect();
            self.collected.set(self.lua.used_memory());
        }
    }

    /// Calls a function under the limits and reads its result. The caller commits or rolls back.
    fn transact(
        &self,
        blame: Blame<'_>,
        rule: Rule,
        function: &Function,
        arguments: (Value, Value),
    ) -> Result<Option<Box<RawValue>>, Failure> {
        let limits = &self.host.limits;
        self.host.limiter.arm();
        let returned = self.entrance.call(function, arguments);
        let trip = self.host.limiter.disarm();
        self.host.logs.end_call(&self.host);
        if let Some(trip) = trip {
            return Err(blame.stopped(trip, limits));
        }
        let failed = |failure| Failure { traceback: self.host.limiter.take_raised().text, ..failure };
        let (value, reason) = match returned {
            Ok((true, value, reason)) => (value, reason),
            Ok((false, error, _)) => return Err(failed(blame.raised(&error, limits))),
            Err(error) => return Err(failed(blame.vm_error(&error, limits))),
        };
        let Some(value) = results::check(blame, rule, value, &reason, limits)? else { return Ok(None) };
        to_json(&value, Bounds::from(limits), &self.host.marker).map(Some).map_err(|problem| {
            problem.failure(&format!("plugin `{}`: the result of {}", blame.plugin, blame.what))
        })
    }

    /// Which hooks are global functions.
    fn hooks(&self) -> Vec<String> {
        let globals = self.lua.globals();
        let is_function = |name: &&str| matches!(globals.raw_get(*name), Ok(Value::Function(_)));
        HOOKS.iter().copied().filter(is_function).map(str::to_owned).collect()
    }
}

fn build_host(load: Load, link: Rc<dyn Link>, lua: &Lua) -> Result<(Host, String), BuildError> {
    let base = Topic::parse(&load.base_topic)?;
    let zone = if load.timezone.is_empty() { "UTC" } else { &load.timezone };
    let marker = sandbox::build_marker(lua).and_then(|marker| sandbox::name_null(lua).map(|()| marker));
    let host = Host {
        rights: Rights::of(&load.about.id, load.permissions, &base)?,
        zone: zone.parse().map_err(|_| BuildError::TimeZone(zone.to_owned()))?,
        marker: marker.map_err(|error| BuildError::Sandbox(error.to_string()))?,
        limiter: Rc::new(Limiter::build(&load.limits, &load.chunk)),
        books: RefCell::new(Books::build(load.limits.clone(), load.snapshot)),
        logs: api::log::LogGate::default(),
        about: load.about,
        limits: load.limits,
        link,
        call: Cell::new(0),
        cut: RefCell::new(None),
        requests: Cell::new(0),
        asked: Cell::default(),
    };
    Ok((host, load.source))
}

impl Blame<'_> {
    fn unreadable(self, problem: &super::host::Problem, limits: &crate::model::Limits) -> Failure {
        match problem {
            super::host::Problem::Vm(error) => self.vm_error(error, limits),
            super::host::Problem::Mistake(text) | super::host::Problem::Quota(text) => {
                Failure::new(ErrorCode::InvalidPayload, format!("plugin `{}`: {text}", self.plugin))
            }
        }
    }
}
