//! What can lie in a plugin's mailbox, and what comes back.

use std::{sync::Arc, time::Duration};

use serde_json::value::RawValue;
use tokio::sync::oneshot;

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
    /// What was emitted.
    pub data: Box<RawValue>,
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
    /// Whether an inbound message at QoS 1 waits for it.
    pub(super) fn has_receipt(&self) -> bool {
        match self {
            Self::Hook { cause, .. } | Self::Event { cause, .. } | Self::Message { cause, .. } => {
                cause.has_receipt()
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
