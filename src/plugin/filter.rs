//! What a chain of filters does to a message. A filter that fails, or returns what is no message, is as good
//! as absent.

use serde_json::{Map, Value};

use super::mail::Step;
use crate::model::{ErrorCode, Failure, PluginId, json};

/// A message after some filters.
#[derive(Debug)]
pub struct Filtered {
    /// As the last filter left it.
    pub message: Map<String, Value>,
    /// Set where a filter stopped it.
    pub stopped: Option<Stop>,
    /// Filters that failed; the message passed them unchanged.
    pub failures: Vec<(PluginId, Step)>,
}

/// A filter that stopped a message.
#[derive(Debug)]
pub struct Stop {
    /// Whose.
    pub plugin: PluginId,
    /// What it gave as its reason.
    pub reason: Option<String>,
}

/// What a message keeps, whatever a filter makes of the rest.
const KEPT: [&str; 2] = ["id", "role"];
/// What it keeps where the filter leaves it out.
const INHERITED: [&str; 5] = ["timestamp", "conversation_id", "user", "site", "plugin"];

impl Filtered {
    fn replace(&mut self, mut message: Map<String, Value>) {
        for key in KEPT {
            message.remove(key);
        }
        for key in KEPT.into_iter().chain(INHERITED) {
            if let Some(value) = self.message.get(key) {
                message.entry(key).or_insert_with(|| value.clone());
            }
        }
        self.message = message;
    }

    pub(super) fn of(message: Map<String, Value>) -> Self {
        Self { message, stopped: None, failures: Vec::new() }
    }

    /// Takes one filter's result in. True where the chain ends here.
    pub(super) fn take(&mut self, plugin: &PluginId, hook: &str, step: Step) -> bool {
        let Step { outcome, ran } = step;
        let result = match outcome {
            Ok(None) => return false,
            Ok(Some(result)) => json::parse(result.get()).unwrap_or(Value::Null),
            Err(failure) => {
                self.failures.push((plugin.clone(), Step { outcome: Err(failure), ran }));
                return false;
            }
        };
        let stop = |reason| Some(Stop { plugin: plugin.clone(), reason });
        match result {
            Value::Bool(false) => self.stopped = stop(None),
            Value::Object(message) if message.get("cancel") == Some(&Value::Bool(true)) => {
                self.stopped = stop(message.get("reason").and_then(Value::as_str).map(str::to_owned));
            }
            Value::Object(message) if message.get("content").is_some_and(Value::is_string) => {
                self.replace(message);
            }
            _ => {
                let text = format!(
                    "plugin `{plugin}`: {hook} must return the message with its `content`, nil to leave it \
                     as it is, or false to stop it"
                );
                let outcome = Err(Failure::new(ErrorCode::InvalidResult, text));
                self.failures.push((plugin.clone(), Step { outcome, ran }));
            }
        }
        self.stopped.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Map, Value, json, value::to_raw_value};

    use super::Filtered;
    use crate::{model::PluginId, plugin::mail::Step};

    #[test]
    fn what_a_filter_returns() {
        let check = |result: Value, content: &str, stopped: Option<Option<&str>>, failures: usize| {
            let mut message = Map::new();
            message.insert("content".into(), json!("as it was"));
            let mut filtered = Filtered::of(message);
            let outcome = Ok((!result.is_null()).then(|| to_raw_value(&result).unwrap()));
            let plugin = PluginId::parse("f").unwrap();
            let ends = filtered.take(&plugin, "filter_message", Step { outcome, ran: Duration::ZERO });
            assert_eq!(ends, stopped.is_some(), "{result}");
            assert_eq!(filtered.message["content"], content, "{result}");
            assert_eq!(filtered.stopped.as_ref().map(|stop| stop.reason.as_deref()), stopped, "{result}");
            assert_eq!(filtered.failures.len(), failures, "{result}");
        };
        check(Value::Null, "as it was", None, 0);
        check(json!({"content": "new"}), "new", None, 0);
        check(json!(false), "as it was", Some(None), 0);
        check(json!({"cancel": true, "reason": "rude"}), "as it was", Some(Some("rude")), 0);
        check(json!({"content": 5}), "as it was", None, 1);
        check(json!({}), "as it was", None, 1);
        check(json!(12), "as it was", None, 1);
    }
}
