//! The process boundary: one worker process per plugin, frames over its pipes.

pub mod child;
pub mod frames;
