//! The plugin room.

pub mod manifest;
pub mod source;
