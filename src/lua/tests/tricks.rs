//! Tricks that try to outlive their limits, each from where plugin code can run. All are stopped inside the VM; what
//! cannot be is in `unstoppable.json`, for the suite that has a supervisor.

use std::time::{Duration, Instant};

use super::{Bench, load, outcome, raw, with_stack};
use crate::model::{
    Failure, Limits,
    frame::{Effect, Input, Load, Outcome, Target},
    message::{EventInfo, MqttMessage, Payload, Properties},
};

/// Far above what any of them takes beside other work; an endless one passes it.
const BOUND: Duration = Duration::from_secs(20);

/// Its name, which ends in `@` where the line can be known, and its source.
type Trick = (String, String);

/// `tricks.json`.
#[derive(serde::Deserialize)]
struct Tricks {
    /// Bodies of `on_command`.
    bodies: Vec<Trick>,
    /// Whole sources, whose `on_command` meets what was made before it was called.
    sources: Vec<Trick>,
}

fn tricks() -> Tricks {
    serde_json::from_str(include_str!("tricks.json")).unwrap()
}

/// What runs before each, on line 1.
const PROLOGUE: &str = "local function spin() while true do end end \
    local function smart(m) return setmetatable({}, m) end \
    local wrap, create, resume = coroutine.wrap, coroutine.create, coroutine.resume \
    function on_chat() return {ok = true} end";

/// The rest of what plugin code can be called by; `LOOP` is where it loops.
const PLACES: &[(&str, &str)] = &[
    ("hook", "function on_startup() LOOP end"),
    ("hook", "function on_shutdown() pcall(function() LOOP end) LOOP end"),
    ("hook", "function filter_message(m) LOOP end"),
    ("hook", "function health() LOOP end"),
    ("hook", "on_automation = function(a) LOOP end"),
    ("event", "jarvis.events.on('e', function() LOOP end)"),
    ("message", "jarvis.mqtt.subscribe('sensors/a', function(m) LOOP end)"),
    ("timer", "jarvis.timer.after(1, function() LOOP end)"),
    ("timer", "jarvis.timer.every(1, wrap(function() LOOP end))"),
];

/// Loads a plugin with 40 ms of CPU time for each call, which may have 2 MiB where it shall run out of it.
fn start(source: &str) -> Bench {
    let plugin = load(source);
    let limits = Limits { cpu_ms: 40, ..plugin.limits.clone() };
    Bench::start(Load { limits, ..plugin })
}

fn check_stopped(name: &str, failure: &Failure) {
    let code = failure.code.to_string();
    assert!(["timeout", "memory_limit"].contains(&code.as_str()), "{name}: {code}: {failure}");
    if name.ends_with('@') {
        assert!(failure.message.contains(" was stopped at weather.lua:"), "{name}: {failure}");
        assert!(failure.traceback.contains("weather.lua:"), "{name}: {failure}\n{}", failure.traceback);
    }
}

fn check(name: &str, source: &str, act: impl Fn(&Bench) -> Outcome) {
    let begun = Instant::now();
    let bench = start(source);
    assert!(bench.loaded.result.is_ok(), "{name}: {:?}", bench.loaded.result);
    for _ in 0..2 {
        match act(&bench) {
            Outcome::Failed(failure) => check_stopped(name, &failure),
            // A second call of a coroutine that was stopped finds it dead, a used timer is gone.
            other => panic!("{name}: {other:?}"),
        }
        assert_eq!(outcome(&bench.hook("on_chat", "{}")), r#"{"ok":true}"#, "{name}");
        if source.contains("wrap") || source.contains("create") || source.contains("after(") {
            break;
        }
    }
    assert!(begun.elapsed() < BOUND, "{name}: {:?}", begun.elapsed());
}

#[test]
fn every_trick_of_a_hook_is_stopped() {
    with_stack(|| {
        let tricks = tricks().bodies;
        assert!(tricks.len() > 60);
        for (name, body) in &tricks {
            let source = format!("{PROLOGUE}\nfunction on_command() {body} end");
            check(name, &source, |bench| bench.hook("on_command", "{}").outcome);
        }
    });
}

#[test]
fn what_was_made_before_the_call_is_stopped_in_it() {
    with_stack(|| {
        for (name, source) in &tricks().sources {
            let source = format!("{PROLOGUE}\n{source}");
            check(name, &source, |bench| bench.hook("on_command", "{}").outcome);
        }
    });
}

#[test]
fn a_coroutine_of_an_earlier_call_is_stopped_in_a_later_one() {
    with_stack(|| {
        let source = format!(
            "{PROLOGUE}\nfunction on_startup() co = wrap(function() coroutine.yield() while true do end end) co() end\nfunction on_command() co() end"
        );
        check("earlier call @", &source, |bench| {
            bench.hook("on_startup", "null");
            bench.hook("on_command", "{}").outcome
        });
    });
}

#[test]
fn every_place_that_runs_plugin_code_is_limited() {
    with_stack(|| {
        for (kind, source) in PLACES {
            let whole = format!("{PROLOGUE}\n{}", source.replace("LOOP", "while true do end"));
            check(&format!("{source} @"), &whole, |bench| call_place(bench, kind, source));
        }
    });
}

/// Calls the only hook, handler or timer of a source.
fn call_place(bench: &Bench, kind: &str, source: &str) -> Outcome {
    let number = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::On { handler, .. } | Effect::Subscribe { handler, .. } => Some(*handler),
            Effect::Timer { timer, .. } => Some(*timer),
            _ => None,
        })
    };
    let number = number(bench.loaded.result.as_deref().unwrap_or_default()).unwrap_or(0);
    let (target, input) = match kind {
        "event" => {
            let event = EventInfo {
                name: "e".into(),
                plugin: None,
                id: "1".into(),
                timestamp: "2026-11-20T10:15:30Z".into(),
            };
            (Target::Handler(number), Input::Event { data: raw("1").into(), event })
        }
        "message" => {
            let message = MqttMessage {
                topic: "sensors/a".into(),
                payload: Payload::Text("1".into()),
                levels: Vec::new(),
                qos: 1,
                retained: false,
                properties: Properties::default(),
            };
            (Target::Handler(number), Input::Message(std::sync::Arc::new(message)))
        }
        "timer" => (Target::Timer(number), Input::Nothing),
        _ => {
            let known = ["on_startup", "on_shutdown", "filter_message", "health", "on_automation"];
            let name = known.into_iter().find(|name| source.contains(name)).unwrap_or("none");
            (Target::Hook(name.into()), Input::Nothing)
        }
    };
    bench.call(target, input).outcome
}

#[test]
fn the_top_level_is_limited() {
    with_stack(|| {
        for source in [
            "while true do end",
            "pcall(function() while true do end end) while true do end",
            "local co = coroutine.wrap(function() while true do end end) co()",
            "jarvis.state.update('a', function() while true do end end)",
        ] {
            let failure = start(source).loaded.result.unwrap_err();
            check_stopped("top level @", &failure);
            assert!(failure.message.contains("loading was stopped at weather.lua:1"), "{failure}");
        }
    });
}

#[test]
fn what_only_a_kill_ends_is_listed_and_loads() {
    with_stack(|| {
        let list: Vec<Trick> = serde_json::from_str(include_str!("unstoppable.json")).unwrap();
        assert!(list.len() >= 10);
        for (name, source) in list {
            let bench = Bench::start(load(&source));
            assert!(bench.loaded.result.is_ok(), "{name}: {:?}", bench.loaded.result);
            assert_eq!(bench.loaded.hooks, ["on_command"], "{name}");
        }
    });
}
