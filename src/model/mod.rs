//! The words everything else speaks: topics, messages, envelopes, frames. No input or output of any kind.

pub mod envelope;
pub mod failure;
pub mod frame;
pub mod id;
pub mod limits;
pub mod lockdown;
pub mod message;
pub mod permission;
pub mod rights;
pub mod topic;

pub use envelope::{Envelope, PluginResult, Status};
pub use failure::{ErrorCode, Failure};
pub use id::PluginId;
pub use limits::Limits;
pub use permission::Permission;
pub use rights::Rights;
pub use topic::{Filter, Topic};

/// The beginning of a text that came from outside, at most so many characters, safe to show.
#[must_use]
pub fn shown(text: &str, most: usize) -> String {
    let safe = |character: char| if character.is_control() { '\u{fffd}' } else { character };
    text.chars().take(most).map(safe).collect()
}

/// The time of now as every message bears it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
