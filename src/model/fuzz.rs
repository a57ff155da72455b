//! What holds for every topic, filter, permission and envelope.

use serde_json::value::to_raw_value;

use super::{
    Envelope, ErrorCode, Filter, Permission, PluginId, PluginResult, Status, Topic,
    dice::{Dice, SHORT},
    json,
    message::Echo,
};

const LEVELS: [&str; 14] = ["a", "b", "/", "/", "/", "+", "#", "", "$", "$SYS", "\u{e9}", "\0", " ", "\n"];

/// MQTT 5 §4.7, as slowly and plainly as it can be written down.
fn matches(filter: &[&str], topic: &[&str]) -> bool {
    match (filter, topic) {
        (["#"], _) => true,
        ([], []) => true,
        (["+", filter @ ..], [_, topic @ ..]) => matches(filter, topic),
        ([level, filter @ ..], [same, topic @ ..]) => level == same && matches(filter, topic),
        _ => false,
    }
}

fn levels(text: &str) -> Vec<&str> {
    text.split('/').collect()
}

/// What a filter could match: each wildcard replaced by something.
fn instance(dice: &mut Dice<'_>, filter: &Filter) -> String {
    let mut topic = Vec::new();
    for level in levels(filter.as_str()) {
        match level {
            "+" => topic.push(dice.one_of(&["a", "b", ""])),
            "#" => topic.extend((0..dice.below(3)).map(|_| dice.one_of(&["a", "b", ""]))),
            level => topic.push(level),
        }
    }
    topic.join("/")
}

#[test]
fn fuzz_topics() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let text = dice.text(&LEVELS, 12);
        if let Ok(topic) = Topic::parse(&text) {
            assert!(!text.is_empty() && !text.starts_with('$') && !text.contains(['+', '#', '\0']));
            assert_eq!(Topic::parse(topic.as_str()).as_ref(), Ok(&topic));
            assert_eq!(topic.as_str(), text);
        }
        let (Ok(wide), Ok(narrow)) =
            (Filter::parse(&dice.text(&LEVELS, 8)), Filter::parse(&dice.text(&LEVELS, 8)))
        else {
            return;
        };
        let topics = [text, instance(dice, &wide), instance(dice, &narrow), dice.text(&LEVELS, 8)];
        for topic in &topics {
            let expect = !topic.starts_with('$') && matches(&levels(wide.as_str()), &levels(topic));
            assert_eq!(wide.matches(topic), expect, "{wide} {topic:?}");
            if wide.covers(&narrow) && narrow.matches(topic) {
                assert!(wide.matches(topic), "{wide} covers {narrow}, but {topic:?}");
            }
        }
        assert!(wide.covers(&wide));
        let wildcards = levels(wide.as_str()).iter().filter(|level| ["+", "#"].contains(level)).count();
        assert!(wide.captures(&topics[1]).is_none_or(|captures| captures.len() == wildcards));
    });
}

#[test]
fn fuzz_permissions() {
    const PIECES: [&str; 22] = [
        "http:",
        "mqtt.publish:",
        "mqtt.subscribe:",
        "example.com",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "[",
        "]",
        ":",
        "80",
        "65536",
        "0",
        "+",
        "/",
        "a/",
        "#",
        "*",
        "@",
        "%31",
        "\u{fc}",
        " ",
    ];
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let text = Dice::of(bytes).text(&PIECES, 8);
        match Permission::parse(&text) {
            Ok(permission) => {
                let printed = permission.to_string();
                assert_eq!(Permission::parse(&printed).as_ref(), Ok(&permission), "{text:?} {printed:?}");
                if let Permission::Http { host, port } = permission {
                    assert!(
                        host.is_ascii() && !host.contains(['/', '@', '%', '[', ']', ' ']),
                        "{text:?}: {host:?}"
                    );
                    assert_ne!(port, Some(0), "{text:?}");
                }
            }
            Err(error) => assert!(!error.to_string().chars().any(super::is_deceptive), "{text:?}: {error}"),
        }
    });
}

#[test]
fn fuzz_envelopes() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let (data, id, text) = (dice.json(4), dice.json(0), dice.text(&["a", "\"", "\0", "\u{e9}"], 6));
        let raw = to_raw_value(&data).unwrap();
        let result = PluginResult {
            plugin: PluginId::parse("p").unwrap(),
            status: Status::Ok,
            data: Some(raw.clone()),
            error: Some(text.clone()),
            code: Some(ErrorCode::Plugin(text.clone())),
            duration_ms: f64::from(dice.byte()),
        };
        let envelope = Envelope {
            echo: Echo { id: id.clone(), transaction: Some(data.clone()), ..Echo::default() },
            status: Status::Error,
            hook: Some("on_chat"),
            name: Some(text.clone()),
            response: dice.toss().then(|| text.clone()),
            data: Some(raw.clone()),
            error: None,
            code: Some(ErrorCode::Timeout),
            results: vec![result],
            timestamp: super::now(),
            duration_ms: 0.5,
        };
        let sent = serde_json::to_string(&envelope).unwrap();
        assert!(sent.contains(raw.get()), "{sent}");
        assert_eq!(sent.matches('\n').count(), 0);
        let read = json::parse(&sent).unwrap();
        assert_eq!(
            (&read["name"], &read["results"][0]["error"]),
            (&text.as_str().into(), &text.as_str().into())
        );
        assert_eq!(read["results"][0]["code"], text);
        assert_eq!(read["response"].is_null(), envelope.response.is_none());
        assert_eq!((&read["id"], &read["data"], &read["transaction"]), (&id, &data, &data));
    });
}
