//! When a call has come back: what it wants is checked, committed and handed on, or refused. Knows the limits of
//! what a plugin may put out, nothing of when calls are made.

use std::time::{Duration, Instant};

use serde_json::value::RawValue;

use super::{
    actor::{Actor, reply},
    breaker::is_breaking,
    job::{Aim, Flight, Job},
    perform::Performance,
};
use crate::{
    effects::{Cause, effect_bytes, is_output},
    model::{
        ErrorCode, Failure,
        frame::{Done, Effect, Outcome},
    },
    store::Sequence,
    worker::Death,
};

impl Actor {
    /// The oldest call has ended.
    pub(super) async fn finish(&mut self, done: Done) {
        let Some(flight) = self.flights.pop_front() else { return };
        let ran = self.time_of(&flight);
        self.has_spared = false;
        let Flight { job, .. } = flight;
        if let Aim::Timer(timer) = job.target {
            self.ears.fired(timer);
        }
        self.shared.stats().ran(ran, done.memory);
        let value = match done.outcome {
            Outcome::Missing => {
                // Nothing has run that would say anything of the plugin.
                self.breaker.untried(Instant::now());
                return reply(job, Ok(None), ran);
            }
            Outcome::Nothing => None,
            Outcome::Value(value) => Some(value),
            Outcome::Failed(failure) => {
                let exhausted = failure.code == ErrorCode::MemoryLimit;
                match is_breaking(&failure) {
                    true => self.broke(),
                    false => self.came_back(job.target),
                }
                self.fail(job, failure, ran);
                if exhausted {
                    // It was stopped in good order: a fresh heap is all it needs.
                    self.attempts = 0;
                    self.revive();
                }
                return;
            }
        };
        match self.check(&done.effects, &job.cause) {
            Ok(()) => {
                self.came_back(job.target);
                self.perform(done.effects, job, value, ran).await;
            }
            Err(Blame::Plugin(failure)) => {
                self.came_back(job.target);
                self.fail(job, failure, ran);
                // Its worker believes that its writes happened.
                self.revive_soon();
            }
            Err(Blame::Worker(reason)) => {
                self.lost(job, &Death::Garbage(reason), ran).await;
            }
        }
    }

    fn check(&mut self, effects: &[Effect], cause: &Cause) -> Result<(), Blame> {
        if effects.is_empty() {
            return Ok(());
        }
        if let Some(runner) = &mut self.runner {
            runner.check(&self.ears, effects).map_err(Blame::Worker)?;
        }
        let outputs = effects.iter().filter(|effect| is_output(effect)).count();
        let spent = self
            .check_backlog(effects)
            .and_then(|()| cause.budget().map_or(Ok(()), |budget| budget.spend(outputs)));
        spent.map_err(|reason| {
            let text = format!("plugin `{}`: {reason}", self.shared.id());
            Blame::Plugin(Failure::new(ErrorCode::RateLimited, text))
        })
    }

    /// Events and texts lie in others' mailboxes until they are heard: who is too far ahead of them is refused.
    fn check_backlog(&self, effects: &[Effect]) -> Result<(), String> {
        let heard = effects.iter().filter(|effect| matches!(effect, Effect::Emit { .. } | Effect::Say(_)));
        let (pieces, bytes) =
            heard.fold((0, 0), |(pieces, bytes), effect| (pieces + 1, bytes + effect_bytes(effect)));
        self.shared.backlog().check(pieces, bytes)
    }

    /// Takes what a call wants done apart: writes to the store, handlers and timers here, the rest to the
    /// performer.
    async fn perform(&mut self, effects: Vec<Effect>, job: Job, value: Option<Box<RawValue>>, ran: Duration) {
        let sequence = self.sequence();
        // What only reads is answered at once, unless it is known to have read what never happened.
        if effects.is_empty() && !sequence.is_broken() {
            return reply(job, Ok(value), ran);
        }
        let place = self.performer.place(&effects).await;
        let commit = self.context.effects.commit(self.shared.id(), &effects, &sequence).await;
        let outputs = self.apply(effects).await;
        let Job { cause, reply, .. } = job;
        let performance = Performance { commit, sequence, outputs, cause, value, ran, reply, place };
        self.performer.send(performance).await;
    }

    /// What the running worker's commits build on.
    pub(super) fn sequence(&self) -> Sequence {
        self.runner.as_ref().map(|runner| runner.sequence.clone()).unwrap_or_default()
    }

    /// A commit has failed: its worker, where it still is this one, believes what never happened.
    pub(super) fn start_over(&mut self) {
        if !self.is_down() && self.sequence().is_broken() {
            self.revive_soon();
        }
    }
}

/// Whose fault it is.
enum Blame {
    Plugin(Failure),
    Worker(String),
}
