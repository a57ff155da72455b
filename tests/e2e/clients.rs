//! Clients of every kind, brokers with accounts, more than one bridge: whoever speaks MQTT is served.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Client, Mosquitto, Publish, Setup, assert_json, on_each_broker};

on_each_broker!(
    clients_of_3_1_1_are_answered_on_every_channel,
    requests_of_every_quality_of_service_are_answered,
    large_answers_come_whole,
    administration_can_be_read_only_or_off,
    health_comes_at_its_interval,
    limits_of_the_header_hold,
    mosquitto_sub_prints_what_every_channel_answers,
);

const ALL: (&str, &str) = (
    "all",
    r#"
function on_chat(m) return { response = m.content } end
function on_command(cmd) return { response = cmd.name, text = (cmd.args.text or "x"):rep(cmd.args.times or 1) } end
function on_automation(a) return { status = a.status } end
jarvis.events.on("rain", function() end)
"#,
);

/// A request on every channel, and what its answer has at least.
fn requests() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        ("chat", "", json!({ "status": "ok", "response": "Hello" })),
        ("command", "", json!({ "status": "ok", "response": "Hello" })),
        ("command", "/light", json!({ "status": "ok", "response": "light", "data": { "text": "Hello" } })),
        ("automation", "", json!({ "status": "ok", "name": "Hello" })),
        (
            "automation",
            "/morning",
            json!({ "status": "ok", "name": "morning", "data": { "status": "Hello" } }),
        ),
        ("event", "/rain", json!({ "status": "ok", "data": { "delivered": 1 } })),
        ("bridge", "/info", json!({ "status": "ok", "data": { "protocol": 1 } })),
        ("house", "", json!({ "status": "error", "code": "unknown_channel" })),
    ]
}

/// The topic that a request of [`requests`] is answered on.
fn answered_on(channel: &str, path: &str) -> String {
    match channel {
        "house" => "jarvis/bridge/response/house".into(),
        _ => format!("jarvis/{channel}/response{path}"),
    }
}

fn clients_of_3_1_1_are_answered_on_every_channel(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ALL]);
    let client = jarvis.client_v3();
    for (channel, path, expected) in requests() {
        client.publish(&format!("jarvis/{channel}/request{path}"), "Hello");
        assert_json(&client.next(&answered_on(channel, path)).json(), &expected);
    }
    client.settle_v3();
    for (channel, path, _) in requests() {
        assert!(client.waiting(&answered_on(channel, path)).is_empty(), "{channel}{path}");
    }
}

fn requests_of_every_quality_of_service_are_answered(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ALL]);
    for (client, version) in [(&Client::v5(jarvis.port), 5), (&jarvis.client_v3(), 3)] {
        for qos in [0, 1, 2] {
            let mut publish = Publish::new("jarvis/command/request", json!({ "id": qos, "name": "x" }));
            publish.qos = qos;
            client.send(publish);
            let answer = client.expect("jarvis/command/response", json!({ "id": qos, "status": "ok" }));
            assert_eq!(answer["results"].as_array().unwrap().len(), 1, "MQTT {version}, QoS {qos}");
        }
    }
}

fn large_answers_come_whole(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ALL]);
    let client = jarvis.client_v3();
    for times in [10_000, 100_000, 260_000] {
        client.publish("jarvis/command/request", json!({ "name": "x", "args": { "times": times } }));
        let answer = client.next("jarvis/command/response").json();
        assert_eq!(answer["data"]["text"].as_str().map(str::len), Some(times), "{times}");
    }
}

fn administration_can_be_read_only_or_off(broker: &Broker) {
    let check = |setting: &str, read: Value, change: Value| {
        let setup = Setup::new(broker).plugin(ALL.0, ALL.1).set("BRIDGE__ADMIN_OVER_MQTT", setting);
        let jarvis = setup.launch(&["run"]);
        let client = jarvis.client();
        client.expect("jarvis/bridge/info", json!({ "admin_over_mqtt": setting }));
        client.answered(|| client.publish("jarvis/command/request", "ready"), "jarvis/command/response");
        assert_json(&client.ask("bridge/request/plugin/list", ""), &read);
        assert_json(&client.ask("bridge/request/plugin/reload", "all"), &change);
        assert_eq!(jarvis.end(Signal::TERM).code(), Some(0));
    };
    let refused = |operation: &str, setting: &str| {
        let error = format!("`{operation}` is not allowed here: bridge.admin_over_mqtt is \"{setting}\"");
        json!({ "status": "error", "code": "forbidden", "error": error })
    };
    check("full", json!({ "status": "ok" }), json!({ "status": "ok" }));
    check("read", json!({ "status": "ok" }), refused("plugin/reload", "read"));
    check("off", refused("plugin/list", "off"), refused("plugin/reload", "off"));
}

fn health_comes_at_its_interval(broker: &Broker) {
    let jarvis = Setup::new(broker).plugin(ALL.0, ALL.1).set("BRIDGE__HEALTH_INTERVAL", "1").start();
    jarvis.run("x", json!({}));
    let plugin = json!({ "calls": 1, "errors": 0, "timeouts": 0, "memory_bytes": "*" });
    jarvis.expect("jarvis/bridge/health", json!({ "uptime_s": 1, "plugins": { "all": plugin } }));
    jarvis.expect("jarvis/bridge/health", json!({ "uptime_s": 2 }));
}

fn limits_of_the_header_hold(broker: &Broker) {
    let small = "-- @memory 2 MiB
        function on_command() local t = {} while true do t[#t + 1] = {} end end";
    let hasty = "-- @timeout 200ms
        function on_automation() local t = jarvis.time.ms() while true do if jarvis.time.ms() < t then break end end end";
    // No header raises a limit above the operator's.
    let greedy = "-- @memory 1 GiB
        function on_chat() local t = {} while true do t[#t + 1] = string.rep('x', 1000) .. #t end end";
    let jarvis = Setup::new(broker)
        .plugin("small", small)
        .plugin("hasty", hasty)
        .plugin("greedy", greedy)
        .set("LIMITS__HOOK_CPU_MS", "60000")
        .start();
    let expected = json!({ "code": "memory_limit", "error": "~2097152 bytes of memory (limits.memory)" });
    jarvis.check("command/request", "x", expected);
    let expected = json!({ "code": "timeout", "error": "~plugin `hasty`: on_automation was stopped at hasty.lua:7: it " });
    jarvis.check("automation/request", "x", expected);
    let expected = json!({ "code": "memory_limit", "error": "~67108864 bytes of memory (limits.memory)" });
    jarvis.check("chat/request", "x", expected);
}

fn mosquitto_sub_prints_what_every_channel_answers(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ALL]);
    for version in ["mqttv311", "mqttv5"] {
        for (channel, path, expected) in requests() {
            let topic = answered_on(channel, path);
            // It says on standard output when it is subscribed: by printing what was retained.
            let listen =
                ["-V", version, "-q", "1", "-v", "-W", "20", "-t", &topic, "-t", "jarvis/bridge/state"];
            let Some(subscriber) = jarvis.start_mosquitto_client("mosquitto_sub", &listen) else { return };
            subscriber.output.expect("jarvis/bridge/state");
            let request = format!("jarvis/{channel}/request{path}");
            let publish = ["-V", version, "-q", "1", "-t", &request, "-m", "Hello"];
            let Some(publisher) = jarvis.start_mosquitto_client("mosquitto_pub", &publish) else { return };
            assert!(publisher.ended().success());
            let line = subscriber.output.expect(&format!("{topic} "));
            let (_, payload) = line.split_once(' ').unwrap();
            assert_json(&serde_json::from_str(payload).unwrap(), &expected);
        }
    }
}

#[test]
fn what_was_sent_while_the_bridge_was_away_is_answered_when_its_plugins_are_ready() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let slow_to_start = "-- @commands light
        function on_startup() jarvis.sleep(0.5) ready = true end
        function on_command(cmd) return { ready = ready, text = cmd.args.text } end";
    let jarvis = Setup::beside(&mosquitto).plugin("slow", slow_to_start).start();
    let (status, setup, client) = jarvis.end(Signal::TERM);
    assert_eq!(status.code(), Some(0));
    client.expect("jarvis/bridge/state", json!({ "state": "offline" }));
    for n in 0..20 {
        client.publish("jarvis/command/request/light", n.to_string().as_str());
    }
    let _again = setup.start();
    for n in 0..20 {
        let answer = client.next("jarvis/command/response/light").json();
        assert_json(&answer, &json!({ "status": "ok", "data": { "ready": true, "text": n.to_string() } }));
    }
}

#[test]
fn online_means_that_requests_are_heard() {
    // More than once: it would be a race.
    for _ in 0..5 {
        let Some(mosquitto) = Mosquitto::start() else { return };
        let client = Client::v5(mosquitto.port);
        let setup = Setup::beside(&mosquitto).plugin(ALL.0, ALL.1);
        let _jarvis = setup.launch(&["run"]);
        client.expect("jarvis/bridge/state", json!({ "state": "online" }));
        client.publish("jarvis/command/request", "light");
        assert_json(&client.next("jarvis/command/response").json(), &json!({ "response": "light" }));
    }
}

#[test]
fn two_bridges_share_a_broker_with_a_base_of_their_own() {
    let Some(mosquitto) = Mosquitto::start() else { return };
    let first = Setup::beside(&mosquitto).plugin(ALL.0, ALL.1).start();
    let setup = Setup::beside(&mosquitto).plugin(ALL.0, ALL.1).set("MQTT__BASE_TOPIC", "house/two/jarvis");
    let second = setup.launch(&["run"]);
    let request = || first.publish("house/two/jarvis/command/request", json!({ "id": 2, "name": "light" }));
    first.answered(request, "house/two/jarvis/command/response");
    first.expect("house/two/jarvis/bridge/info", json!({ "base_topic": "house/two/jarvis" }));
    first.expect("house/two/jarvis/bridge/plugins", json!([{ "id": "all", "state": "ready" }]));
    first.settle();
    assert!(first.waiting("jarvis/command/response").is_empty(), "the other is not asked");
    // Each keeps to itself what comes and goes.
    assert_eq!(second.end(Signal::TERM).code(), Some(0));
    first.expect("house/two/jarvis/bridge/state", json!({ "state": "offline" }));
    first.settle();
    let states = first.waiting("jarvis/bridge/state");
    assert!(states.iter().all(|state| state.text().contains("online")), "{states:?}");
}
