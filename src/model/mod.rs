//! The words everything else speaks: topics, messages, envelopes, frames. No input or output of any kind.

#[cfg(test)]
pub(crate) mod dice;
pub mod envelope;
pub mod failure;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod id;
pub mod json;
pub mod limits;
pub mod lockdown;
pub mod message;
pub mod permission;
pub mod rights;
pub mod topic;

pub use envelope::{Envelope, PluginResult, Status};
pub use failure::{ErrorCode, Failure};
pub use id::PluginId;
pub use limits::{EFFECT_OVERHEAD, Limits, MAX_EFFECTS};
pub use permission::Permission;
pub use rights::Rights;
pub use topic::{Filter, Topic};

/// The beginning of a text that came from outside, at most so many characters, safe to show.
#[must_use]
pub fn shown(text: &str, most: usize) -> String {
    let safe = |character: char| if is_deceptive(character) { '\u{fffd}' } else { character };
    text.chars().take(most).map(safe).collect()
}

/// Whether a character changes how the text around it is shown: control characters, and the marks that turn the
/// direction of writing, with which a name can be made to look like another (CVE-2021-42574).
#[must_use]
pub fn is_deceptive(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The time of now as every message bears it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
