//! Every row of the topic table: what goes in on it, what comes out.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Client, Publish, assert_json, on_each_broker};

on_each_broker!(
    chat_request_as_json,
    chat_request_as_text,
    chat_prompt_is_the_filtered_message,
    chat_request_assistant_is_filtered_and_answered,
    chat_response_went_through_the_filters,
    chat_notification_is_what_plugins_say,
    command_request_as_json,
    command_request_as_text,
    command_request_on_a_named_topic,
    automation_request,
    event_is_what_plugins_emit,
    event_request_says_how_many_heard_it,
    bridge_operations,
    bridge_operation_plugin_reload,
    bridge_state_and_info_are_retained,
    bridge_plugins_and_plugin_are_retained,
    bridge_health_is_retained,
    bridge_event_tells_what_happens_to_plugins,
);

/// Gives back what its hooks get, so that a test sees it.
const MIRROR: (&str, &str) = (
    "mirror",
    r#"
function on_chat(message) return { response = "heard: " .. message.content, message = message } end
function on_command(cmd) return { response = "ran " .. cmd.name, cmd = cmd } end
function on_automation(automation) return { automation = automation } end
"#,
);

const FILTER: (&str, &str) = (
    "filter",
    r#"
function filter_message(message) message.content = string.lower(message.content) return message end
function filter_response(response) response.content = response.content .. "!" return response end
"#,
);

/// A client that connects when all these topics have been published: it gets what the broker has kept.
fn late_client(jarvis: &Bridge, topics: &[&str]) -> Client {
    topics.iter().for_each(|topic| drop(jarvis.next(topic)));
    Client::v5(jarvis.port)
}

fn chat_request_as_json(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    let message = json!({
        "id": "m1", "role": "user", "content": "Hello", "timestamp": "2026-11-20T10:15:30Z",
        "conversation_id": "c1", "user": "ada", "site": "kitchen", "mood": "good",
    });
    jarvis.publish("jarvis/chat/request", message.clone());
    let answer = jarvis.next("jarvis/chat/response");
    assert_eq!((answer.qos, answer.retain), (1, false));
    assert_json(
        &answer.json(),
        &json!({
            "id": "m1", "status": "ok", "hook": "on_chat", "response": "heard: Hello",
            "conversation_id": "c1", "user": "ada", "site": "kitchen",
            "data": { "message": message }, "error": null, "code": null,
            "results": [{ "plugin": "mirror", "status": "ok", "data": { "message": message } }],
        }),
    );
}

fn chat_request_as_text(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    jarvis.publish("jarvis/chat/request", "Hello");
    let expected = json!({
        "id": "*", "status": "ok", "response": "heard: Hello",
        "data": { "message": { "id": "*", "role": "user", "content": "Hello", "timestamp": "*" } },
    });
    let answer = jarvis.next("jarvis/chat/response").json();
    assert_json(&answer, &expected);
    assert_eq!(answer["id"], answer["data"]["message"]["id"]);
}

fn chat_prompt_is_the_filtered_message(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR, FILTER]);
    jarvis.publish("jarvis/chat/request", json!({ "id": 7, "content": "HELLO", "site": "hall" }));
    let prompt = jarvis.next("jarvis/chat/prompt");
    assert_eq!((prompt.qos, prompt.retain), (1, false));
    let expected = json!({ "id": 7, "role": "user", "content": "hello", "site": "hall", "timestamp": "*" });
    assert_json(&prompt.json(), &expected);
    let answer = jarvis.next("jarvis/chat/response").json();
    assert_json(&answer, &json!({ "data": { "message": { "content": "hello" } } }));
}

fn chat_request_assistant_is_filtered_and_answered(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR, FILTER]);
    let check = |topic: &str, message: Value| {
        jarvis.publish(topic, message);
        let expected = json!({
            "status": "ok", "hook": "on_chat", "response": "It is 5!", "conversation_id": "c",
            "results": [{
                "plugin": "mirror",
                "data": { "message": { "role": "assistant", "content": "It is 5!", "in_reply_to": "gone" } },
            }],
        });
        assert_json(&jarvis.next("jarvis/chat/response").json(), &expected);
    };
    let said = json!({ "in_reply_to": "gone", "content": "It is 5", "conversation_id": "c" });
    check("jarvis/chat/request/assistant", said.clone());
    let mut with_role = said;
    with_role["role"] = json!("assistant");
    check("jarvis/chat/request", with_role);
    assert!(jarvis.waiting("jarvis/chat/prompt").is_empty(), "what the assistant said is no prompt");
}

fn chat_response_went_through_the_filters(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR, FILTER]);
    jarvis.publish("jarvis/chat/request", "HELLO");
    let expected = json!({ "response": "heard: hello!", "data": { "response": "heard: hello" } });
    assert_json(&jarvis.next("jarvis/chat/response").json(), &expected);
}

fn chat_notification_is_what_plugins_say(broker: &Broker) {
    let speaker = (
        "speaker",
        r#"
function on_command(cmd)
    jarvis.say("Dinner is ready", { conversation_id = "c1", user = "ada", site = "kitchen" })
    return { ok = true }
end
"#,
    );
    let jarvis = Bridge::start(broker, &[speaker, FILTER]);
    jarvis.publish("jarvis/command/request", "announce");
    let notification = jarvis.next("jarvis/chat/notification");
    assert_eq!((notification.qos, notification.retain), (1, false));
    assert_json(
        &notification.json(),
        &json!({
            "id": "*", "role": "assistant", "content": "Dinner is ready!", "plugin": "speaker",
            "conversation_id": "c1", "user": "ada", "site": "kitchen", "timestamp": "*",
        }),
    );
}

fn command_request_as_json(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    jarvis.publish("jarvis/command/request", json!({ "id": 5, "name": "light", "args": { "on": true } }));
    let answer = jarvis.next("jarvis/command/response");
    assert_eq!((answer.qos, answer.retain), (1, false));
    assert_json(
        &answer.json(),
        &json!({
            "id": 5, "status": "ok", "hook": "on_command", "name": "light", "response": "ran light",
            "data": { "response": "ran light", "cmd": { "id": 5, "name": "light", "args": { "on": true } } },
            "results": [{ "plugin": "mirror", "status": "ok" }],
        }),
    );
}

fn command_request_as_text(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    let cases = [
        ("help", "help", json!({})),
        ("/help", "help", json!({})),
        ("help\n", "help", json!({})),
        ("/weather in Lyon", "weather", json!({ "text": "in Lyon", "words": ["in", "Lyon"] })),
        ("weather  in  Lyon", "weather", json!({ "text": "in  Lyon", "words": ["in", "Lyon"] })),
        ("lights/off", "lights/off", json!({})),
        (r#""help""#, "help", json!({})),
    ];
    for (text, name, args) in cases {
        jarvis.publish("jarvis/command/request", text);
        let answer = jarvis.next("jarvis/command/response").json();
        assert_eq!(answer["name"], name, "{text}");
        assert_eq!(answer["data"]["cmd"]["args"], args, "{text}");
    }
}

fn command_request_on_a_named_topic(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    let cases = [
        ("light", r#"{"on":true}"#, json!({ "on": true })),
        ("light", "on", json!({ "text": "on" })),
        ("light", "", json!({})),
        ("light", "[1,2]", json!([1, 2])),
        ("lights/hall/set", "50", json!({ "text": "50" })),
        // The payload belongs to the command whole, and where it disagrees with the path the path wins.
        ("light", r#"{"id":7,"name":"x","user":"ada"}"#, json!({ "id": 7, "name": "x", "user": "ada" })),
        (
            "light",
            r#"{"transaction":"t","reply_to":"jarvis/command/response/light","a":1}"#,
            json!({ "a": 1 }),
        ),
    ];
    for (name, payload, args) in cases {
        jarvis.publish(&format!("jarvis/command/request/{name}"), payload);
        let answer = jarvis.next(&format!("jarvis/command/response/{name}")).json();
        assert_json(&answer, &json!({ "status": "ok", "name": name, "data": { "cmd": { "name": name } } }));
        assert_eq!(answer["data"]["cmd"]["args"], args, "{payload}");
        assert_eq!(answer["data"]["cmd"]["id"], answer["id"], "{payload}");
    }
}

fn automation_request(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    let ran = json!({ "name": "morning", "type": "schedule", "status": "finished", "took": 4 });
    let cases = [
        ("", ran.to_string(), ran.clone()),
        ("", "morning".into(), json!({ "name": "morning" })),
        ("/evening", ran.to_string(), json!({ "name": "evening", "type": "schedule", "took": 4 })),
        ("/evening", "finished".into(), json!({ "name": "evening", "status": "finished" })),
        ("/evening/hall", "".into(), json!({ "name": "evening/hall" })),
    ];
    for (path, payload, automation) in cases {
        jarvis.publish(&format!("jarvis/automation/request{path}"), payload.as_str());
        let answer = jarvis.next(&format!("jarvis/automation/response{path}"));
        assert_eq!((answer.qos, answer.retain), (1, false));
        assert_json(
            &answer.json(),
            &json!({
                "status": "ok", "hook": "on_automation", "name": automation["name"], "response": null,
                "data": { "automation": automation },
            }),
        );
    }
}

fn event_is_what_plugins_emit(broker: &Broker) {
    let emitter = (
        "emitter",
        r#"function on_command(cmd) jarvis.events.emit("door.opened", { door = "front", n = 2 }) return {} end"#,
    );
    let jarvis = Bridge::start(broker, &[emitter]);
    jarvis.publish("jarvis/command/request", "open");
    let event = jarvis.next("jarvis/event/emitter/door.opened");
    assert_eq!((event.qos, event.retain), (1, false));
    let expected = json!({
        "event_type": "door.opened", "plugin": "emitter", "data": { "door": "front", "n": 2 },
        "id": "*", "timestamp": "*",
    });
    assert_json(&event.json(), &expected);
}

fn event_request_says_how_many_heard_it(broker: &Broker) {
    let listener = r#"
jarvis.events.on("rain", function(data, event)
    jarvis.events.emit("heard", { data = data, name = event.name, from = event.plugin, id = event.id })
end)
"#;
    let jarvis = Bridge::start(broker, &[("one", listener), ("two", listener)]);
    let cases =
        [(r#"{"mm":4}"#, json!({ "mm": 4 })), ("much", json!("much")), ("[1]", json!([1])), ("", json!({}))];
    for (payload, data) in cases {
        jarvis.publish("jarvis/event/request/rain", payload);
        let answer = jarvis.next("jarvis/event/response/rain");
        assert_eq!((answer.qos, answer.retain), (1, false));
        assert_json(&answer.json(), &json!({ "status": "ok", "name": "rain", "data": { "delivered": 2 } }));
        for plugin in ["one", "two"] {
            let heard = jarvis.next(&format!("jarvis/event/{plugin}/heard")).json();
            assert_eq!(heard["data"]["data"], data, "{payload}");
            assert_json(&heard["data"], &json!({ "name": "rain", "from": null, "id": "*" }));
        }
    }
    jarvis.check("event/request/snow", "", json!({ "status": "ok", "data": { "delivered": 0 } }));
}

fn bridge_operations(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR, FILTER]);
    let plugin = json!({
        "id": "mirror", "name": "The plugin mirror", "version": "1.0.0", "enabled": true, "state": "ready",
        "hooks": ["on_automation", "on_chat", "on_command"], "last_error": null,
    });
    let cases = [
        (
            "health",
            "",
            json!({ "uptime_s": 0, "memory_bytes": "*", "mqtt": "*", "plugins": { "mirror": "*" } }),
        ),
        ("info", "", json!({ "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "base_topic": "jarvis" })),
        ("plugin/list", "", json!([{ "id": "filter" }, plugin])),
        ("plugin/info", "mirror", plugin.clone()),
        ("plugin/info", r#"{"id":"mirror"}"#, plugin.clone()),
        ("plugin/reload", "mirror", plugin),
    ];
    for (operation, payload, mut data) in cases {
        if operation == "health" {
            data.as_object_mut().unwrap().remove("uptime_s");
        }
        jarvis.publish(&format!("jarvis/bridge/request/{operation}"), payload);
        let answer = jarvis.next(&format!("jarvis/bridge/response/{operation}"));
        assert_eq!((answer.qos, answer.retain), (1, false));
        assert_json(&answer.json(), &json!({ "status": "ok", "name": operation, "id": "*", "data": data }));
    }
    let errors = [
        (
            "/dance",
            "",
            "unknown_operation",
            "there is no operation `dance`; there are health, info, plugin/info, plugin/list, plugin/reload",
        ),
        (
            "",
            "",
            "invalid_payload",
            "the operation is missing: publish to `bridge/request/<op>`; there are health, info, plugin/info, plugin/list, plugin/reload",
        ),
        (
            "/plugin/info",
            "",
            "invalid_payload",
            "`id` is missing: send the plugin's id as text, or `{\"id\": \"weather\"}`",
        ),
        (
            "/plugin/info",
            "nobody",
            "unknown_plugin",
            "there is no plugin `nobody`; there are: filter, mirror",
        ),
        (
            "/plugin/reload",
            "nobody",
            "unknown_plugin",
            "there is no plugin `nobody`; there are: filter, mirror",
        ),
    ];
    for (operation, payload, code, error) in errors {
        jarvis.publish(&format!("jarvis/bridge/request{operation}"), payload);
        let answer = jarvis.next(&format!("jarvis/bridge/response{operation}")).json();
        assert_json(&answer, &json!({ "status": "error", "code": code, "error": error, "response": null }));
    }
}

fn bridge_operation_plugin_reload(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[(
            "counter",
            "local calls = 0\nfunction on_command() calls = calls + 1 return { calls = calls } end",
        )],
    );
    let calls = || jarvis.run("count", json!({}))["calls"].clone();
    assert_eq!((calls(), calls()), (json!(1), json!(2)));
    jarvis.check(
        "bridge/request/plugin/reload",
        "counter",
        json!({ "status": "ok", "data": { "state": "ready" } }),
    );
    assert_eq!(calls(), 1, "a fresh worker knows nothing of the old one's variables");
}

fn bridge_state_and_info_are_retained(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[]);
    let late = late_client(&jarvis, &["jarvis/bridge/state", "jarvis/bridge/info"]);
    let state = late.next("jarvis/bridge/state");
    assert_eq!((state.text(), state.qos, state.retain), (r#"{"state":"online"}"#, 1, true));
    let info = late.next("jarvis/bridge/info");
    assert_eq!((info.qos, info.retain), (1, true));
    let expected = json!({
        "version": env!("CARGO_PKG_VERSION"), "protocol": 1, "base_topic": "jarvis", "instance": "~jarvis-bridge-",
        "limits": { "payload": 262_144 }, "chat": { "assistant": "none" }, "admin_over_mqtt": "full",
        "refused_subscriptions": [], "config": "*",
    });
    assert_json(&info.json(), &expected);
}

fn bridge_plugins_and_plugin_are_retained(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    let mirror = json!({
        "id": "mirror", "name": "The plugin mirror", "version": "1.0.0", "enabled": true, "state": "ready",
        "hooks": ["on_automation", "on_chat", "on_command"], "last_error": null,
    });
    let late = late_client(&jarvis, &["jarvis/bridge/plugins", "jarvis/bridge/plugin/mirror"]);
    let list = late.next("jarvis/bridge/plugins");
    assert_eq!((list.json(), list.qos, list.retain), (json!([mirror]), 1, true));
    let one = late.next("jarvis/bridge/plugin/mirror");
    assert_eq!((one.json(), one.qos, one.retain), (mirror, 1, true));

    std::fs::remove_file(jarvis.setup().plugins().join("mirror.lua")).unwrap();
    assert_eq!(late.next("jarvis/bridge/plugin/mirror").payload, b"", "emptied when it goes");
    late.expect("jarvis/bridge/plugins", json!([]));
    let later = late_client(&jarvis, &[]);
    later.next("jarvis/bridge/plugins");
    assert!(later.waiting("jarvis/bridge/plugin/mirror").is_empty());
}

fn bridge_health_is_retained(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[MIRROR]);
    let late = late_client(&jarvis, &["jarvis/bridge/health"]);
    let health = late.next("jarvis/bridge/health");
    assert_eq!((health.qos, health.retain), (1, true));
    let plugin = json!({ "calls": 0, "errors": 0, "timeouts": 0 });
    let expected = json!({
        "uptime_s": "*", "memory_bytes": "*", "requests": "*", "plugins": { "mirror": plugin }, "timestamp": "*",
        "mqtt": { "received": "*", "acknowledged": "*", "dropped": 0, "published": "*", "refused": 0 },
    });
    assert_json(&health.json(), &expected);
    jarvis.run("anything", json!({}));
    let expected = json!({
        "calls": 1, "errors": 0, "timeouts": 0, "avg_us": "*", "p99_us": "*", "memory_bytes": "*",
    });
    jarvis.check("bridge/request/health", "", json!({ "data": { "plugins": { "mirror": expected } } }));
}

fn bridge_event_tells_what_happens_to_plugins(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[]);
    let about = |kind: &str, data: Value| {
        jarvis.expect("jarvis/bridge/event", json!({ "type": kind, "data": data }));
    };
    jarvis.write_plugin("fresh", "function on_command() return {} end");
    about("plugin_loaded", json!({ "id": "fresh", "version": "1.0.0" }));
    jarvis.write_plugin("fresh", "function on_command() return { new = true } end");
    about("plugin_reloaded", json!({ "id": "fresh", "version": "1.0.0" }));
    jarvis.write_plugin("fresh", "function on_command( end");
    about("plugin_error", json!({ "id": "fresh", "error": "~fresh.lua:6:" }));
    std::fs::remove_file(jarvis.setup().plugins().join("fresh.lua")).unwrap();
    about("plugin_unloaded", json!({ "id": "fresh" }));
    // None of it is retained: a late client hears of what is, not of what was.
    let late = late_client(&jarvis, &[]);
    late.next("jarvis/bridge/plugins");
    late.send(Publish::new("test/end", ""));
    late.next("test/end");
    assert!(late.waiting("jarvis/bridge/event").is_empty());
}
