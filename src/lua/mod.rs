//! The Lua room: one plugin's VM, its limits and its `jarvis` table. Alone in knowing mlua, and runs only in
//! workers; knows nothing of pipes and processes.

mod api;
mod books;
mod convert;
mod failure;
mod host;
mod inputs;
mod limits;
mod results;
mod sandbox;
mod stack;
#[cfg(test)]
mod tests;
mod text;
mod vm;

pub use vm::{BuildError, Vm};

use serde_json::value::RawValue;

use crate::model::frame::{LogLine, Refusal, Request};

/// The way from the VM to the bridge, for what cannot wait for the end of a hook.
pub trait Link {
    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When the bridge refuses the request or the world did not do it.
    fn ask(&self, request: Request) -> Result<Box<RawValue>, Refusal>;

    /// Sends a log line.
    fn log(&self, line: LogLine);
}
