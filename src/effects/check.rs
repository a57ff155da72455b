//! The bridge's own look at what a worker wants. The worker has checked the same and told the plugin; what
//! passes there and fails here comes from a worker that cannot be trusted any more.

use super::shape::check_value;
use crate::model::{
    EFFECT_OVERHEAD, Limits, MAX_EFFECTS, Rights,
    frame::{Effect, Operation, Outcome, Publish, Say},
    message::{is_event_name, is_event_pattern},
};

/// Bytes of a state or configuration key.
const MAX_KEY: usize = 256;
/// Bytes of what names a conversation, a user, a site or a command.
const MAX_NAME: usize = 256;
/// The shortest time between two calls of a timer, in milliseconds, with room for how the worker rounds.
const MIN_PERIOD_MS: u64 = 99;
/// The longest time until a timer fires: ten years, in milliseconds.
const MAX_DELAY_MS: u64 = 10 * 365 * 86_400_000;

/// Checks the effects of one call.
///
/// # Errors
/// A sentence that names the first one that must not be.
pub fn check(rights: &Rights, limits: &Limits, effects: &[Effect]) -> Result<(), String> {
    let outputs = effects.iter().filter(|effect| is_output(effect)).count();
    if outputs > limits.outputs {
        return Err(format!("{outputs} emits and publishes in one call"));
    }
    let bytes: usize = effects.iter().map(effect_bytes).sum();
    if bytes > MAX_EFFECTS {
        return Err(format!("effects of {bytes} bytes in one call"));
    }
    effects.iter().try_for_each(|effect| one(rights, limits, effect))
}

/// Checks what a running call asks for.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_request(limits: &Limits, operation: &Operation) -> Result<(), String> {
    match operation {
        Operation::Command { name, .. } if name.len() > MAX_NAME => Err("a command with a long name".into()),
        Operation::Command { args, .. } => {
            check_value(args, limits).map_err(|why| format!("arguments of a command {why}"))
        }
        Operation::Publish(publish) => check_publish(limits, publish),
        // The client checks the one, the length of sleep is cut, and what is not a topic has no last value.
        Operation::Http(_) | Operation::Sleep(_) | Operation::Get(_) => Ok(()),
    }
}

/// Checks what a hook returned.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_outcome(limits: &Limits, outcome: &Outcome) -> Result<(), String> {
    match outcome {
        Outcome::Value(value) => check_value(value, limits).map_err(|why| format!("a result {why}")),
        Outcome::Missing | Outcome::Nothing | Outcome::Failed(_) => Ok(()),
    }
}

/// Whether an effect leaves the bridge.
pub fn is_output(effect: &Effect) -> bool {
    matches!(effect, Effect::Emit { .. } | Effect::Publish(_) | Effect::Say(_))
}

/// What the bridge holds until an effect is done, in bytes.
#[must_use]
pub fn effect_bytes(effect: &Effect) -> usize {
    let texts = match effect {
        Effect::State { key, value } | Effect::Config { key, value } => {
            key.len() + value.as_ref().map_or(0, |value| value.get().len())
        }
        Effect::Emit { name, data } => name.len() + data.get().len(),
        Effect::Publish(publish) => publish.topic.as_str().len() + publish.payload.as_bytes().len(),
        Effect::Say(say) => say.text.len(),
        Effect::On { pattern, .. } => pattern.len(),
        Effect::Subscribe { filter, .. } => filter.as_str().len(),
        Effect::Off { .. } | Effect::Timer { .. } | Effect::CancelTimer { .. } => 0,
    };
    texts + EFFECT_OVERHEAD
}

fn one(rights: &Rights, limits: &Limits, effect: &Effect) -> Result<(), String> {
    match effect {
        Effect::State { key, value } | Effect::Config { key, value } => {
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(format!("a key of {} bytes", key.len()));
            }
            if value.is_some() && key.chars().any(char::is_control) {
                return Err("a key with a control character".into());
            }
            let value = value.as_ref().map_or(Ok(()), |value| check_value(value, limits));
            value.map_err(|why| format!("a value {why}"))
        }
        Effect::Emit { name, .. } if !is_event_name(name) => Err("an event with a bad name".into()),
        Effect::Emit { data, .. } => check_value(data, limits).map_err(|why| format!("an event {why}")),
        Effect::Publish(publish) => {
            check_publish(limits, publish)?;
            rights.check_publish(&publish.topic)
        }
        Effect::Subscribe { qos, .. } if *qos > 1 => Err(format!("a subscription at QoS {qos}")),
        Effect::Subscribe { filter, .. } => rights.check_subscribe(filter),
        Effect::Say(say) => check_say(limits, say),
        Effect::On { pattern, .. } if !is_event_pattern(pattern) => Err("a handler of a bad pattern".into()),
        Effect::Timer { delay_ms, .. } if *delay_ms > MAX_DELAY_MS => {
            Err(format!("a timer after {delay_ms} ms"))
        }
        Effect::Timer { delay_ms, repeat: true, .. } if *delay_ms < MIN_PERIOD_MS => {
            Err(format!("a timer every {delay_ms} ms"))
        }
        Effect::On { .. } | Effect::Off { .. } | Effect::Timer { .. } | Effect::CancelTimer { .. } => Ok(()),
    }
}

fn check_publish(limits: &Limits, publish: &Publish) -> Result<(), String> {
    let bytes = publish.payload.as_bytes().len();
    if bytes > limits.result {
        return Err(format!("a payload of {bytes} bytes (limits.result)"));
    }
    if publish.qos > 1 {
        return Err(format!("a publish at QoS {}", publish.qos));
    }
    Ok(())
}

fn check_say(limits: &Limits, say: &Say) -> Result<(), String> {
    let names = [&say.conversation_id, &say.user, &say.site];
    let longest = names.into_iter().flatten().map(String::len).max().unwrap_or(0);
    if say.text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err("a text to be said with a control character".into());
    }
    if say.text.is_empty() || say.text.len() > limits.result || longest > MAX_NAME {
        return Err(format!("a text of {} bytes to be said, with a name of {longest}", say.text.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{check, check_outcome, check_request};
    use crate::model::{
        Limits, Permission, Rights, Topic,
        frame::{Effect, Operation, Outcome},
    };

    fn refused(effects: &Value) -> Result<(), String> {
        let all = ["mqtt.publish:a/#", "mqtt.subscribe:a/#"].map(|text| Permission::parse(text).unwrap());
        let rights = Rights::of("x", all.to_vec(), &Topic::default()).unwrap();
        let effects: Vec<Effect> = serde_json::from_value(effects.clone()).unwrap();
        check(&rights, &Limits { outputs: 3, ..Limits::default() }, &effects)
    }

    fn deep() -> Value {
        (0..33).fold(json!(1), |inner, _| json!([inner]))
    }

    #[test]
    fn effects_that_a_worker_lets_through_pass() {
        let effects = json!([
            {"state": {"key": "k", "value": {"a": 1}}}, {"state": {"key": "old\n", "value": null}}, {"say": {"text": "a\tb\nc"}}, {"config": {"key": "k", "value": null}},
            {"emit": {"name": "rain", "data": [1]}}, {"publish": {"topic": "a/b", "payload": "", "qos": 1, "retain": true}},
            {"on": {"handler": 1, "pattern": "weather/rain_*", "priority": -5, "once": true}},
            {"subscribe": {"handler": 2, "filter": "a/+", "qos": 1, "retained": false}}, {"off": {"handler": 1}},
            {"timer": {"timer": 3, "delay_ms": 100, "repeat": true}}, {"cancel_timer": {"timer": 3}},
        ]);
        assert_eq!(refused(&effects), Ok(()));
    }

    #[test]
    fn each_that_it_would_have_refused_is_named() {
        let long = "x".repeat(257);
        let publish = |topic: &str, qos: u8| json!({"publish": {"topic": topic, "payload": "", "qos": qos, "retain": false}});
        let table = [
            (json!([{"state": {"key": "", "value": 1}}]), "a key of 0 bytes"),
            (json!([{"config": {"key": long, "value": 1}}]), "a key of 257 bytes"),
            (json!([{"state": {"key": "a\u{1}", "value": 1}}]), "a control character"),
            (json!([{"say": {"text": "a\u{7}"}}]), "a control character"),
            (json!([{"state": {"key": "k", "value": deep()}}]), "a value nested 33 deep"),
            (json!([{"emit": {"name": "a b", "data": 1}}]), "an event with a bad name"),
            (json!([{"emit": {"name": "a", "data": deep()}}]), "an event nested 33 deep"),
            (json!([publish("b", 0)]), "may not publish to `b`"),
            (json!([publish("a", 2)]), "a publish at QoS 2"),
            (
                json!([publish("a", 0), publish("a", 0), publish("a", 0), publish("a", 0)]),
                "4 emits and publishes",
            ),
            (
                json!([{"publish": {"topic": "a", "payload": "x".repeat(262_145), "qos": 0, "retain": false}}]),
                "262145 bytes",
            ),
            (
                json!([{"subscribe": {"handler": 2, "filter": "#", "qos": 1, "retained": false}}]),
                "may not subscribe",
            ),
            (json!([{"subscribe": {"handler": 2, "filter": "a", "qos": 2, "retained": false}}]), "QoS 2"),
            (
                json!([{"on": {"handler": 1, "pattern": "a b", "priority": 0, "once": false}}]),
                "a bad pattern",
            ),
            (json!([{"timer": {"timer": 1, "delay_ms": u64::MAX, "repeat": true}}]), "a timer after"),
            (json!([{"timer": {"timer": 1, "delay_ms": 1, "repeat": true}}]), "a timer every 1 ms"),
            (json!([{"say": {"text": ""}}]), "a text of 0 bytes"),
            (json!([{"say": {"text": "a", "user": long}}]), "with a name of 257"),
            (Value::Array(vec![json!({"off": {"handler": 1}}); 50_000]), "effects of 25600000 bytes"),
        ];
        for (effects, reason) in table {
            let refusal = refused(&effects).unwrap_err();
            assert!(refusal.contains(reason), "{reason}: {refusal}");
        }
    }

    #[test]
    fn results_and_questions_are_looked_at_too() {
        let limits = Limits::default();
        let outcome: Outcome = serde_json::from_value(json!({"value": deep()})).unwrap();
        assert_eq!(check_outcome(&limits, &outcome).unwrap_err(), "a result nested 33 deep (limits.depth)");
        let refused = |operation: Value| {
            let operation: Operation = serde_json::from_value(operation).unwrap();
            check_request(&limits, &operation)
        };
        assert_eq!(refused(json!({"command": {"name": "x", "args": {}}})), Ok(()));
        assert!(refused(json!({"command": {"name": "x", "args": deep()}})).is_err());
        assert!(refused(json!({"command": {"name": "x".repeat(300), "args": {}}})).is_err());
        assert!(
            refused(json!({"publish": {"topic": "a", "payload": "", "qos": 2, "retain": false}})).is_err()
        );
    }
}
