//! Topic names and topic filters (MQTT 5 §4.7), parsed once, so that nothing behind the door checks again.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The longest topic in bytes (MQTT 5 §1.5.4: a UTF-8 string has a 16-bit length).
const MAX_BYTES: usize = 65_535;
/// The most levels: Mosquitto refuses a topic with more.
const MAX_LEVELS: usize = 200;

/// A topic that can be published to: no wildcards, no NUL, not below `$`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Topic(Arc<str>);

/// A topic filter that can be subscribed to. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Filter(Arc<str>);

/// Why a text is no topic or filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a {kind}: {reason}")]
pub struct BadTopic {
    found: String,
    kind: &'static str,
    reason: &'static str,
}

impl Topic {
    /// Reads a topic name.
    ///
    /// # Errors
    /// When a broker would refuse it, or it lies below `$`.
    pub fn parse(text: &str) -> Result<Self, BadTopic> {
        let bad = |reason| BadTopic { found: shortened(text), kind: "topic", reason };
        check_text(text).map_err(bad)?;
        if text.contains(['+', '#']) {
            return Err(bad("`+` and `#` are wildcards, they cannot be published to"));
        }
        if text.starts_with('$') {
            return Err(bad("topics that begin with `$` belong to the broker"));
        }
        Ok(Self(text.into()))
    }

    /// The topic as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The base topic that the shipped configuration has.
impl Default for Topic {
    fn default() -> Self {
        Self("jarvis".into())
    }
}

impl Filter {
    /// Reads a topic filter.
    ///
    /// # Errors
    /// When a broker would refuse it (MQTT 5 §4.7.1), or it is a shared or `$` subscription.
    pub fn parse(text: &str) -> Result<Self, BadTopic> {
        let bad = |reason| BadTopic { found: shortened(text), kind: "topic filter", reason };
        check_text(text).map_err(bad)?;
        if text.starts_with('$') {
            return Err(bad("topics that begin with `$` belong to the broker"));
        }
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            if level.contains('#') && (level != "#" || levels.peek().is_some()) {
                return Err(bad("`#` must be the whole last level, as in `a/#`"));
            }
            if level.contains('+') && level != "+" {
                return Err(bad("`+` must be a whole level, as in `a/+/b`"));
            }
        }
        Ok(Self(text.into()))
    }

    /// The filter as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic name matches (MQTT 5 §4.7.1: `a/#` matches `a` too, and no wildcard matches `$…`).
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.captures(topic).is_some()
    }

    /// What each wildcard matched, in order, or nothing where the topic does not match.
    /// `#` gives all the levels it stands for as one text.
    #[must_use]
    pub fn captures<'topic>(&self, topic: &'topic str) -> Option<Vec<&'topic str>> {
        if topic.starts_with('$') {
            return None;
        }
        let mut captured = Vec::new();
        let mut rest = Some(topic);
        for level in self.0.split('/') {
            if level == "#" {
                captured.push(rest.unwrap_or(""));
                return Some(captured);
            }
            let text = rest?;
            let (head, tail) = match text.split_once('/') {
                Some((head, tail)) => (head, Some(tail)),
                None => (text, None),
            };
            match level {
                "+" => captured.push(head),
                _ if level == head => {}
                _ => return None,
            }
            rest = tail;
        }
        rest.is_none().then_some(captured)
    }

    /// Whether every topic that `other` can match, this filter matches too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let mut ours = self.0.split('/');
        let mut theirs = other.0.split('/');
        loop {
            match (ours.next(), theirs.next()) {
                (Some("#"), _) | (None, None) => return true,
                (Some("+"), Some(level)) if level != "#" => {}
                (Some(mine), Some(level)) if mine == level => {}
                _ => return false,
            }
        }
    }
}

/// What topics and filters have in common (MQTT 5 §4.7.3).
fn check_text(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > MAX_BYTES {
        return Err("it is longer than 65,535 bytes");
    }
    if text.chars().any(char::is_control) {
        return Err("it has a control character");
    }
    // MQTT 5 §1.5.4 lets a broker drop who sends one, and Mosquitto does.
    if text.chars().any(is_noncharacter) {
        return Err("it has a character that is none (U+FFFE, U+FFFF and the like)");
    }
    if text.split('/').count() > MAX_LEVELS {
        return Err("it has more than 200 levels");
    }
    Ok(())
}

/// What Unicode promises never to assign (Unicode §23.7).
fn is_noncharacter(character: char) -> bool {
    let code = u32::from(character);
    (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

/// The beginning of a text, safe to show in an error.
fn shortened(text: &str) -> String {
    text.chars().take(120).flat_map(char::escape_debug).collect()
}

macro_rules! text_type {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadTopic;

            fn try_from(text: String) -> Result<Self, BadTopic> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}
text_type!(Topic Filter);

#[cfg(test)]
mod tests {
    use super::{Filter, Topic};

    #[test]
    fn topics() {
        for good in ["a", "/", "a//b", "zigbee2mqtt/hall light/set", "é"] {
            assert!(Topic::parse(good).is_ok(), "{good}");
        }
        let long = "x".repeat(65_536);
        let deep = "a/".repeat(200);
        for bad in
            ["", "a/+", "#", "$SYS/x", "a\0b", "a\nb", "a\u{ffff}", "\u{1fffe}b", "\u{fdef}", &long, &deep]
        {
            assert!(Topic::parse(bad).is_err(), "{bad:.40}");
        }
    }

    #[test]
    fn filters() {
        for good in ["#", "+", "a/#", "+/b/+", "a//#"] {
            assert!(Filter::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a#", "#/a", "a/b+", "$share/g/t"] {
            assert!(Filter::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn matching_captures_what_the_wildcards_stand_for() {
        let check = |filter: &str, topic: &str, expect: Option<&[&str]>| {
            let filter = Filter::parse(filter).unwrap();
            assert_eq!(filter.captures(topic).as_deref(), expect, "{filter} {topic}");
        };
        check("a/b", "a/b", Some(&[]));
        check("a/+", "a/b", Some(&["b"]));
        check("a/+", "a/", Some(&[""]));
        check("a/+", "a", None);
        check("a/#", "a", Some(&[""]));
        check("a/#", "a/b/c", Some(&["b/c"]));
        check("+/x/#", "k/x/y/z", Some(&["k", "y/z"]));
        check("#", "$SYS/uptime", None);
        check("+", "a/b", None);
        check("a/b", "a", None);
    }

    #[test]
    fn covering() {
        let check = |wide: &str, narrow: &str, expect: bool| {
            let (wide, narrow) = (Filter::parse(wide).unwrap(), Filter::parse(narrow).unwrap());
            assert_eq!(wide.covers(&narrow), expect, "{wide} covers {narrow}");
        };
        check("#", "a/b", true);
        check("a/#", "a", true);
        check("a/#", "a/+/c", true);
        check("a/+", "a/b", true);
        check("a/+", "a/#", false);
        check("a/b", "a/+", false);
        check("+/b", "a/b", true);
        check("a/b", "a/b/c", false);
    }
}
