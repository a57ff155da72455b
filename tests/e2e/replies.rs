//! Where the answer goes.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Publish, assert_json, on_each_broker};

on_each_broker!(
    the_response_topic_of_mqtt_5_wins,
    reply_to_serves_clients_without_properties,
    topics_that_are_not_allowed_fall_back_to_the_fixed_one,
    correlation_data_goes_to_the_fixed_topic_too,
    reply_topics_can_be_set,
    mosquitto_rr_works_as_the_contract_says,
    mosquitto_pub_and_sub_work_as_the_banner_says,
);

const HELP: (&str, &str) = (
    "help",
    "-- @commands help\nfunction on_command(cmd) return { response = 'Ask me', args = cmd.args } end",
);

fn the_response_topic_of_mqtt_5_wins(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[HELP]);
    let request = json!({ "name": "help", "reply_to": "jarvis/reply/field" });
    let mut publish = Publish::new("jarvis/command/request", request);
    publish.properties.response_topic = Some("jarvis/reply/property".into());
    publish.properties.correlation_data = Some(vec![0, 255, 7].into());
    jarvis.send(publish);
    let answer = jarvis.next("jarvis/reply/property");
    assert_eq!(answer.properties.correlation_data, Some(vec![0, 255, 7].into()));
    assert_eq!(answer.properties.content_type.as_deref(), Some("application/json"));
    assert_eq!((answer.qos, answer.retain), (1, false));
    assert_json(&answer.json(), &json!({ "response": "Ask me" }));
    jarvis.settle();
    for topic in ["jarvis/reply/field", "jarvis/command/response"] {
        assert!(jarvis.waiting(topic).is_empty(), "one request, one answer");
    }
}

fn reply_to_serves_clients_without_properties(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[HELP]);
    let client = jarvis.client_v3();
    let cases = [
        ("jarvis/command/request", json!({ "name": "help", "reply_to": "jarvis/reply/me" })),
        ("jarvis/command/request/help", json!({ "a": 1, "reply_to": "jarvis/reply/me" })),
        ("jarvis/chat/request", json!({ "content": "/help", "reply_to": "jarvis/reply/me" })),
        ("jarvis/automation/request", json!({ "name": "help", "reply_to": "jarvis/reply/me" })),
        ("jarvis/event/request/rain", json!({ "reply_to": "jarvis/reply/me" })),
        ("jarvis/bridge/request/plugin/info", json!({ "id": "help", "reply_to": "jarvis/reply/me" })),
        // Any response topic of the bridge's own will do.
        ("jarvis/command/request", json!({ "name": "help", "reply_to": "jarvis/chat/response" })),
    ];
    for (topic, request) in cases {
        client.publish(topic, request.clone());
        let answer = client.next(request["reply_to"].as_str().unwrap());
        assert_json(&answer.json(), &json!({ "status": "ok" }));
    }
    client.settle_v3();
    for channel in ["command", "automation", "chat"] {
        assert!(client.waiting(&format!("jarvis/{channel}/response")).is_empty(), "{channel}");
    }
}

/// Whoever may name a topic for an answer could otherwise make the bridge publish anywhere.
const FORBIDDEN: [&str; 12] = [
    "jarvis/reply/#",
    "jarvis/reply/+/x",
    "$SYS/broker/uptime",
    "jarvis/command/request",
    "jarvis/command/request/help",
    "jarvis/reply/request/x",
    "jarvis/bridge/state",
    "jarvis/bridge/request/plugin/reload",
    "jarvis/chat/prompt",
    "jarvis/event/lights/on",
    "zigbee2mqtt/lamp/set",
    "jarvisreply/x",
];

fn topics_that_are_not_allowed_fall_back_to_the_fixed_one(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[HELP]);
    for topic in FORBIDDEN {
        jarvis.publish("jarvis/command/request", json!({ "id": topic, "name": "help", "reply_to": topic }));
        jarvis
            .expect("jarvis/command/response", json!({ "id": topic, "status": "ok", "response": "Ask me" }));
        jarvis.log.expect(&format!(
            "a request asks for its answer on a topic that mqtt.reply_topics does not allow; it goes to the fixed one topic=\"{topic}\""
        ));
    }
    jarvis.publish("jarvis/command/request", json!({ "id": 1, "name": "help", "reply_to": 5 }));
    jarvis.expect("jarvis/command/response", json!({ "id": 1, "status": "ok" }));
    // The same from the properties, which may carry no wildcards at all.
    for topic in FORBIDDEN.into_iter().filter(|topic| !topic.contains(['#', '+'])) {
        let mut publish = Publish::new("jarvis/command/request", json!({ "id": topic, "name": "help" }));
        publish.properties.response_topic = Some(topic.into());
        publish.properties.correlation_data = Some("mine".into());
        jarvis.send(publish);
        let answer = jarvis.next("jarvis/command/response");
        assert_eq!(
            (answer.json()["id"].as_str(), answer.properties.correlation_data),
            (Some(topic), Some("mine".into()))
        );
    }
    // A property that is not allowed does not stand in the way of a field that is.
    let request = json!({ "name": "help", "reply_to": "jarvis/reply/field" });
    let mut publish = Publish::new("jarvis/command/request", request);
    publish.properties.response_topic = Some("zigbee2mqtt/lamp/set".into());
    jarvis.send(publish);
    assert_json(&jarvis.next("jarvis/reply/field").json(), &json!({ "response": "Ask me" }));
    jarvis.settle();
    for topic in ["zigbee2mqtt/lamp/set", "jarvis/chat/prompt", "jarvis/event/lights/on", "jarvisreply/x"] {
        assert!(jarvis.waiting(topic).is_empty(), "{topic}");
    }
}

fn correlation_data_goes_to_the_fixed_topic_too(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[HELP]);
    let mut publish = Publish::new("jarvis/command/request/help", "");
    publish.properties.correlation_data = Some("mine".into());
    jarvis.send(publish);
    let answer = jarvis.next("jarvis/command/response/help");
    assert_eq!(answer.properties.correlation_data, Some("mine".into()));
}

fn reply_topics_can_be_set(broker: &Broker) {
    use crate::harness::Setup;
    let setup =
        Setup::new(broker).plugin(HELP.0, HELP.1).set("MQTT__REPLY_TOPICS", "jarvis/reply/#,answers/+");
    let jarvis = setup.start();
    let check = |wanted: &str, goes_to: &str| {
        jarvis.publish("jarvis/command/request", json!({ "name": "help", "reply_to": wanted }));
        assert_json(&jarvis.next(goes_to).json(), &json!({ "response": "Ask me" }));
    };
    check("answers/me", "answers/me");
    check("answers/me/too", "jarvis/command/response");
    check("jarvis/chat/response", "jarvis/command/response");
}

fn mosquitto_rr_works_as_the_contract_says(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[HELP]);
    let line = "-q 1 -t jarvis/command/request/help -n -e jarvis/reply/me";
    let arguments: Vec<&str> = line.split(' ').collect();
    let Some(mut command) = jarvis.mosquitto_client("mosquitto_rr", &arguments) else { return };
    let output = command.args(["-W", "20"]).output().unwrap();
    let answer: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_json(
        &answer,
        &json!({ "status": "ok", "name": "help", "response": "Ask me", "data": { "args": {} } }),
    );
}

fn mosquitto_pub_and_sub_work_as_the_banner_says(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[HELP]);
    let lines = jarvis.output.expect_block(&[
        "mosquitto_sub",
        "chat/request",
        "command/request",
        "automation/request",
    ]);
    assert!(lines[0].contains(&format!("mosquitto_sub -p {} -v -t 'jarvis/#'", jarvis.port)), "{lines:?}");
    for line in &lines[1..] {
        let line = line.trim();
        if jarvis.mosquitto_client("mosquitto_pub", &[]).is_none() {
            return;
        }
        let status = std::process::Command::new("sh").args(["-c", line]).status().unwrap();
        assert!(status.success(), "{line}");
    }
    for channel in ["chat", "command", "automation"] {
        assert_json(&jarvis.next(&format!("jarvis/{channel}/response")).json(), &json!({ "status": "ok" }));
    }
    for version in ["mqttv311", "mqttv5"] {
        let arguments = ["-V", version, "-v", "-C", "1", "-W", "20", "-t", "jarvis/bridge/state"];
        let Some(mut command) = jarvis.mosquitto_client("mosquitto_sub", &arguments) else { return };
        let printed = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert_eq!(printed, "jarvis/bridge/state {\"state\":\"online\"}\n", "{version}");
    }
}
