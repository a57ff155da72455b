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
