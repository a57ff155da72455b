//! The words everything else speaks: topics, messages, envelopes, frames. No input or output of any kind.

pub mod envelope;
pub mod failure;
pub mod frame;
pub mod id;
pub mod limits;
pub mod message;
pub mod permission;
pub mod topic;

pub use envelope::{Envelope, PluginResult, Status};
pub use failure::{ErrorCode, Failure};
pub use id::PluginId;
pub use limits::Limits;
pub use permission::Permission;
pub use topic::{Filter, Topic};

/// The time of now as every message bears it: RFC 3339, UTC, milliseconds.
#[must_use]
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
