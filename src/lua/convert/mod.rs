//! Between JSON text and Lua values, without a tree in between. Raw access only: no metamethod runs.

mod from_json;
mod to_json;

pub(super) use from_json::{Unreadable, from_json};
pub(super) use to_json::{Bounds, escaped_length, to_json};
