//! Events: between plugins, out to the broker and in from it.

use serde_json::json;

use crate::harness::{Bridge, Broker, Client, assert_json, on_each_broker};

on_each_broker!(
    events_reach_other_plugins,
    event_patterns,
    handlers_run_by_priority_and_once,
    handlers_can_be_taken_away,
    an_event_from_outside_cannot_pose_as_a_plugins,
    a_failing_handler_stops_nobody,
    a_chain_of_events_is_cut,
    many_events_reach_a_slow_listener_in_order,
);

const BY_NAME: &str = "function on_command(cmd) return _G[cmd.name](cmd.args) end\n";

/// Emits what it is told to.
const EMITTER: (&str, &str) = (
    "emitter",
    "-- @commands emit\nfunction on_command(cmd) jarvis.events.emit(cmd.args.name, cmd.args.data) return {} end",
);

fn emit(jarvis: &Client, name: &str) {
    jarvis.run("emit", json!({ "name": name, "data": { "n": 1 } }));
}

fn events_reach_other_plugins(broker: &Broker) {
    let listener = r#"
jarvis.events.on("rain", function(data, event)
    jarvis.events.emit("heard", { data = data, event = event })
end)
"#;
    let jarvis = Bridge::start(broker, &[EMITTER, ("listener", listener)]);
    emit(&jarvis, "rain");
    let rain = jarvis.next("jarvis/event/emitter/rain").json();
    let heard = jarvis.next("jarvis/event/listener/heard").json();
    let expected = json!({
        "data": { "n": 1 },
        "event": { "name": "rain", "plugin": "emitter", "id": rain["id"], "timestamp": rain["timestamp"] },
    });
    assert_eq!(heard["data"], expected);
}

fn event_patterns(broker: &Broker) {
    let code = r#"
for _, pattern in ipairs({ "rain", "rain*", "*", "emitter/rain", "emitter/*", "other/rain", "snow" }) do
    jarvis.events.on(pattern, function(_, event)
        if event.name ~= "heard" then jarvis.events.emit("heard", { pattern = pattern }) end
    end)
end
"#;
    let jarvis = Bridge::start(broker, &[EMITTER, ("listener", code)]);
    let heard = |name: &str| {
        emit(&jarvis, name);
        jarvis.expect(&format!("jarvis/event/emitter/{name}"), json!({}));
        // The end is heard by the same plugin after all of that.
        jarvis.check("event/request/snow", "", json!({ "status": "ok" }));
        let mut patterns: Vec<String> = jarvis
            .waiting("jarvis/event/listener/heard")
            .iter()
            .map(|message| message.json()["data"]["pattern"].as_str().unwrap().to_owned())
            .collect();
        // That end itself was heard by these two.
        for own in ["snow", "*"] {
            let place = patterns.iter().rposition(|pattern| pattern == own).unwrap();
            patterns.remove(place);
        }
        patterns.sort();
        patterns
    };
    assert_eq!(heard("rain"), ["*", "emitter/*", "emitter/rain", "rain", "rain*"]);
    assert_eq!(heard("rainbow"), ["*", "emitter/*", "rain*"]);
    assert_eq!(heard("sun"), ["*", "emitter/*"]);
}

fn handlers_run_by_priority_and_once(broker: &Broker) {
    let code = r#"
local order = {}
local function note(name) return function() order[#order + 1] = name end end
jarvis.events.on("rain", note("second"), { priority = 5 })
jarvis.events.on("rain", note("once"), { priority = 1, once = true })
jarvis.events.on("rain", note("first"), { priority = -5 })
jarvis.events.on("rain", function() jarvis.events.emit("order", { order = order }) order = {} end, { priority = 9 })
"#;
    let jarvis = Bridge::start(broker, &[("listener", code)]);
    let order = |delivered: u64| {
        jarvis.check("event/request/rain", "", json!({ "data": { "delivered": delivered } }));
        jarvis.next("jarvis/event/listener/order").json()["data"]["order"].clone()
    };
    assert_eq!(order(4), json!(["first", "once", "second"]));
    assert_eq!(order(3), json!(["first", "second"]));
    assert_eq!(order(3), json!(["first", "second"]));
}

fn handlers_can_be_taken_away(broker: &Broker) {
    let code = r#"
local id = jarvis.events.on("rain", function() end)
function off() return { gone = jarvis.events.off(id) } end
function on() id = jarvis.events.on("rain", function() end) return {} end
function fail() jarvis.events.on("rain", function() end) error("no") end
"#;
    let jarvis = Bridge::start(broker, &[("listener", &format!("{code}{BY_NAME}"))]);
    let delivered = || jarvis.ask("event/request/rain", "")["data"]["delivered"].clone();
    assert_eq!(delivered(), 1);
    assert_eq!(jarvis.run("off", json!({})), json!({ "gone": true }));
    assert_eq!(delivered(), 0);
    assert_eq!(jarvis.run("off", json!({})), json!({ "gone": false }));
    jarvis.run("on", json!({}));
    assert_eq!(delivered(), 1);
    jarvis.check("command/request", "fail", json!({ "status": "error" }));
    assert_eq!(delivered(), 1, "what a failed hook registered is gone");
    let info = jarvis.ask("bridge/request/plugin/info", "listener");
    assert_eq!(info["data"]["events"], json!(["rain"]));
}

fn an_event_from_outside_cannot_pose_as_a_plugins(broker: &Broker) {
    let code = r#"
jarvis.events.on("emitter/alarm", function() jarvis.events.emit("believed", {}) end)
jarvis.events.on("alarm", function(_, event) jarvis.events.emit("heard", { from = event.plugin or "outside" }) end)
"#;
    let jarvis = Bridge::start(broker, &[EMITTER, ("guard", code)]);
    jarvis.check(
        "event/request/alarm",
        json!({ "plugin": "emitter" }),
        json!({ "data": { "delivered": 1 } }),
    );
    assert_json(&jarvis.next("jarvis/event/guard/heard").json(), &json!({ "data": { "from": "outside" } }));
    jarvis.check("event/request/emitter/alarm", "", json!({ "status": "error", "code": "invalid_payload" }));
    // Nor by publishing where only the bridge is expected to.
    jarvis.publish("jarvis/event/emitter/alarm", json!({ "event_type": "alarm", "plugin": "emitter" }));
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/event/guard/believed").is_empty());
    emit(&jarvis, "alarm");
    jarvis.next("jarvis/event/guard/believed");
    assert_json(&jarvis.next("jarvis/event/guard/heard").json(), &json!({ "data": { "from": "emitter" } }));
}

fn a_failing_handler_stops_nobody(broker: &Broker) {
    let code = r#"
jarvis.events.on("rain", function() jarvis.state.incr("n") jarvis.events.emit("lost", {}) error("no umbrella") end, { priority = 1 })
jarvis.events.on("rain", function() jarvis.events.emit("heard", { n = jarvis.state.get("n", 0) }) end, { priority = 2 })
"#;
    let jarvis = Bridge::start(broker, &[("listener", code)]);
    let expected = json!({ "status": "ok", "data": { "delivered": 2, "errors": ["~failed: listener.lua:6: no umbrella"] } });
    jarvis.check("event/request/rain", "", expected);
    assert_json(&jarvis.next("jarvis/event/listener/heard").json(), &json!({ "data": { "n": 0 } }));
    assert!(jarvis.waiting("jarvis/event/listener/lost").is_empty());
    jarvis.log.expect("failed: listener.lua:6: no umbrella");
}

fn a_chain_of_events_is_cut(broker: &Broker) {
    let code = r#"
jarvis.events.on("ping", function(data) jarvis.events.emit("pong", { n = data.n + 1 }) end)
jarvis.events.on("pong", function(data) jarvis.events.emit("ping", { n = data.n + 1 }) end)
"#;
    let jarvis = Bridge::start(broker, &[("player", code)]);
    jarvis.check("event/request/ping", json!({ "n": 0 }), json!({ "data": { "delivered": 1 } }));
    let members = ["player"; 9].join(" → ");
    let why = format!("a chain of events is cut: it went over 8 plugins already ({members} → …)");
    assert!(
        jarvis.log.expect(&why).contains("player.lua:6: jarvis.events.emit cannot emit `pong`"),
        "with its line"
    );
    jarvis.settle();
    let mut heights: Vec<u64> = ["ping", "pong"]
        .iter()
        .flat_map(|name| jarvis.waiting(&format!("jarvis/event/player/{name}")))
        .map(|message| message.json()["data"]["n"].as_u64().unwrap())
        .collect();
    heights.sort_unstable();
    assert_eq!(heights, (1..=8).collect::<Vec<_>>(), "every step once, and then no more");
}

fn many_events_reach_a_slow_listener_in_order(broker: &Broker) {
    let emitter = "-- @commands burst
        function on_command(cmd) for i = 1, 60 do jarvis.events.emit('tick', { n = cmd.args.from + i }) end return {} end";
    let listener = r#"
local seen, last, wrong = 0, 0, 0
jarvis.events.on("tick", function(data)
    seen = seen + 1
    if data.n ~= last + 1 then wrong = wrong + 1 end
    last = data.n
    local t = jarvis.time.ms() while jarvis.time.ms() < t + 1 do end
    if seen == 1800 then jarvis.events.emit("done", { wrong = wrong }) end
end)
"#;
    let jarvis = Bridge::start(broker, &[("emitter", emitter), ("listener", listener)]);
    for burst in 0..30 {
        jarvis.publish("jarvis/command/request/burst", json!({ "from": burst * 60 }));
    }
    let done = jarvis.next("jarvis/event/listener/done").json();
    assert_eq!(done["data"], json!({ "wrong": 0 }));
}
