//! Asks a plugin at an interval how it is: its `health()` says, and `bridge/health` shows it.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{
    actor::Actor,
    job::{Aim, Job},
    mail::Step,
    shared::Shared,
};
use crate::{
    effects::Cause,
    model::{ErrorCode, Failure, frame::Input},
};

/// The hook that says how a plugin is.
const HOOK: &str = "health";

/// A fresh worker is asked soon, but not one that is there for a single call.
const FIRST: Duration = Duration::from_secs(1);

/// When a plugin is asked.
#[derive(Debug)]
pub(super) struct Checkup {
    every: Duration,
    /// Nothing where it has no `health()`.
    due: Option<Instant>,
}

impl Checkup {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, due: None }
    }

    /// Begins with a fresh worker.
    pub(super) fn begin(&mut self, hooks: &[String]) {
        let first = Instant::now() + self.every.min(FIRST);
        self.due = hooks.iter().any(|hook| hook == HOOK).then_some(first);
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }
}

/// Whether a call is one of these.
pub(super) fn is_checkup(aim: Aim) -> bool {
    matches!(aim, Aim::Hook(HOOK))
}

/// Whether a failure is what `health()` has to say, and no failure of the plugin.
pub(super) fn is_answer(aim: Aim, failure: &Failure) -> bool {
    is_checkup(aim) && failure.code == ErrorCode::HookError
}

impl Actor {
    /// Asks the plugin how it is.
    pub(super) fn check_up(&mut self) {
        let (reply, answer) = oneshot::channel();
        let (target, input, cause) = (Aim::Hook(HOOK), Input::Nothing, Cause::none());
        self.enqueue(Job { target, ear: None, input, cause, reply: Some(reply) });
        self.checkup.due = Some(Instant::now() + self.checkup.every);
        tokio::spawn(note(self.shared.clone(), answer));
    }
}

/// Keeps the answer; one that never comes, because the plugin cannot run, leaves the one before.
async fn note(shared: Shared, answer: oneshot::Receiver<Step>) {
    let Ok(Step { outcome, .. }) = answer.await else { return };
    let condition = match outcome {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.message),
    };
    shared.stats().set_condition(Some(condition));
}
