//! A live worker together with what it may ask for while a call runs: requests are answered, log lines
//! written; only ends of calls come out.

use std::{future::Future, io, pin::Pin, sync::Arc};

use super::{blueprint::Blueprint, context::Context, ears::Ears, ledger::Ledger};
use crate::{
    effects::{Cause, LogGate, check_outcome, check_request},
    model::{
        ErrorCode, Failure, PluginId,
        frame::{
            Answer, Call, Done, Effect, HOOKS, Input, Loaded, Operation, Outcome, Refusal, Request, Target,
        },
        shown,
    },
    store::Sequence,
    worker::{Death, Event, Link},
};

/// Bytes of a failure's sentence, of its traceback and of a code of the plugin's own, well above what a worker makes.
const MAX_MESSAGE: usize = 8 * 1024;
const MAX_TRACEBACK: usize = 16 * 1024;
const MAX_CODE: usize = 256;

type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A worker at work.
pub(super) struct Runner {
    pub(super) link: Link,
    answering: Option<Answering>,
    log: LogGate,
    ledger: Ledger,
    /// The commits of this worker: each builds on the ones before.
    pub(super) sequence: Sequence,
    blueprint: Arc<Blueprint>,
    context: Arc<Context>,
}

/// Why a worker did not come up, or did not come back from a call that it ran alone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The world is in the way: the same may go well later.
    #[error(transparent)]
    World(Failure),
    /// The plugin failed in good order; its worker lives.
    #[error(transparent)]
    Plugin(Failure),
    /// The worker was ended, or ended by itself.
    #[error(transparent)]
    Died(Failure),
}

impl Trouble {
    /// What it came to.
    pub(super) fn failure(&self) -> &Failure {
        match self {
            Self::World(failure) | Self::Plugin(failure) | Self::Died(failure) => failure,
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::World(failure) | Trouble::Plugin(failure) | Trouble::Died(failure) => failure,
        }
    }
}

/// A worker that has run its source and not yet taken a message.
pub(super) struct Newborn {
    pub(super) runner: Runner,
    pub(super) hooks: Vec<String>,
    /// What its top level and `on_startup` want done once it takes over.
    pub(super) held: Vec<Effect>,
}

impl Runner {
    /// Starts a worker and runs the source in it.
    pub(super) async fn bring_up(
        blueprint: &Arc<Blueprint>,
        context: &Arc<Context>,
    ) -> Result<Newborn, Trouble> {
        let id = &blueprint.manifest.id;
        let kept = context.effects.store().kept(id).await.map_err(|error| unavailable(id, &error))?;
        let ledger = Ledger::of(&kept);
        let load = blueprint.load(blueprint.snapshot(kept));
        let link = Link::start(&context.spawner, load).await.map_err(|error| cannot_start(id, &error))?;
        // The worker keeps the plugin's own measure and says what it dropped; this gate is for one that does not.
        let log = LogGate::new(id.clone(), blueprint.limits.logs_per_second.saturating_mul(2));
        let (sequence, blueprint, context) = (Sequence::default(), blueprint.clone(), context.clone());
        let mut runner = Self { link, answering: None, log, ledger, sequence, blueprint, context };
        let loaded = runner.loaded().await.map_err(|death| died(id, "the file", &death))?;
        let held = loaded.result.map_err(Trouble::Plugin)?;
        if let Some(hook) = loaded.hooks.iter().find(|hook| !HOOKS.contains(&hook.as_str())) {
            return Err(hostile(runner.id(), &format!("it says it has a hook `{}`", shown(hook, 80))));
        }
        runner.check(&Ears::default(), &held).map_err(|reason| hostile(runner.id(), &reason))?;
        Ok(Newborn { runner, hooks: loaded.hooks, held })
    }

    pub(super) fn id(&self) -> &PluginId {
        &self.blueprint.manifest.id
    }

    /// The next end of a call, in the order of the calls. `running` is why the oldest one runs. Cancel-safe.
    pub(super) async fn done(&mut self, running: &Cause) -> Result<Done, Death> {
        loop {
            if let Some(Event::Done(done)) = self.event(running).await? {
                return Ok(done);
            }
        }
    }

    async fn loaded(&mut self) -> Result<Loaded, Death> {
        loop {
            if let Some(Event::Loaded(loaded)) = self.event(&Cause::none()).await? {
                return Ok(loaded);
            }
        }
    }

    /// One event, or nothing where it was a request or log line, which are dealt with here.
    async fn event(&mut self, running: &Cause) -> Result<Option<Event>, Death> {
        let event = tokio::select! {
            biased;
            answer = answer(&mut self.answering) => {
                self.answering = None;
                if let Err(error) = self.link.answer(answer) {
                    return Err(self.link.end(format!("an answer did not fit: {error}")));
                }
                self.link.event().await?
            }
            event = self.link.event() => event?,
        };
        match event {
            Event::Request(request) => {
                if let Err(reason) = check_request(&self.blueprint.limits, &request.operation) {
                    return Err(self.link.end(format!("it asked for {reason}")));
                }
                self.answering = Some(self.serve(request, running.clone()));
                Ok(None)
            }
            Event::Log(line) => {
                self.log.write(&line);
                Ok(None)
            }
            Event::Done(mut done) => {
                if let Err(reason) = check_outcome(&self.blueprint.limits, &done.outcome) {
                    return Err(self.link.end(format!("it sent {reason}")));
                }
                if let Outcome::Failed(failure) = &mut done.outcome {
                    make_presentable(failure);
                }
                Ok(Some(Event::Done(done)))
            }
            Event::Loaded(mut loaded) => {
                if let Err(failure) = &mut loaded.result {
                    make_presentable(failure);
                }
                Ok(Some(Event::Loaded(loaded)))
            }
        }
    }

    fn serve(&self, request: Request, cause: Cause) -> Answering {
        let (context, blueprint) = (self.context.clone(), self.blueprint.clone());
        Box::pin(async move {
            let (id, rights) = (&blueprint.manifest.id, &blueprint.rights);
            let effects = &context.effects;
            let result = match request.operation {
                Operation::Http(wanted) => effects.fetch(id, rights.permissions(), wanted).await,
                Operation::Sleep(milliseconds) => Ok(effects.sleep(milliseconds).await),
                Operation::Publish(publish) => {
                    effects.publish_now(rights, publish, &counted(&context, id, cause)).await
                }
                Operation::Get(topic) => Ok(effects.last_value(id, &topic)),
                Operation::Command { name, args } => {
                    context.registry.command_from(id, &name, &args, &cause).await.map_err(refusal)
                }
            };
            Answer { number: request.number, result }
        })
    }

    /// One call while no other runs.
    pub(super) async fn call_alone(
        &mut self,
        target: Target,
        input: Input,
    ) -> Result<(Outcome, Vec<Effect>), Trouble> {
        let what = describe(&target);
        let call = Call { number: self.link.next_call(), target, input, cut: None, left: None };
        self.link.call(&call).map_err(|error| hostile(self.id(), &error.to_string()))?;
        let done = self.done(&Cause::none()).await;
        let done = done.map_err(|death| died(self.id(), &what, &death))?;
        self.check(&Ears::default(), &done.effects).map_err(|reason| hostile(self.id(), &reason))?;
        match done.outcome {
            Outcome::Failed(failure) => Err(Trouble::Plugin(failure)),
            outcome => Ok((outcome, done.effects)),
        }
    }

    /// Gives the worker state and configuration as they are now: another worker has written meanwhile. `held` is what
    /// this one wants done and nobody has committed yet.
    pub(super) async fn refresh(&mut self, held: &[Effect]) -> Result<(), Trouble> {
        let kept = self.context.effects.store().kept(self.id()).await;
        let kept = kept.map_err(|error| unavailable(self.id(), &error))?;
        self.ledger = Ledger::of(&kept);
        // Where both together are too much, the worker refuses its plugin the next write; this one was within the quota.
        let _ = self.ledger.enter(held, self.blueprint.limits.state);
        let snapshot = self.blueprint.snapshot(kept);
        self.link.snapshot(snapshot).map_err(|error| hostile(self.id(), &error.to_string()))
    }

    /// The bridge's own look at what a call wants done, on top of the handlers, timers and keys that are there. A
    /// worker that fails here is ended.
    pub(super) fn check(&mut self, ears: &Ears, effects: &[Effect]) -> Result<(), String> {
        let limits = &self.blueprint.limits;
        crate::effects::check(&self.blueprint.rights, limits, effects)?;
        ears.check(effects, limits)?;
        self.ledger.enter(effects, limits.state)
    }
}

impl Newborn {
    /// Brings a worker up and calls its `on_startup`.
    pub(super) async fn start(blueprint: &Arc<Blueprint>, context: &Arc<Context>) -> Result<Self, Trouble> {
        let mut newborn = Runner::bring_up(blueprint, context).await?;
        newborn.start_up().await?;
        Ok(newborn)
    }

    /// Calls `on_startup` on the state as it is now; what it wants done is held.
    pub(super) async fn start_up(&mut self) -> Result<(), Trouble> {
        if !self.hooks.iter().any(|hook| hook == "on_startup") {
            return Ok(());
        }
        let target = Target::Hook("on_startup".into());
        let (_, effects) = self.runner.call_alone(target, Input::Nothing).await?;
        self.held.extend(effects);
        let held = Ears::default().check(&self.held, &self.runner.blueprint.limits);
        held.map_err(|reason| hostile(self.runner.id(), &reason))
    }
}

/// The cause of what is published while the file or `on_startup` runs, which no queue has given a measure.
fn counted(context: &Context, id: &PluginId, cause: Cause) -> Cause {
    match context.registry.get(id.as_str()) {
        Some(shared) => cause.or_unasked(shared.unasked()),
        None => cause,
    }
}

/// A worker has cut its texts and taken control characters out of them; this is for one that has not. They go into
/// logs and envelopes.
fn make_presentable(failure: &mut Failure) {
    let is_good = |text: &str, most: usize, breaks: bool| {
        text.len() <= most && !text.chars().any(|c| c.is_control() && !(breaks && matches!(c, '\n' | '\t')))
    };
    if !is_good(&failure.message, MAX_MESSAGE, false) {
        failure.message = shown(&failure.message, MAX_MESSAGE / 4);
    }
    if !is_good(&failure.traceback, MAX_TRACEBACK, true) {
        failure.traceback = shown(&failure.traceback, MAX_TRACEBACK / 4);
    }
    if let ErrorCode::Plugin(code) = &mut failure.code
        && !is_good(code, MAX_CODE, false)
    {
        *code = shown(code, MAX_CODE / 4);
    }
}

/// Waits for the answer in the making, or for ever where there is none.
async fn answer(answering: &mut Option<Answering>) -> Answer {
    match answering {
        Some(answering) => answering.await,
        None => std::future::pending().await,
    }
}

fn refusal(failure: Failure) -> Refusal {
    match failure.code {
        ErrorCode::InvalidPayload | ErrorCode::RateLimited => Refusal::Mistake(failure.message),
        _ => Refusal::Failure(failure.message),
    }
}

/// What a call is called in errors.
pub(super) fn describe(target: &Target) -> String {
    match target {
        Target::Hook(hook) => hook.clone(),
        Target::Handler(_) => "a handler".into(),
        Target::Timer(_) => "a timer".into(),
    }
}

/// The failure of the call that was running when its worker died.
pub(super) fn blame(id: &PluginId, what: &str, death: &Death) -> Failure {
    let code = match death {
        Death::Overran(_) => ErrorCode::Timeout,
        Death::Exhausted(_) | Death::Taken(_) => ErrorCode::MemoryLimit,
        Death::Ended(_) | Death::Garbage(_) => ErrorCode::HookError,
    };
    Failure::new(code, format!("plugin `{id}`: {what} {death}"))
}

/// The trouble of a worker that ended while it ran alone. Who ended it from outside may let the next one live.
fn died(id: &PluginId, what: &str, death: &Death) -> Trouble {
    let failure = blame(id, what, death);
    match death {
        Death::Taken(_) => Trouble::World(failure),
        Death::Overran(_) | Death::Ended(_) | Death::Exhausted(_) | Death::Garbage(_) => {
            Trouble::Died(failure)
        }
    }
}

fn hostile(id: &PluginId, reason: &str) -> Trouble {
    let text = format!("plugin `{id}`: its worker was ended: {reason}");
    Trouble::Died(Failure::new(ErrorCode::HookError, text))
}

fn unavailable(id: &PluginId, error: &crate::store::StoreError) -> Trouble {
    Trouble::World(Failure::new(ErrorCode::Unavailable, format!("plugin `{id}`: {error}")))
}

fn cannot_start(id: &PluginId, error: &io::Error) -> Trouble {
    let text = format!("plugin `{id}`: no worker could be started: {error}");
    Trouble::World(Failure::new(ErrorCode::Unavailable, text))
}
