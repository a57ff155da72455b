//! The effects room.

pub mod http;
