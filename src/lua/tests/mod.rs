//! Drives the VM as the bridge does, with a bridge end that answers from a list.

mod api;
mod bombs;
mod conversion;
mod floods;
mod fuzz;
mod limits;
mod reach;
mod sandbox;
mod speed;
mod traceback;
mod transactions;
mod tricks;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use serde_json::value::RawValue;

use super::{Link, Vm};
use crate::model::{
    Limits, Permission,
    frame::{
        About, Call, Done, Input, Load, Loaded, LogLine, Operation, Outcome, Refusal, Request, Snapshot,
        Target,
    },
};

/// A bridge that answers requests from a list and keeps what it saw.
#[derive(Default)]
pub(super) struct FakeBridge {
    pub(super) operations: RefCell<Vec<Operation>>,
    pub(super) answers: RefCell<VecDeque<Result<&'static str, Refusal>>>,
    pub(super) logs: RefCell<Vec<LogLine>>,
}

impl Link for FakeBridge {
    fn ask(&self, request: Request) -> Result<Box<RawValue>, Refusal> {
        self.operations.borrow_mut().push(request.operation);
        let answer = self.answers.borrow_mut().pop_front().unwrap_or(Ok("null"));
        answer.map(raw)
    }

    fn log(&self, line: LogLine) {
        self.logs.borrow_mut().push(line);
    }
}

pub(super) struct Bench {
    pub(super) vm: Vm,
    pub(super) bridge: Rc<FakeBridge>,
    pub(super) loaded: Loaded,
    number: Cell<u64>,
}

pub(super) fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

pub(super) fn entries(pairs: &[(&str, &str)]) -> BTreeMap<String, Box<RawValue>> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), raw(value))).collect()
}

/// What a plugin named `weather` may do in these tests.
pub(super) fn load(source: &str) -> Load {
    let permissions = ["http:api.example.com", "mqtt.publish:lights/+/set", "mqtt.subscribe:sensors/#"];
    Load {
        about: About {
            id: "weather".into(),
            name: "Weather".into(),
            version: "1.2.0".into(),
            author: "Ada".into(),
            description: "Tests".into(),
        },
        chunk: "weather.lua".into(),
        source: source.into(),
        permissions: permissions.iter().map(|text| Permission::parse(text).unwrap()).collect(),
        limits: Limits::default(),
        timezone: "Europe/Paris".into(),
        base_topic: "jarvis".into(),
        snapshot: Snapshot {
            state: entries(&[("count", "3"), ("name", "\"Ada\""), ("home", r#"{"lat":45.75,"tags":[]}"#)]),
            config: entries(&[("city", "\"Lyon\""), ("units", "\"metric\"")]),
            overrides: entries(&[("units", "\"imperial\"")]),
        },
    }
}

/// Runs a test in a thread with the stack that a worker has: Lua's C levels are large in debug builds.
pub(super) fn with_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(test).unwrap();
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Bench {
    pub(super) fn start(load: Load) -> Self {
        let bridge = Rc::new(FakeBridge::default());
        let (vm, source) = Vm::build(load, Rc::clone(&bridge) as Rc<dyn Link>).unwrap();
        let loaded = vm.load(&source);
        Self { vm, bridge, loaded, number: Cell::new(0) }
    }

    /// A plugin that must load.
    pub(super) fn new(source: &str) -> Self {
        let bench = Self::start(load(source));
        assert!(bench.loaded.result.is_ok(), "{:?}", bench.loaded.result);
        bench
    }

    /// A plugin whose `on_command` has this body.
    pub(super) fn of_body(body: &str) -> Self {
        Self::new(&format!("function on_command(cmd) {body} end"))
    }

    pub(super) fn answers(&self, answers: impl IntoIterator<Item = Result<&'static str, Refusal>>) {
        self.bridge.answers.borrow_mut().extend(answers);
    }

    pub(super) fn call(&self, target: Target, input: Input) -> Done {
        self.number.set(self.number.get() + 1);
        let done = self.vm.call(&Call { number: self.number.get(), target, input, cut: None, left: None });
        assert_eq!(done.call, self.number.get());
        done
    }

    pub(super) fn hook(&self, name: &str, input: &str) -> Done {
        self.call(Target::Hook(name.into()), Input::Value(raw(input)))
    }

    /// Calls `on_command` and gives what came of it as text.
    pub(super) fn command(&self) -> String {
        outcome(&self.hook("on_command", "{}"))
    }
}

/// An outcome as text: JSON, `nil`, `missing` or `code: message`.
pub(super) fn outcome(done: &Done) -> String {
    match &done.outcome {
        Outcome::Missing => "missing".into(),
        Outcome::Nothing => "nil".into(),
        Outcome::Value(value) => value.get().into(),
        Outcome::Failed(failure) => format!("{}: {}", failure.code, failure.message),
    }
}

/// The effects as JSON text.
pub(super) fn effects(done: &Done) -> String {
    serde_json::to_string(&done.effects).unwrap()
}

/// Runs the body of an `on_command` and compares what came of it.
pub(super) fn check(body: &str, expect: &str) {
    assert_eq!(Bench::of_body(body).command(), expect, "{body}");
}

/// Runs the body of an `on_command` that fails, and looks for a part of the message.
pub(super) fn check_fails(body: &str, expect: &str) {
    let found = Bench::of_body(body).command();
    assert!(
        found.starts_with("hook_error: ") && found.contains(expect),
        "{body}\n  gave {found}\n  want {expect}"
    );
}

/// Runs the body of an `on_command` and compares its effects.
pub(super) fn check_effects(body: &str, expect: &str) {
    let bench = Bench::of_body(body);
    let done = bench.hook("on_command", "{}");
    assert!(!matches!(done.outcome, Outcome::Failed(_)), "{body}\n  gave {}", outcome(&done));
    assert_eq!(effects(&done), expect, "{body}");
}
