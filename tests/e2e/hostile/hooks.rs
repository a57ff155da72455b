//! The same tricks in the other hooks: chat, filters, automations, shutdown and reload. Whoever hangs there is
//! named in the envelope, and the others' answers are in it.

use std::fs;

use serde_json::{Value, json};

use super::stage::{GOOD, Stage};
use crate::harness::{Broker, Setup, workers_of};

const HANG: &str = "('a'):rep(40):find(('a?'):rep(40) .. ('a'):rep(40))";

/// The tricks by name, and the code that each ends with.
fn tricks() -> Vec<(&'static str, String, &'static str)> {
    vec![
        ("loop", "while true do end".into(), "timeout"),
        ("caught", "while true do pcall(function() while true do end end) end".into(), "timeout"),
        ("hang", HANG.into(), "timeout"),
        ("bomb", "local t = {} while true do t[#t + 1] = {} end".into(), "memory_limit"),
        ("error", "error('no')".into(), "hook_error"),
        ("function", "return { f = print }".into(), "invalid_result"),
        ("cycle", "local t = {} t.t = t return t".into(), "invalid_result"),
        ("number", "return 42".into(), "invalid_result"),
        ("large", "return { x = ('x'):rep(1000000) }".into(), "too_large"),
    ]
}

fn stage(hook: &str) -> Stage {
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let kind = format!("function {hook}(m) return {{ response = 'kind', content = m.content }} end");
    let setup = tricks().iter().fold(setup.plugin("kind", &kind), |setup, (name, code, _)| {
        setup.plugin(&format!("bad_{name}"), &format!("function {hook}(m)\n{code}\nend"))
    });
    Stage::of(setup)
}

/// Each trick has its own failure in the results, and the kind plugin its answer.
fn all_named(envelope: &Value) {
    let results = envelope["results"].as_array().unwrap();
    let find = |id: &str| results.iter().find(|result| result["plugin"] == id);
    for (name, _, code) in tricks() {
        let id = format!("bad_{name}");
        let result = find(&id).unwrap_or_else(|| panic!("{id} is missing in {envelope:#}"));
        assert_eq!((&result["status"], &result["code"]), (&json!("error"), &json!(code)), "{result:#}");
        assert!(result["error"].as_str().unwrap().contains(&format!("`{id}`")), "{result:#}");
    }
    assert_eq!(find("kind").unwrap()["status"], "ok", "{envelope:#}");
}

#[test]
fn chat_and_automations_have_the_kind_ones_answer() {
    let mut stage = stage("on_chat");
    for _ in 0..2 {
        let envelope = stage.jarvis.ask("chat/request", "hello");
        assert_eq!(
            (&envelope["status"], &envelope["response"]),
            (&json!("ok"), &json!("kind")),
            "{envelope:#}"
        );
        all_named(&envelope);
        stage.ask_good();
    }
    stage.unharmed();
}

#[test]
fn automations_have_the_kind_ones_answer() {
    let mut stage = stage("on_automation");
    let envelope = stage.jarvis.ask("automation/request", json!({ "name": "morning" }));
    assert_eq!(envelope["status"], "ok", "{envelope:#}");
    all_named(&envelope);
    stage.unharmed();
}

/// A filter that fails, hangs or gives what is no message lets the message through as it was.
#[test]
fn filters_pass_on_what_they_cannot_change() {
    for hook in ["filter_message", "filter_response"] {
        let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
        let setup = setup.plugin("echo", "function on_chat(m) return { response = m.content } end");
        let setup =
            tricks().iter().filter(|(name, ..)| *name != "large").fold(setup, |setup, (name, code, _)| {
                setup.plugin(&format!("bad_{name}"), &format!("function {hook}(m)\n{code}\nend"))
            });
        let odd = [
            ("true", "return true"),
            ("text", "return 'x'"),
            ("empty", "return {}"),
            ("content", "return { content = 42 }"),
            ("no_content", "m.content = nil return m"),
            ("role", "m.role = 'admin' return m"),
            ("list", "return { 1, 2 }"),
            ("huge", "return { content = ('x'):rep(1000000) }"),
        ];
        let setup = odd.iter().fold(setup, |setup, (name, code)| {
            setup.plugin(&format!("odd_{name}"), &format!("function {hook}(m)\n{code}\nend"))
        });
        let mut stage = Stage::of(setup);
        let envelope = stage.jarvis.ask("chat/request", "hello");
        assert_eq!(
            (&envelope["status"], &envelope["response"]),
            (&json!("ok"), &json!("hello")),
            "{hook}: {envelope:#}"
        );
        stage.unharmed();
    }
}

/// Whoever says a response that is none gives no answer, and takes nobody else's away.
#[test]
fn responses_that_are_no_text() {
    let odd = ["42", "true", "{ 1 }", "{ a = 1 }", "jarvis.json.null", "''", "('x'):rep(200000)"];
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let setup = setup.plugin("zkind", "function on_chat(m) return { response = 'kind' } end");
    let setup = odd[..5].iter().enumerate().fold(setup, |setup, (number, value)| {
        setup.plugin(
            &format!("odd{number}"),
            &format!("function on_chat(m) return {{ response = {value} }} end"),
        )
    });
    let mut stage = Stage::of(setup);
    assert_eq!(stage.jarvis.ask("chat/request", "hello")["response"], "kind");
    stage.unharmed();
}

/// Saving a file whose new version hangs, and deleting one whose `on_shutdown` does: nobody waits for either.
#[test]
fn reloads_and_unloads_of_the_unwilling() {
    let version = |text: &str, more: &str| {
        format!(
            "-- @commands ask\nfunction on_command(cmd) if cmd.name == 'ask' then return {{ response = '{text}' }} end end\n{more}\n"
        )
    };
    let mut stage =
        Stage::of(Setup::new(&Broker::Embedded).plugin("good", GOOD).plugin("asked", &version("first", "")));
    for (name, code, _) in
        tricks().iter().filter(|(name, ..)| !["function", "cycle", "number", "large"].contains(name))
    {
        for more in [format!("do {code} end"), format!("function on_startup() {code} end")] {
            stage.jarvis.write_plugin("asked", &version(name, &more));
            let event = stage
                .jarvis
                .expect("jarvis/bridge/event", json!({ "type": "plugin_error", "data": { "id": "asked" } }));
            stage.ask_good();
            assert_eq!(stage.jarvis.ask("command/request/ask", "")["response"], "first", "{name}: {event:#}");
        }
    }
    // The one that is replaced cannot stay by not ending.
    for (name, code, _) in tricks() {
        stage.jarvis.write_plugin("asked", &version(name, &format!("function on_shutdown() {code} end")));
        stage
            .jarvis
            .expect("jarvis/bridge/event", json!({ "type": "plugin_reloaded", "data": { "id": "asked" } }));
        assert_eq!(stage.jarvis.ask("command/request/ask", "")["response"], name);
        stage.ask_good();
    }
    fs::remove_file(stage.jarvis.setup().plugins().join("asked.lua")).unwrap();
    stage
        .jarvis
        .expect("jarvis/bridge/event", json!({ "type": "plugin_unloaded", "data": { "id": "asked" } }));
    stage.unharmed();
}

/// The bridge stops in time, whoever does not want to.
#[test]
fn a_bridge_of_the_unwilling_stops() {
    let setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    let setup = tricks().iter().fold(setup, |setup, (name, code, _)| {
        setup.plugin(&format!("bad_{name}"), &format!("function on_shutdown()\n{code}\nend"))
    });
    let stage = Stage::of(setup);
    let workers = workers_of(&stage.jarvis);
    assert_eq!(workers.len(), tricks().len() + 1);
    let (status, ..) = stage.jarvis.end(rustix::process::Signal::TERM);
    assert_eq!(status.code(), Some(0));
    assert!(workers.iter().all(|id| !fs::exists(format!("/proc/{id}")).unwrap()), "a worker is left");
}

/// An embedder's power cut: whoever hangs does not outlive the bridge.
#[test]
fn no_worker_outlives_a_killed_bridge() {
    let hangs = format!("-- @commands hang\nfunction on_command() {HANG} end");
    let stage = Stage::of(Setup::new(&Broker::Embedded).plugin("good", GOOD).plugin("hangs", &hangs));
    stage.jarvis.publish("jarvis/command/request/hang", "");
    stage.jarvis.settle();
    let workers = workers_of(&stage.jarvis);
    drop(stage.jarvis.kill());
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    let left =
        |id: &u32| fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
    while workers.iter().any(left) {
        assert!(std::time::Instant::now() < deadline, "a worker is left");
        std::thread::yield_now();
    }
}
