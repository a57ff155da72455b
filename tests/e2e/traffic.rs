//! What plugins publish and what they subscribe to.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Client, Publish, assert_json, on_each_broker};

on_each_broker!(
    publishes_go_out_with_permission,
    publishes_keep_what_they_say,
    plugins_never_speak_for_the_bridge,
    subscriptions_hear_what_matches,
    subscriptions_need_permission_and_never_see_requests,
    retained_values_come_once_and_can_be_skipped,
    overlapping_filters_deliver_once_per_handler,
    unsubscribed_is_silent,
    on_mqtt_hears_the_headers_filters,
    get_gives_the_last_value,
    what_a_plugin_publishes_to_a_request_topic_is_a_request,
    a_circle_of_publishes_is_cut_and_the_log_stays_readable,
    a_plugin_that_asks_itself_for_ever_is_stopped,
);

const BY_NAME: &str = "function on_command(cmd) return _G[cmd.name](cmd.args) end\n";

/// Publishes what it is told to.
const PUBLISHER: &str = r#"
-- @permissions mqtt.publish:lights/+/set, mqtt.publish:jarvis/#
function on_command(cmd)
    local a = cmd.args
    return { done = jarvis.mqtt.publish(a.topic, a.payload, a.options) }
end
"#;

fn publishes_go_out_with_permission(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("publisher", PUBLISHER)]);
    let cases = [
        (json!("ON"), "ON".as_bytes()),
        (json!(""), b""),
        (json!(5), b"5"),
        (json!(1.5), b"1.5"),
        (json!(true), b"true"),
        (json!({ "on": true }), br#"{"on":true}"#),
        (json!([1, 2]), b"[1,2]"),
    ];
    for (payload, bytes) in cases {
        jarvis.run("publish", json!({ "topic": "lights/hall/set", "payload": payload }));
        let message = jarvis.next("lights/hall/set");
        assert_eq!((message.payload.as_slice(), message.qos, message.retain), (bytes, 1, false));
    }
    for (topic, error) in [
        (
            "lights/hall",
            "plugin `publisher` may not publish to `lights/hall`: add `mqtt.publish:lights/hall` to its @permissions",
        ),
        (
            "lights/a/b/set",
            "plugin `publisher` may not publish to `lights/a/b/set`: add `mqtt.publish:lights/a/b/set` to its @permissions",
        ),
        ("lights/+/set", "`lights/+/set`"),
        ("", "topic"),
    ] {
        let expected = json!({ "status": "error", "code": "hook_error", "error": format!("~{error}") });
        jarvis.check("command/request/publish", json!({ "topic": topic, "payload": "x" }), expected);
    }
}

fn publishes_keep_what_they_say(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.publish:out/#
function quick() jarvis.mqtt.publish("out/q0", "x", { qos = 0 }) return {} end
function keep() jarvis.mqtt.publish("out/kept", "x", { retain = true }) return {} end
function bytes() jarvis.mqtt.publish("out/bytes", "\0\xff\n") return {} end
function failed() jarvis.mqtt.publish("out/failed", "x") jarvis.mqtt.publish("out/now", "x", { now = true }) error("no") end
function many(args) for i = 1, args.n do jarvis.mqtt.publish("out/many", i) end return {} end
"#;
    let jarvis = Bridge::start(broker, &[("publisher", &format!("{code}{BY_NAME}"))]);
    jarvis.run("quick", json!({}));
    assert_eq!(jarvis.next("out/q0").qos, 0);
    jarvis.run("keep", json!({}));
    jarvis.next("out/kept");
    let late = Client::v5(jarvis.port);
    assert!(late.next("out/kept").retain);
    jarvis.run("bytes", json!({}));
    assert_eq!(jarvis.next("out/bytes").payload, b"\0\xff\n");
    jarvis.check("command/request", "failed", json!({ "status": "error" }));
    jarvis.next("out/now");
    jarvis.settle();
    assert!(jarvis.waiting("out/failed").is_empty(), "only what goes out at once goes out of a failed hook");
    jarvis.run("many", json!({ "n": 64 }));
    let sent: Vec<String> = (0..64).map(|_| jarvis.next("out/many").text().to_owned()).collect();
    assert_eq!(sent, (1..=64).map(|n| n.to_string()).collect::<Vec<_>>(), "in order");
    let expected = json!({ "status": "error", "error": "~64" });
    jarvis.check("command/request/many", json!({ "n": 65 }), expected);
    jarvis.settle();
    assert!(jarvis.waiting("out/many").is_empty(), "all or none");
}

fn plugins_never_speak_for_the_bridge(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[("publisher", PUBLISHER)]);
    for (topic, filter) in [
        ("jarvis/bridge/state", "jarvis/bridge/#"),
        ("jarvis/bridge/request/plugin/reload", "jarvis/bridge/#"),
        ("jarvis/chat/response", "jarvis/+/response/#"),
        ("jarvis/command/response/x", "jarvis/+/response/#"),
    ] {
        let error = format!(
            "~plugin `publisher` may not publish to `{topic}`: only the bridge publishes to `{filter}`"
        );
        let expected = json!({ "status": "error", "code": "hook_error", "error": error });
        jarvis.check("command/request/publish", json!({ "topic": topic, "payload": "x" }), expected);
    }
    let expected = json!({ "status": "error", "error": "~$SYS/x" });
    jarvis.check("command/request/publish", json!({ "topic": "$SYS/x", "payload": "x" }), expected);
}

/// Says on `event/<plugin>/heard` what its handler got.
const HEARS: &str = r#"
local function hear(m)
    jarvis.events.emit("heard", {
        topic = m.topic, payload = m.payload, json = m.json, levels = m.levels, qos = m.qos, retained = m.retained,
    })
end
"#;

fn hearing(permissions: &str, code: &str) -> String {
    format!("-- @permissions {permissions}\n{HEARS}\n{code}")
}

fn heard(jarvis: &Client) -> Value {
    jarvis.next("jarvis/event/listener/heard").json()["data"].clone()
}

/// A subscription made while loading is in force when the bridge answers, as it subscribes in order.
fn subscriptions_hear_what_matches(broker: &Broker) {
    let code = hearing("mqtt.subscribe:home/#", "jarvis.mqtt.subscribe('home/+/sensor/#', hear)");
    let jarvis = Bridge::start(broker, &[("listener", &code)]);
    jarvis.publish("home/hall/sensor/temp/1", r#"{"t":21.5}"#);
    let expected = json!({
        "topic": "home/hall/sensor/temp/1", "payload": r#"{"t":21.5}"#, "json": { "t": 21.5 },
        "levels": ["hall", "temp/1"], "qos": 1, "retained": false,
    });
    assert_eq!(heard(&jarvis), expected);
    jarvis.publish("home/hall/other", "x");
    let mut quick = Publish::new("home/attic/sensor", "plain");
    quick.qos = 0;
    jarvis.send(quick);
    assert_json(
        &heard(&jarvis),
        &json!({ "topic": "home/attic/sensor", "payload": "plain", "json": null, "qos": 0 }),
    );
}

fn subscriptions_need_permission_and_never_see_requests(broker: &Broker) {
    let code = "-- @permissions mqtt.subscribe:home/+, mqtt.subscribe:jarvis/#
        function on_command(cmd) jarvis.mqtt.subscribe(cmd.args.filter, function(m) jarvis.events.emit('heard', { topic = m.topic }) end) return {} end";
    let jarvis = Bridge::start(broker, &[("listener", code)]);
    let cases = [
        (
            "home/#",
            "plugin `listener` may not subscribe to `home/#`: add `mqtt.subscribe:home/#` to its @permissions",
        ),
        (
            "garden/x",
            "plugin `listener` may not subscribe to `garden/x`: add `mqtt.subscribe:garden/x` to its @permissions",
        ),
        (
            "jarvis/command/request",
            "plugin `listener` may not subscribe to `jarvis/command/request`: what comes in on `jarvis/+/request/#` is for the bridge, use a hook such as on_command",
        ),
        (
            "jarvis/+/request/#",
            "plugin `listener` may not subscribe to `jarvis/+/request/#`: what comes in on `jarvis/+/request/#` is for the bridge, use a hook such as on_command",
        ),
        ("a/#/b", "`a/#/b`"),
    ];
    for (filter, error) in cases {
        let expected = json!({ "status": "error", "code": "hook_error", "error": format!("~{error}") });
        jarvis.check("command/request/subscribe", json!({ "filter": filter }), expected);
    }
    // A wider filter is allowed, and requests are not among what it brings.
    jarvis.run("subscribe", json!({ "filter": "jarvis/#" }));
    jarvis.settle();
    jarvis.publish("jarvis/chat/request", "Hello");
    jarvis.next("jarvis/chat/response");
    jarvis.publish("jarvis/own/topic", "x");
    let topics = std::iter::from_fn(|| {
        let topic = heard(&jarvis)["topic"].as_str().unwrap().to_owned();
        (topic != "jarvis/own/topic").then_some(topic)
    });
    let topics: Vec<String> = topics.collect();
    assert!(topics.contains(&"jarvis/chat/response".to_owned()), "{topics:?}");
    assert!(!topics.iter().any(|topic| topic.contains("/request")), "{topics:?}");
}

fn retained_values_come_once_and_can_be_skipped(broker: &Broker) {
    let all = hearing("mqtt.subscribe:home/#", "jarvis.mqtt.subscribe('home/+', hear)");
    let news = hearing(
        "mqtt.subscribe:home/#",
        "jarvis.mqtt.subscribe('home/+', function(m) jarvis.events.emit('news', { payload = m.payload }) end, { retained = false })",
    );
    let jarvis = Bridge::start(broker, &[]);
    let mut kept = Publish::new("home/lamp", "ON");
    kept.retain = true;
    jarvis.send(kept);
    jarvis.next("home/lamp");
    jarvis.write_plugin("listener", &all);
    assert_json(&heard(&jarvis), &json!({ "payload": "ON", "retained": true }));
    jarvis.write_plugin("newsreader", &news);
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_loaded", "data": { "id": "newsreader" } }));
    jarvis.settle();
    // What comes now is news, for a retained topic too.
    let mut kept = Publish::new("home/lamp", "OFF");
    kept.retain = true;
    jarvis.send(kept);
    assert_json(&heard(&jarvis), &json!({ "payload": "OFF", "retained": false }));
    assert_json(
        &jarvis.next("jarvis/event/newsreader/news").json(),
        &json!({ "data": { "payload": "OFF" } }),
    );
    jarvis.settle();
    assert!(
        jarvis.waiting("jarvis/event/listener/heard").is_empty(),
        "the other's subscription brings nothing again"
    );
    // Loaded again, it hears the value again.
    jarvis.write_plugin("listener", &format!("{all} -- saved again"));
    assert_json(&heard(&jarvis), &json!({ "payload": "OFF", "retained": true }));
}

fn overlapping_filters_deliver_once_per_handler(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.subscribe:home/#
local function note(name) return function(m) jarvis.events.emit("heard", { handler = name, topic = m.topic }) end end
jarvis.mqtt.subscribe("home/#", note("all"))
jarvis.mqtt.subscribe("home/+", note("one level"))
jarvis.mqtt.subscribe("home/lamp", note("exact"))
jarvis.mqtt.subscribe("home/lamp", note("exact too"))
"#;
    let jarvis = Bridge::start(broker, &[("listener", code), ("second", code)]);
    jarvis.publish("home/lamp", "ON");
    jarvis.publish("home/lamp/end", "x");
    for plugin in ["listener", "second"] {
        let mut handlers = Vec::new();
        loop {
            let data = jarvis.next(&format!("jarvis/event/{plugin}/heard")).json()["data"].clone();
            if data["topic"] == "home/lamp/end" {
                break;
            }
            handlers.push(data["handler"].as_str().unwrap().to_owned());
        }
        jarvis.settle();
        let rest = jarvis.waiting(&format!("jarvis/event/{plugin}/heard"));
        handlers.extend(
            rest.iter().map(|message| message.json()["data"]["handler"].as_str().unwrap().to_owned()),
        );
        handlers.sort();
        assert_eq!(handlers, ["all", "exact", "exact too", "one level"], "{plugin}");
    }
}

fn unsubscribed_is_silent(broker: &Broker) {
    let code = format!(
        "{}{BY_NAME}",
        hearing(
            "mqtt.subscribe:home/#",
            "local id = jarvis.mqtt.subscribe('home/lamp', hear)
        jarvis.mqtt.subscribe('home/end', hear)
        function stop() return { gone = jarvis.mqtt.unsubscribe(id) } end\n"
        )
    );
    let jarvis = Bridge::start(broker, &[("listener", &code)]);
    jarvis.publish("home/lamp", "1");
    assert_json(&heard(&jarvis), &json!({ "payload": "1" }));
    assert_eq!(jarvis.run("stop", json!({})), json!({ "gone": true }));
    jarvis.publish("home/lamp", "2");
    jarvis.publish("home/end", "3");
    assert_json(&heard(&jarvis), &json!({ "payload": "3" }));
}

fn on_mqtt_hears_the_headers_filters(broker: &Broker) {
    let code = format!("-- @subscribe home/+/state, garden/#\n{HEARS}\nfunction on_mqtt(m) hear(m) end");
    let jarvis = Bridge::start(broker, &[("listener", &code)]);
    jarvis.publish("home/lamp/state", "[1]");
    assert_json(&heard(&jarvis), &json!({ "topic": "home/lamp/state", "levels": ["lamp"], "json": [1] }));
    jarvis.publish("garden/a/b", "x");
    assert_json(&heard(&jarvis), &json!({ "topic": "garden/a/b", "levels": ["a/b"] }));
    let mut message = Publish::new("home/lamp/state", "x");
    message.properties.user_properties.push(("source".into(), "test".into()));
    message.properties.content_type = Some("text/plain".into());
    jarvis.write_plugin(
        "listener",
        "-- @subscribe home/+/state
        function on_mqtt(m) jarvis.events.emit('heard', { properties = m.properties }) end",
    );
    jarvis.expect("jarvis/bridge/event", json!({ "type": "plugin_reloaded" }));
    jarvis.send(message);
    let properties = heard(&jarvis)["properties"].to_string();
    assert!(properties.contains("text/plain") && properties.contains("source"), "{properties}");
}

fn get_gives_the_last_value(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.subscribe:home/#
jarvis.mqtt.subscribe("home/+", function() end)
function get(args) return { value = jarvis.mqtt.get(args.topic) } end
"#;
    let jarvis = Bridge::start(broker, &[("listener", &format!("{code}{BY_NAME}"))]);
    let get = |topic: &str| jarvis.run("get", json!({ "topic": topic }))["value"].clone();
    assert_eq!(get("home/lamp"), Value::Null);
    for value in ["ON", "OFF"] {
        jarvis.publish("home/lamp", value);
        jarvis.settle();
        assert_eq!(get("home/lamp"), value);
    }
    jarvis.publish("garden/lamp", "ON");
    jarvis.settle();
    assert_eq!(get("garden/lamp"), Value::Null, "nobody listens there");
}

fn what_a_plugin_publishes_to_a_request_topic_is_a_request(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.publish:jarvis/chat/request
function on_command(cmd) jarvis.mqtt.publish("jarvis/chat/request", { content = cmd.args.text }) return {} end
function on_chat(m) return { response = "You said " .. m.content } end
"#;
    let jarvis = Bridge::start(broker, &[("talker", code)]);
    jarvis.run("say", json!({ "text": "hello" }));
    let answer = jarvis.next("jarvis/chat/response").json();
    assert_json(&answer, &json!({ "status": "ok", "response": "You said hello" }));
}

/// Two for each that comes: hundreds come to the end of what is let through.
fn a_circle_of_publishes_is_cut_and_the_log_stays_readable(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.publish:round/#, mqtt.subscribe:round/#
jarvis.mqtt.subscribe("round/+", function()
    for i = 1, 2 do jarvis.mqtt.publish("round/trip", "x") end
end)
"#;
    let bystander =
        "-- @permissions mqtt.subscribe:square/#\njarvis.mqtt.subscribe('square/+', function() end)";
    let jarvis = Bridge::start(broker, &[("circle", code), ("bystander", bystander)]);
    jarvis.publish("round/trip", "x");
    let line = jarvis.log.expect("a message is dropped: plugins publish in a circle");
    assert!(line.contains("round/trip") && line.contains("plugins=\"circle\""), "{line}");
    let line = jarvis.log.expect("messages that went in a circle were dropped");
    assert!(line.contains("more="), "{line}");
    jarvis.settle();
    let log = jarvis.log.text();
    let lines = log.lines().filter(|line| line.contains("in a circle")).count();
    assert!(lines <= 20, "{lines} lines: {log}");
}

fn a_plugin_that_asks_itself_for_ever_is_stopped(broker: &Broker) {
    let code = r#"
-- @permissions mqtt.publish:jarvis/command/request
function on_command(cmd)
    jarvis.mqtt.publish("jarvis/command/request", { id = cmd.id + 1, name = "again" })
    return {}
end
"#;
    let jarvis = Bridge::start(broker, &[("circle", code)]);
    jarvis.publish("jarvis/command/request", json!({ "id": 0, "name": "again" }));
    let expected = json!({
        "status": "error", "code": "rate_limited",
        "error": "the message has gone through plugins 8 times already: they publish in a circle",
    });
    let last = jarvis.expect("jarvis/command/response", expected);
    assert_eq!(last["id"], 9);
    jarvis.settle();
    assert_eq!(jarvis.waiting("jarvis/command/response").len(), 9);
}
