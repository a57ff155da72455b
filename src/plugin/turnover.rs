//! When a plugin's worker changes: it died, a new version comes, the plugin goes. In between nothing of it
//! runs; its mail waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    actor::Actor,
    blueprint::Blueprint,
    ears::Ears,
    job::{Aim, Flight},
    mail::Step,
    perform::Performance,
    runner::{Newborn, blame, describe},
    shared::State,
};
use crate::{
    effects::{Cause, is_output},
    model::{
        ErrorCode, Failure, Filter,
        frame::{Effect, Input, Target},
    },
    store::{Commit, Sequence, StoreError},
    worker::Death,
};

/// The longest pause before a worker is made anew.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A pause this long is worth telling whoever asks anew, instead of letting them wait.
const LONG_PAUSE: Duration = Duration::from_secs(1);
/// A worker that lived this long starts the pauses afresh.
const GOOD_LIFE: Duration = Duration::from_secs(60);

impl Actor {
    /// The worker has died: the call it was running is to blame, the ones behind it are asked again.
    pub(super) async fn bury(&mut self, death: &Death) {
        if let Some(Flight { job, call, began }) = self.flights.pop_front() {
            let failure = blame(self.shared.id(), &describe(&call.target), death);
            let ran = began.elapsed();
            self.shared.stats().ran(ran, 0);
            self.fail(job, failure, ran);
        } else {
            let failure = blame(self.shared.id(), "between two calls it", death);
            tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
            self.shared.failed(&failure);
        }
        self.revive().await;
    }

    /// Ends the worker and makes a fresh one from the source in memory; again and again where the world and
    /// not the plugin is in the way.
    pub(super) async fn revive(&mut self) {
        self.runner = None;
        self.put_back();
        if self.born.elapsed() > GOOD_LIFE {
            self.deaths = 0;
        }
        loop {
            self.deaths += 1;
            // The first time at once; then 0.1 s, 0.2 s, 0.4 s …
            let pause = match self.deaths {
                1 => Duration::ZERO,
                more => Duration::from_millis(25 << more.min(12)).min(MAX_PAUSE),
            };
            if !self.pause(pause).await {
                return;
            }
            match Newborn::start(&self.blueprint, &self.context).await {
                Ok(newborn) => {
                    self.take_over(newborn).await;
                    tracing::info!(plugin = %self.shared.id(), "a plugin has a fresh worker");
                    return;
                }
                Err(failure) if failure.code == ErrorCode::Unavailable => {
                    tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
                }
                Err(failure) => return self.break_down(&failure),
            }
        }
    }

    /// Waits, unless there is an order: then there is no worker to wait for, and what waits is for whoever
    /// comes after it. Where it takes long, whoever asks anew is told that the plugin cannot run now.
    async fn pause(&mut self, pause: Duration) -> bool {
        if self.order.is_none() && !pause.is_zero() {
            if pause >= LONG_PAUSE {
                self.shared.facts().state = State::Loading;
                self.context.registry.changed();
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                order = self.control.recv() => self.order = order,
            }
        }
        self.order.is_none()
    }

    /// Calls that were written and not answered go back to the front of the queue. Handlers are numbered in
    /// the order of their making, so a fresh worker's numbers mean the same as long as they were made at the
    /// top level or in `on_startup`; timers are made anew by the fresh worker itself.
    fn put_back(&mut self) {
        while let Some(Flight { mut job, call, .. }) = self.flights.pop_back() {
            job.input = call.input;
            if !matches!(job.target, Aim::Timer(_)) {
                self.queue.push_front(job);
            }
        }
        self.queue.retain(|job| !matches!(job.target, Aim::Timer(_)));
    }

    /// The plugin cannot run until its file changes or it is told to.
    fn break_down(&mut self, failure: &Failure) {
        self.runner = None;
        let mut facts = self.shared.facts();
        facts.state = State::Error;
        facts.last_error = Some(failure.message.clone());
        drop(facts);
        tracing::error!(plugin = %self.shared.id(), "{}", failure.message);
        self.context.registry.changed();
    }

    /// Makes a started worker the plugin's own: the old one's ears are dropped only after the new one has its
    /// own, so that no subscription lapses in between.
    pub(super) async fn take_over(&mut self, newborn: Newborn) {
        let Newborn { runner, hooks, held } = newborn;
        let id = self.shared.id().clone();
        let old = std::mem::take(&mut self.ears);
        let sequence = runner.sequence.clone();
        let commit = self.context.effects.commit(&id, &held, &sequence).await;
        let bus = self.context.effects.bus();
        if hooks.iter().any(|hook| hook == "on_mqtt") {
            for filter in &self.blueprint.manifest.subscribe {
                self.ears.subscribe(None, filter.clone(), true);
                bus.subscribe(&id, filter, 1, true).await;
            }
        }
        let outputs = self.apply(held).await;
        self.drop_ears(&old).await;
        self.runner = Some(runner);
        self.born = Instant::now();
        self.announce(hooks);
        self.perform_alone(commit, sequence, outputs).await;
    }

    /// Tells the registry that this version serves now.
    fn announce(&self, hooks: Vec<String>) {
        let mut facts = self.shared.facts();
        facts.manifest = self.blueprint.manifest.clone();
        facts.permissions = self.blueprint.rights.permissions().to_vec();
        facts.hooks = hooks.into_iter().collect();
        facts.state = State::Ready;
        drop(facts);
        self.listen();
        self.context.registry.changed();
    }

    async fn drop_ears(&mut self, ears: &Ears) {
        let filters: Vec<&Filter> = ears.filters().collect();
        for filter in filters {
            self.context.effects.bus().unsubscribe(self.shared.id(), filter).await;
        }
    }

    /// Lets a new version take over. On failure nothing has changed.
    pub(super) async fn replace(
        &mut self,
        blueprint: Arc<Blueprint>,
        mut newborn: Newborn,
    ) -> Result<(), Failure> {
        let started = match newborn.runner.refresh(&newborn.held).await {
            Ok(()) => newborn.start_up().await,
            failed => failed,
        };
        if let Err(failure) = started {
            if self.runner.is_none() {
                // The old worker died while the new one was on its way.
                self.revive().await;
            }
            return Err(failure);
        }
        let wrote = self.farewell().await;
        self.blueprint = blueprint;
        self.deaths = 0;
        self.shared.facts().last_error = None;
        self.take_over(newborn).await;
        if wrote && let Some(runner) = &mut self.runner {
            // The new worker has not seen what the old one wrote in leaving; by now all of it is handed to
            // the store, so what is read is what both have left.
            if let Err(failure) = runner.refresh(&[]).await {
                tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
                self.revive().await;
            }
        }
        Ok(())
    }

    /// Calls `on_shutdown` of the worker that leaves. True where it has written something.
    async fn farewell(&mut self) -> bool {
        let wants = self.shared.facts().hooks.contains("on_shutdown");
        let Some(mut runner) = self.runner.take().filter(|_| wants) else { return false };
        let target = Target::Hook("on_shutdown".into());
        match runner.call_alone(target, Input::Nothing).await {
            Ok((_, effects)) => {
                let sequence = runner.sequence.clone();
                let commit = self.context.effects.commit(self.shared.id(), &effects, &sequence).await;
                let wrote = matches!(commit, Ok(Some(_)));
                let outputs = effects.into_iter().filter(is_output).collect();
                self.perform_alone(commit, sequence, outputs).await;
                wrote
            }
            Err(failure) => {
                tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
                false
            }
        }
    }

    pub(super) async fn stop(&mut self) {
        self.shared.facts().state = State::Unloading;
        self.farewell().await;
        self.runner = None;
        let ears = std::mem::take(&mut self.ears);
        self.drop_ears(&ears).await;
        self.mailbox.close();
        let closing = self.context.registry.is_closing();
        while let Some(mail) = self.mailbox.recv().await {
            // Mail of a plugin that goes is done with; mail of a bridge that stops waits for the next one.
            if closing { mail.abandon() } else { self.accept(mail) }
        }
        if closing {
            self.queue.drain(..).for_each(|job| job.cause.abandon());
        }
        self.refuse_queue();
        // What was handed to the performer is done before the plugin counts as stopped.
        let done = self.perform_alone(Ok(None), Sequence::default(), Vec::new()).await;
        let _ = done.await;
    }

    /// Hands over what no message asked for; the receiver hears when it is done.
    async fn perform_alone(
        &mut self,
        commit: Result<Option<Commit>, StoreError>,
        sequence: Sequence,
        outputs: Vec<Effect>,
    ) -> oneshot::Receiver<Step> {
        let (reply, done) = oneshot::channel();
        let (cause, ran) = (Cause::none(), Duration::ZERO);
        let (value, reply, place) = (None, Some(reply), self.performer.place(&outputs).await);
        let performance = Performance { commit, sequence, outputs, cause, value, ran, reply, place };
        self.performer.send(performance).await;
        done
    }
}
