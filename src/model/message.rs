//! What comes in: chat messages, commands, automations and events, each parsed from its payload.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::id::PluginId;

/// Who wrote a chat message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person.
    User,
    /// The assistant core.
    Assistant,
}

/// What every request may carry and every envelope gives back as it came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// A string of at most 128 bytes or an integer; made as `UUIDv7` where the request has none.
    pub id: Value,
    /// The client's own word to find the answer by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction: Option<Value>,
    /// The conversation it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<Value>,
    /// Who speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Value>,
    /// Where it is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<Value>,
}

/// A chat message. `fields` is the whole object that the hooks get, `id`, `role`, `content` and
/// `timestamp` among them.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatMessage {
    /// Who wrote it.
    pub role: Role,
    /// Its text.
    pub content: String,
    /// The object for the hooks.
    pub fields: Map<String, Value>,
}

/// A command: a name and its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// One or more levels, as in `lights/off`.
    pub name: String,
    /// An object or array.
    pub args: Value,
}

/// An automation that ran elsewhere. `fields` is the whole object that the hooks get.
#[derive(Debug, Clone, PartialEq)]
pub struct Automation {
    /// Its name.
    pub name: String,
    /// The object for the hooks.
    pub fields: Map<String, Value>,
}

/// Which event it is and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventInfo {
    /// `[A-Za-z0-9_.:-]{1,64}`.
    pub name: String,
    /// The plugin that emitted it; nothing where it came over MQTT.
    pub plugin: Option<String>,
    /// Identifies it, `UUIDv7`.
    pub id: String,
    /// RFC 3339, UTC.
    pub timestamp: String,
}

/// Whether a text can be an event's name.
#[must_use]
pub fn is_event_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte))
}

/// Whether a text can be a pattern of `jarvis.events.on`; see [`event_matches`].
#[must_use]
pub fn is_event_pattern(text: &str) -> bool {
    let name = match text.split_once('/') {
        Some((plugin, _)) if PluginId::parse(plugin).is_err() => return false,
        Some((_, name)) => name,
        None => text,
    };
    match name.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => is_event_name(prefix),
        None => is_event_name(name),
    }
}

/// Whether an event's name and source match a pattern of `jarvis.events.on`: `name`, `presence_*`, or
/// either behind `plugin/`. A pattern without `plugin/` matches every source.
#[must_use]
pub fn event_matches(pattern: &str, name: &str, plugin: Option<&str>) -> bool {
    let (source, pattern) = match pattern.split_once('/') {
        Some((source, pattern)) => (Some(source), pattern),
        None => (None, pattern),
    };
    if source.is_some() && source != plugin {
        return false;
    }
    match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

/// A message of a plugin's MQTT subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MqttMessage {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Payload,
    /// What each wildcard of the filter matched.
    pub levels: Vec<String>,
    /// 0, 1 or 2 as the broker delivered it.
    pub qos: u8,
    /// Whether it is a replayed state and no news.
    pub retained: bool,
    /// MQTT 5 properties that a plugin can use.
    pub properties: Properties,
}

/// Bytes that are text most of the time. In JSON, text is a string and anything else an array of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Payload {
    /// UTF-8.
    Text(String),
    /// Not UTF-8.
    Bytes(Vec<u8>),
}

impl Payload {
    /// Reads bytes as text where they are UTF-8.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// MQTT 5 properties of a message, as far as a plugin can use them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Properties {
    /// Its media type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Where its sender wants an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_topic: Option<String>,
    /// What its sender wants back with the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_data: Option<Payload>,
    /// User properties.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub user: Vec<(String, String)>,
}

#[cfg(test)]
mod tests {
    use super::{event_matches, is_event_name, is_event_pattern};

    #[test]
    fn event_patterns() {
        let check = |pattern: &str, name: &str, plugin: Option<&str>, expect: bool| {
            assert_eq!(event_matches(pattern, name, plugin), expect, "{pattern} {name} {plugin:?}");
        };
        check("rain", "rain", None, true);
        check("rain", "rain", Some("weather"), true);
        check("rain", "rainy", None, false);
        check("presence_*", "presence_kitchen", None, true);
        check("*", "anything", Some("x"), true);
        check("weather/rain", "rain", Some("weather"), true);
        check("weather/rain", "rain", None, false);
        check("weather/*", "snow", Some("weather"), true);
        check("weather/*", "snow", Some("other"), false);
    }

    #[test]
    fn patterns_are_names_prefixes_and_sources() {
        for good in ["rain", "presence_*", "*", "weather/rain", "weather/*"] {
            assert!(is_event_pattern(good), "{good}");
        }
        for bad in ["", "a*b", "**", "Weather/rain", "/rain", "a/b/c", "a b"] {
            assert!(!is_event_pattern(bad), "{bad}");
        }
    }

    #[test]
    fn event_names() {
        assert!(is_event_name("door.front:opened-1"));
        for bad in ["", "a b", "a/b", "é", &"x".repeat(65)] {
            assert!(!is_event_name(bad), "{bad}");
        }
    }
}
