//! A call on its way: to be made, and made but not answered.

use std::time::Instant;

use tokio::sync::oneshot;

use super::{ears::Ear, mail::Step};
use crate::{
    effects::Cause,
    model::frame::{Call, Input, Target},
};

/// A call to be made.
pub(super) struct Job {
    pub(super) target: Aim,
    /// Which handler that is, for the next worker; nothing where it is none.
    pub(super) ear: Option<Ear>,
    pub(super) input: Input,
    pub(super) cause: Cause,
    pub(super) reply: Option<oneshot::Sender<Step>>,
}

/// What a job calls.
#[derive(Clone, Copy)]
pub(super) enum Aim {
    Hook(&'static str),
    Handler(u64),
    Timer(u64),
}

/// A call that was written and not yet answered.
pub(super) struct Flight {
    pub(super) job: Job,
    pub(super) call: Call,
    pub(super) began: Instant,
}

impl Job {
    /// Whether who asked does not wait any more: then nothing of it shall happen.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.target, Aim::Hook(_)) && self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

impl Aim {
    /// As the worker is told.
    pub(super) fn target(self) -> Target {
        match self {
            Self::Hook(hook) => Target::Hook(hook.into()),
            Self::Handler(handler) => Target::Handler(handler),
            Self::Timer(timer) => Target::Timer(timer),
        }
    }
}
