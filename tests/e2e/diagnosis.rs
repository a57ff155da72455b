//! What is told of a plugin to who looks after it: where its last error came from, and how it says it is.

use serde_json::{Value, json};

use crate::harness::{Broker, Setup, assert_json, on_each_broker};

on_each_broker!(the_last_error_says_where_and_no_envelope_does, a_plugin_says_how_it_is);

fn the_last_error_says_where_and_no_envelope_does(broker: &Broker) {
    let code = r#"
-- @commands deep, loop
local function inner() error("no milk") end
local function outer() inner() end
function on_command(cmd) if cmd.name == "loop" then while true do end end outer() end
"#;
    let jarvis = Setup::new(broker).plugin("deep", code).set("LIMITS__HOOK_CPU_MS", "100").start();
    for (name, error) in [("deep", "no milk"), ("loop", "was stopped at deep.lua:9")] {
        let envelope = jarvis.ask(&format!("command/request/{name}"), "");
        let told = envelope["error"].as_str().unwrap();
        assert!(told.contains(error) && told.lines().count() == 1, "{told}");
        let details = jarvis.ask("bridge/request/plugin/info", "deep");
        let last = details["data"]["last_error"].as_str().unwrap().to_owned();
        let (first, trace) = last.split_once('\n').unwrap();
        assert_eq!(first, told);
        assert!(trace.contains("deep.lua:9: in function"), "{last}");
        let directory = jarvis.setup().path().to_str().unwrap();
        assert!(!last.contains(directory), "{last}");
        assert_eq!(envelope["results"][0]["error"], told);
    }
    jarvis.log.expect("traceback=");
    jarvis.check("bridge/request/plugin/reload", "deep", json!({ "data": { "last_error": null } }));
}

fn a_plugin_says_how_it_is(broker: &Broker) {
    let patient = r#"
-- @commands catch
local cold = false
function on_command(cmd) cold = true return {} end
function health() if cold then return false, "I have a cold" end return true end
"#;
    let jarvis = Setup::new(broker)
        .plugin("patient", patient)
        .plugin("silent", "function on_command() return nil end")
        .set("BRIDGE__HEALTH_INTERVAL", "1")
        .start();
    let says = |expected: Value| {
        jarvis.expect("jarvis/bridge/health", json!({ "plugins": { "patient": expected } }));
    };
    says(json!({ "healthy": true, "reason": null, "errors": 0 }));
    jarvis.run("catch", json!({}));
    // What it says is neither an error nor a reason to leave it alone.
    says(json!({ "healthy": false, "reason": "I have a cold", "errors": 0, "breaker": "closed" }));
    let health = jarvis.ask("bridge/request/health", "");
    assert_eq!(
        health["data"]["plugins"]["silent"]["healthy"],
        Value::Null,
        "one without `health()` says nothing"
    );
    let list = jarvis.ask("bridge/request/plugin/info", "patient");
    assert_json(&list["data"], &json!({ "state": "ready", "last_error": null }));
}
