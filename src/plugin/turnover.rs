//! When a plugin's worker changes: it died, a new version comes, the plugin goes. In between nothing of it
//! runs; its mail waits.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    actor::{Actor, reply},
    blueprint::Blueprint,
    checkup::is_checkup,
    job::{Aim, Flight, Job},
    mail::Step,
    mailbox::Lane,
    notice::Notice,
    perform::Performance,
    runner::{Newborn, Trouble, blame},
    shared::{LastError, State, trace_line},
};
use crate::{
    effects::{Cause, is_output},
    model::{
        ErrorCode, Failure, PluginId,
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
/// The pause before a worker that the world has put in the wrong is made anew, where the last one is as young as that:
/// short enough that whoever asks meanwhile only waits.
const SHORT_PAUSE: Duration = Duration::from_millis(200);

impl Actor {
    /// The worker has died: the call it was running is to blame, the ones behind it are asked again.
    pub(super) async fn bury(&mut self, death: &Death) {
        if self.flights.is_empty() || self.spares(death) {
            return self.bury_idle(death).await;
        }
        let Some(Flight { job, began, .. }) = self.flights.pop_front() else { return };
        let ran = began.elapsed();
        self.shared.stats().ran(ran, 0);
        self.lost(job, death, ran).await;
    }

    /// Whether the oldest call gets another worker instead of the blame. Who is ended from outside may not even have
    /// begun with it, and where nothing was heard of it, it has done nothing yet. Once: it may be to blame after all.
    fn spares(&mut self, death: &Death) -> bool {
        let heard = self.runner.as_ref().is_none_or(|runner| runner.link.has_been_heard());
        let spares = matches!(death, Death::Taken(_)) && !heard && !self.has_spared;
        self.has_spared |= spares;
        spares
    }

    /// Nothing of the plugin is known to have run when its worker ended.
    async fn bury_idle(&mut self, death: &Death) {
        let failure = blame(self.shared.id(), "while no call ran, it", death);
        tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
        self.shared.facts().last_error = Some(LastError::of(&failure));
        self.count(death, &failure).await;
    }

    /// Counts an ended worker against its plugin. One that was ended from outside is not to blame: a plugin that eats
    /// the machine's memory must not have others switched off.
    async fn count(&mut self, death: &Death, failure: &Failure) {
        match death {
            Death::Taken(_) => {
                self.shared.stats().killed();
                self.revive();
            }
            Death::Overran(_) | Death::Ended(_) | Death::Exhausted(_) | Death::Garbage(_) => {
                self.strike(failure).await;
            }
        }
    }

    /// Tells the breaker of a call that came back in time.
    pub(super) fn came_back(&mut self, aim: Aim) {
        // A plugin that says that it is well need not be: what it is asked for decides.
        match is_checkup(aim) {
            true => self.breaker.untried(Instant::now()),
            false => self.breaker.went_well(),
        }
    }

    /// Tells the breaker of a call that did not come back.
    pub(super) fn broke(&mut self) {
        if self.breaker.failed(Instant::now()) {
            let (plugin, failures) = (self.shared.id(), self.breaker.row());
            tracing::warn!(%plugin, failures, "a plugin is left alone for a while: its breaker is open");
        }
    }

    /// A call has cost the plugin its worker.
    pub(super) async fn lost(&mut self, job: Job, death: &Death, ran: Duration) {
        let failure = blame(self.shared.id(), &self.name(job.target), death);
        self.broke();
        self.fail(job, failure.clone(), ran);
        self.count(death, &failure).await;
    }

    /// Counts an ended worker; after too many the plugin is switched off, else a fresh one is made.
    async fn strike(&mut self, failure: &Failure) {
        self.shared.stats().killed();
        if !self.strikes.add(Instant::now()) {
            return self.revive();
        }
        let (id, settings) = (self.shared.id().clone(), self.context.settings.breaker);
        let text = format!(
            "plugin `{id}` is switched off: its worker had to be ended {} times within {} s (breaker.kills), the \
             last time: {}; change its file, or ask `bridge/request/plugin/reload`",
            settings.kills,
            settings.kills_within.as_secs(),
            failure.message
        );
        let why = Failure { message: text, ..failure.clone() };
        self.put_away(State::Disabled, &why).await;
        self.context.notice(Notice::disabled(&id, &why.message));
    }

    /// Ends the worker and makes a fresh one from the source in memory, each after a longer pause.
    pub(super) fn revive(&mut self) {
        if self.born.elapsed() > GOOD_LIFE {
            self.attempts = 0;
        }
        self.attempts += 1;
        // The first time at once; then 0.1 s, 0.2 s, 0.4 s …
        let pause = match self.attempts {
            1 => Duration::ZERO,
            more => Duration::from_millis(25 << more.min(12)).min(MAX_PAUSE),
        };
        self.make_anew(pause);
    }

    /// The same for a worker that has done nothing wrong and believes what never happened: a pause would help nobody.
    pub(super) fn revive_soon(&mut self) {
        let lived = self.born.elapsed();
        self.make_anew(if lived > SHORT_PAUSE { Duration::ZERO } else { SHORT_PAUSE });
    }

    /// What waits meanwhile is for the fresh worker.
    fn make_anew(&mut self, pause: Duration) {
        self.runner = None;
        self.put_back();
        self.resting = pause >= LONG_PAUSE;
        if self.resting {
            self.shared.facts().state = State::Loading;
            self.context.registry.changed();
        }
        let (blueprint, context) = (self.blueprint.clone(), self.context.clone());
        self.coming = Some(Box::pin(async move {
            tokio::time::sleep(pause).await;
            Newborn::start(&blueprint, &context).await.map(Box::new)
        }));
    }

    /// Takes what came of making a fresh worker; again and again where the world and not the plugin is in the
    /// way.
    pub(super) async fn settle(&mut self, born: Result<Box<Newborn>, Trouble>) {
        let served = match born {
            Ok(newborn) => self.take_over(*newborn).await,
            Err(trouble) => Err(trouble),
        };
        match served {
            Ok(()) => {
                self.shared.stats().restarted();
                tracing::info!(plugin = %self.shared.id(), "a plugin has a fresh worker");
            }
            Err(Trouble::World(failure)) => {
                tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
                self.shared.facts().last_error = Some(LastError::of(&failure));
                self.revive();
            }
            Err(Trouble::Plugin(failure)) => {
                self.shared.stats().failed(&failure.code);
                self.put_away(State::Error, &failure).await;
            }
            Err(Trouble::Died(failure)) => {
                tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
                self.shared.failed(&failure);
                self.strike(&failure).await;
            }
        }
    }

    /// Calls that were written and not answered go back to the front of the queue.
    fn put_back(&mut self) {
        self.breaker.untried(Instant::now());
        while let Some(Flight { mut job, call, .. }) = self.flights.pop_back() {
            job.input = call.input;
            self.queue.push_front(job);
        }
    }

    /// Lets what waits be for the worker that serves now: calls of a handler for the one that listens to the same,
    /// if there is one. Timers it has made itself.
    fn aim_anew(&mut self) {
        for mut job in std::mem::take(&mut self.queue) {
            job.target = match (job.target, &job.ear) {
                (Aim::Timer(_), _) => continue,
                (Aim::Handler(number), Some(ear)) => match self.ears.find(number, ear) {
                    Some(number) => Aim::Handler(number),
                    None => {
                        reply(job, Ok(None), Duration::ZERO);
                        continue;
                    }
                },
                (target, _) => target,
            };
            self.queue.push_back(job);
        }
    }

    /// The plugin cannot run until its file changes or it is told to. Nothing is sent to it any more.
    async fn put_away(&mut self, state: State, failure: &Failure) {
        (self.runner, self.coming, self.resting) = (None, None, false);
        self.put_back();
        let ears = std::mem::take(&mut self.ears);
        self.listen();
        {
            let mut facts = self.shared.facts();
            facts.state = state;
            facts.last_error = Some(LastError::of(failure));
        }
        let (id, traceback) = (self.shared.id(), trace_line(failure));
        tracing::error!(plugin = %id, traceback = traceback.as_deref(), "{}", failure.message);
        self.context.registry.changed();
        self.drop_ears(&ears).await;
    }

    /// Makes a started worker the plugin's own: the old one's ears are dropped only after the new one has its
    /// own, so that no subscription lapses in between. One whose start could not be kept has not started.
    pub(super) async fn take_over(&mut self, newborn: Newborn) -> Result<(), Trouble> {
        let Newborn { runner, hooks, held } = newborn;
        let id = self.shared.id().clone();
        let sequence = runner.sequence.clone();
        let kept = match self.context.effects.commit(&id, &held, &sequence).await {
            Ok(Some(commit)) => commit.durable().await,
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        kept.map_err(|error| unkept(&id, &error))?;
        let old = std::mem::take(&mut self.ears);
        let bus = self.context.effects.bus();
        if hooks.iter().any(|hook| hook == "on_mqtt") {
            for filter in &self.blueprint.manifest.subscribe {
                self.ears.subscribe(None, filter.clone(), true);
                bus.subscribe(&id, filter, 1, true).await;
            }
        }
        let outputs = self.apply(held).await;
        self.drop_ears(&old).await;
        self.aim_anew();
        (self.runner, self.coming, self.resting) = (Some(runner), None, false);
        self.born = Instant::now();
        self.checkup.begin(&hooks);
        if self.checkup.due().is_none() {
            self.shared.stats().set_condition(None);
        }
        self.announce(hooks);
        if !outputs.is_empty() {
            self.perform_alone(Ok(None), sequence, outputs).await;
        }
        Ok(())
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

    /// Lets a new version take over. On failure nothing has changed.
    pub(super) async fn replace(
        &mut self,
        blueprint: Arc<Blueprint>,
        mut newborn: Newborn,
    ) -> Result<(), Trouble> {
        let started = match newborn.runner.refresh(&newborn.held).await {
            Ok(()) => newborn.start_up().await,
            failed => failed,
        };
        started?;
        let wrote = self.farewell().await;
        self.blueprint = blueprint;
        self.attempts = 0;
        self.strikes.clear();
        self.breaker.reset();
        self.shared.facts().last_error = None;
        if let Err(trouble) = self.take_over(newborn).await {
            // The old one has left: the new one is tried until it can stay.
            self.settle(Err(trouble)).await;
            return Ok(());
        }
        if wrote && let Some(runner) = &mut self.runner {
            // The new worker has not seen what the old one wrote in leaving; by now all of it is handed to
            // the store, so what is read is what both have left.
            if let Err(trouble) = runner.refresh(&[]).await {
                tracing::warn!(plugin = %self.shared.id(), "{trouble}");
                self.revive();
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
            Err(trouble) => {
                tracing::warn!(plugin = %self.shared.id(), "{trouble}");
                false
            }
        }
    }

    pub(super) async fn stop(&mut self) {
        self.shared.facts().state = State::Unloading;
        self.farewell().await;
        (self.runner, self.coming) = (None, None);
        let ears = std::mem::take(&mut self.ears);
        self.drop_ears(&ears).await;
        self.mailbox.close();
        let closing = self.context.registry.is_closing();
        while let Some(mail) = self.mailbox.recv(Lane::Both).await {
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
        let (cause, ran) = (Cause::none().or_unasked(self.shared.unasked()), Duration::ZERO);
        let (value, reply, place) = (None, Some(reply), self.performer.place(&outputs).await);
        let performance = Performance { commit, sequence, outputs, cause, value, ran, reply, place };
        self.performer.send(performance).await;
        done
    }
}

/// What a worker's start wanted could not be kept.
fn unkept(id: &PluginId, error: &StoreError) -> Trouble {
    let text = format!("plugin `{id}`: what its start changes cannot be kept: {error}");
    Trouble::World(Failure::new(ErrorCode::Unavailable, text))
}
