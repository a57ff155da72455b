//! What can lie in a plugin's mailbox, and what comes back.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::backlog::Held;
use crate::{
    effects::Cause,
    model::{
        Failure, Filter,
        frame::Input,
        message::{EventInfo, MqttMessage},
    },
};

/// What one hook call of one plugin came to, its effects committed and published.
#[derive(Debug)]
pub struct Step {
    /// What it returned (nothing for nil or a missing function), or why it failed.
    pub outcome: Result<Option<Box<RawValue>>, Failure>,
    /// How long it ran.
    pub ran: Duration,
}

/// What became of an event or message at one plugin.
#[derive(Debug, Default)]
pub struct Heard {
    /// How many of its functions were called.
    pub handlers: usize,
    /// Those that failed.
    pub failures: Vec<Failure>,
}

/// An event on its way to plugins.
#[derive(Debug)]
pub struct Event {
    /// Which and whence.
    pub info: EventInfo,
    /// What was emitted; every handler's call shares it.
    pub data: Arc<RawValue>,
    /// Counts for the plugin that emitted it, until the last listener has heard it.
    _held: Option<Held>,
}

impl Event {
    /// An event from outside.
    #[must_use]
    pub fn new(info: EventInfo, data: Box<RawValue>) -> Self {
        Self { info, data: data.into(), _held: None }
    }

    /// An event that a plugin emitted.
    pub(super) fn held(info: EventInfo, data: Box<RawValue>, held: Held) -> Self {
        Self { info, data: data.into(), _held: Some(held) }
    }
}

/// Something to be done between two other messages.
#[derive(Debug)]
pub(super) enum Mail {
    /// Call a hook.
    Hook { hook: &'static str, input: Input, cause: Cause, reply: oneshot::Sender<Step> },
    /// Call every handler that an event matches.
    Event { event: Arc<Event>, cause: Cause, reply: oneshot::Sender<Heard> },
    /// Call every handler of a filter.
    Message { filter: Filter, message: Arc<MqttMessage>, cause: Cause },
}

impl Mail {
    /// Why it came.
    pub(super) fn cause(&self) -> &Cause {
        match self {
            Self::Hook { cause, .. } | Self::Event { cause, .. } | Self::Message { cause, .. } => cause,
        }
    }

    /// What it holds of others' data.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Hook { input: Input::Value(value), .. } => value.get().len(),
            Self::Hook { .. } => 0,
            Self::Event { event, .. } => event.data.get().len(),
            Self::Message { message, .. } => {
                let user = message.properties.user.iter().map(|(name, value)| name.len() + value.len());
                message.payload.as_bytes().len() + message.topic.len() + user.sum::<usize>()
            }
        }
    }

    /// Leaves it undone in such a way that the broker sends its message again.
    pub(super) fn abandon(self) {
        match self {
            Self::Hook { cause, .. } | Self::Event { cause, .. } | Self::Message { cause, .. } => {
                cause.abandon()
            }
        }
    }
}
