//! What comes in for a plugin: it becomes calls to be made, or is refused at the door where the plugin cannot
//! run or is left alone. Nobody waits for a plugin that will not answer.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{
    actor::Actor,
    job::{Aim, Job},
    mail::{Heard, Mail, Step},
    mailbox::Lane,
    shared::State,
};
use crate::{
    effects::Cause,
    model::{ErrorCode, Failure, frame::Input},
};

impl Actor {
    /// Whether what comes now is refused.
    pub(super) fn is_refusing(&self, now: Instant) -> bool {
        self.is_down() || self.resting || self.breaker.refuses(now).is_some()
    }

    /// What may come in now. While a fresh worker is waited for, whoever asks is told so; the rest is for that worker.
    pub(super) fn lane(&self, now: Instant) -> Lane {
        let is_refused = self.is_down() || self.breaker.refuses(now).is_some();
        if self.resting && !is_refused { Lane::Calls } else { Lane::Both }
    }

    /// Whether there is no worker and none on its way.
    pub(super) fn is_down(&self) -> bool {
        self.runner.is_none() && self.coming.is_none()
    }

    /// Takes a piece of mail in.
    pub(super) fn accept(&mut self, mail: Mail) {
        match self.is_refusing(Instant::now()) {
            true => self.turn_away(mail),
            false => self.queue_up(mail),
        }
    }

    /// Turns a piece of mail into jobs.
    fn queue_up(&mut self, mail: Mail) {
        match mail {
            Mail::Hook { hook, input, cause, reply } => {
                let (target, reply) = (Aim::Hook(hook), Some(reply));
                self.enqueue(Job { target, ear: None, input, cause, reply });
            }
            Mail::Event { event, cause, reply } => {
                let handlers = self.ears.hear(&event.info);
                let input = || Input::Event { data: event.data.clone(), event: event.info.clone() };
                let steps = handlers.into_iter().map(|(handler, ear)| {
                    let (step, answer) = oneshot::channel();
                    self.enqueue(Job {
                        target: Aim::Handler(handler),
                        ear: Some(ear),
                        input: input(),
                        cause: cause.clone(),
                        reply: Some(step),
                    });
                    answer
                });
                let steps: Vec<_> = steps.collect();
                tokio::spawn(gather(steps, reply));
            }
            Mail::Message { filter, message, cause } => {
                for handler in self.ears.receive(&filter, &message) {
                    let (target, ear) = match handler {
                        Some((handler, ear)) => (Aim::Handler(handler), Some(ear)),
                        None => (Aim::Hook("on_mqtt"), None),
                    };
                    let (input, cause) = (Input::Message(message.clone()), cause.clone());
                    self.enqueue(Job { target, ear, input, cause, reply: None });
                }
            }
        }
    }

    /// Puts a call at the end of the queue. Where nobody asked for it, the plugin's own measure counts.
    pub(super) fn enqueue(&mut self, job: Job) {
        self.queue.push_back(Job { cause: job.cause.or_unasked(self.shared.unasked()), ..job });
    }

    /// Answers a piece of mail without asking the plugin. Its ears hear nothing of it, so that handlers for
    /// one event wait for the next.
    fn turn_away(&mut self, mail: Mail) {
        let failure = self.refusal(Instant::now());
        // Who asked may be gone: a time-out, a shutdown.
        match mail {
            Mail::Hook { reply, .. } => {
                self.shared.stats().refused();
                let _ = reply.send(Step { outcome: Err(failure), ran: Duration::ZERO });
            }
            Mail::Event { reply, .. } => {
                self.shared.stats().dropped();
                let _ = reply.send(Heard { handlers: 0, failures: vec![failure] });
            }
            Mail::Message { .. } => self.shared.stats().dropped(),
        }
    }

    /// Answers everything that waits without asking the plugin.
    pub(super) fn refuse_queue(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let failure = self.refusal(Instant::now());
        while let Some(job) = self.queue.pop_front() {
            match (job.target, job.reply) {
                (Aim::Timer(timer), _) => self.ears.postpone(timer),
                (Aim::Hook(_) | Aim::Handler(_), Some(reply)) => {
                    self.shared.stats().refused();
                    let _ = reply.send(Step { outcome: Err(failure.clone()), ran: Duration::ZERO });
                }
                (Aim::Hook(_) | Aim::Handler(_), None) => self.shared.stats().dropped(),
            }
        }
    }

    /// Why the plugin is not asked.
    fn refusal(&self, now: Instant) -> Failure {
        let id = self.shared.id();
        let facts = self.shared.facts();
        let error = facts.last_error.as_ref().map(|error| error.message.as_str());
        let unavailable =
            |text: String| Failure::new(ErrorCode::Unavailable, format!("plugin `{id}` {text}"));
        match facts.state {
            State::Disabled => {
                return Failure::new(ErrorCode::Disabled, error.unwrap_or("it is switched off"));
            }
            State::Unloading => return unavailable("is being unloaded".into()),
            State::Loading | State::Ready | State::Error => {}
        }
        let last = error.map(|error| format!("; the last time: {error}")).unwrap_or_default();
        if self.is_down() {
            return unavailable(format!("cannot run now{last}"));
        }
        let Some(left) = self.breaker.refuses(now) else {
            return unavailable(format!("is being started again, try it in a while{last}"));
        };
        let again = match left.as_secs_f64().ceil() {
            0.0 => "one call tries it now".to_owned(),
            seconds => format!("it is tried again in {seconds} s"),
        };
        unavailable(format!(
            "is left alone: {} of its calls in a row did not come back, {again}{last}",
            self.breaker.row()
        ))
    }

    /// Queues the timer that is due first.
    pub(super) fn fire(&mut self) {
        if let Some(timer) = self.ears.fire(Instant::now()) {
            let (target, input) = (Aim::Timer(timer), Input::Nothing);
            self.enqueue(Job { target, ear: None, input, cause: Cause::none(), reply: None });
        }
    }
}

/// Waits for every handler of an event and sums up.
async fn gather(steps: Vec<oneshot::Receiver<Step>>, reply: oneshot::Sender<Heard>) {
    let mut heard = Heard { handlers: steps.len(), failures: Vec::new() };
    for step in steps {
        if let Ok(Step { outcome: Err(failure), .. }) = step.await {
            heard.failures.push(failure);
        }
    }
    // Nobody may be waiting for the sum.
    let _ = reply.send(heard);
}
