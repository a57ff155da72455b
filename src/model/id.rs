//! The id of a plugin, parsed once at the door.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// A plugin's id: `[a-z][a-z0-9_-]{0,63}`, not `request` or `response`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PluginId(Arc<str>);

/// Why a text is not a plugin id.
#[derive(Debug, thiserror::Error)]
#[error("`{found}` is not a plugin id: {reason}")]
pub struct BadPluginId {
    found: String,
    reason: &'static str,
}

/// Ids that would collide with the topics `<base>/event/request` and `<base>/event/response`.
const RESERVED: [&str; 2] = ["request", "response"];

impl PluginId {
    /// Reads an id.
    ///
    /// # Errors
    /// When it is empty, longer than 64 bytes, reserved, or has other characters than `a-z 0-9 _ -`.
    pub fn parse(text: &str) -> Result<Self, BadPluginId> {
        let found = || super::shown(text, 80);
        let bad = |reason| Err(BadPluginId { found: found(), reason });
        if text.len() > 64 {
            return bad("at most 64 characters");
        }
        if !text.starts_with(|first: char| first.is_ascii_lowercase()) {
            return bad("start with a letter a-z, for example `weather`");
        }
        if !text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')) {
            return bad("only the characters a-z, 0-9, `_` and `-`");
        }
        if RESERVED.contains(&text) {
            return bad("this word is reserved for topics");
        }
        Ok(Self(text.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PluginId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl TryFrom<String> for PluginId {
    type Error = BadPluginId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<PluginId> for String {
    fn from(id: PluginId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl std::borrow::Borrow<str> for PluginId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::PluginId;

    #[test]
    fn ids_are_checked_at_the_door() {
        for good in ["a", "weather", "night-guard_2", &"x".repeat(64)] {
            assert!(PluginId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "Weather", "2x", "a b", "a/b", "request", "response", "é", &"x".repeat(65)] {
            assert!(PluginId::parse(bad).is_err(), "{bad}");
        }
    }
}
