//! The main job: a message becomes a request, a request becomes calls of hooks, and those become exactly one
//! envelope. Knows no Lua, no process and no socket.
//!
//! Reading order: `router` takes what arrives, `payload` and `address` read it, one file per channel answers
//! it (`chat`, `command`, `automation`, `event`, `control`), `reply` sends the answer, `announce` says what
//! the bridge is.

mod address;
mod announce;
mod automation;
mod chat;
mod command;
mod control;
mod desk;
mod event;
#[cfg(test)]
mod fuzz;
mod once;
mod outcome;
mod parking;
mod payload;
mod reply;
mod request;
mod router;

use std::time::Duration;

use serde_json::Value;

pub use self::{
    desk::Desk,
    once::{Once, call_once},
    router::Router,
};
use crate::model::{Filter, Topic};

/// What the bridge's own work is set by.
#[derive(Debug, Clone)]
pub struct Config {
    /// First levels of every topic.
    pub base: Topic,
    /// Names this bridge among others.
    pub instance: String,
    /// Bytes of a request's payload.
    pub payload: usize,
    /// Where an answer may go that its request names.
    pub reply_topics: Vec<Filter>,
    /// What may be asked of the bridge itself.
    pub admin: Admin,
    /// Who answers what no plugin answered.
    pub assistant: Assistant,
    /// Chat messages that may wait for an external assistant at a time. Each holds a place in the broker's
    /// window until it is answered, and the answers come through the same window: fewer than its size.
    pub waiting: usize,
    /// What an external assistant has.
    pub chat_timeout: Duration,
    /// After how long an unfinished message is kept here and acknowledged.
    pub park_after: Duration,
    /// Whether `/name` in a chat runs a command.
    pub slash_commands: bool,
    /// Between two reports on `bridge/health`.
    pub health_interval: Duration,
    /// The merged configuration without secrets, for `bridge/info`.
    pub shown: Value,
}

/// What may be asked on `<base>/bridge/request/#`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// Everything.
    Full,
    /// What changes nothing.
    Read,
    /// Nothing.
    Off,
}

/// Who answers a chat message that no plugin answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Assistant {
    /// Nobody.
    None,
    /// A core that listens on `chat/prompt`.
    External,
}
