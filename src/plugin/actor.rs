//! One plugin at work: takes its mail one by one, keeps its worker busy, replaces it when it dies or when a
//! new version comes. Everything a plugin does to the world starts here, and nothing of it blocks another.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    blueprint::Blueprint,
    context::Context,
    ears::Ears,
    mail::{Heard, Mail, Step},
    perform::{self, Performance},
    runner::{Newborn, Runner, blame, describe},
    shared::{Shared, State},
};
use crate::{
    effects::Cause,
    model::{
        ErrorCode, Failure, Filter,
        frame::{Call, Done, Effect, Input, Outcome, Target},
    },
    worker::Death,
};

/// The longest pause before a worker is made anew.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A worker that lived this long starts the pauses afresh.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// Orders that go before any mail.
pub(super) enum Control {
    /// Let this version take over, between two messages.
    Replace { blueprint: Arc<Blueprint>, newborn: Box<Newborn>, reply: oneshot::Sender<Result<(), Failure>> },
    /// End what runs, call `on_shutdown`, end.
    Stop { reply: oneshot::Sender<()> },
}

impl std::fmt::Debug for Control {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Replace { .. } => "Replace",
            Self::Stop { .. } => "Stop",
        })
    }
}

/// A call to be made.
struct Job {
    target: Aim,
    input: Input,
    cause: Cause,
    reply: Option<oneshot::Sender<Step>>,
}

/// What a job calls. Handlers are found by what they listen to when a fresh worker must be asked again.
#[derive(Clone)]
enum Aim {
    Hook(&'static str),
    Handler(u64),
    Timer(u64),
}

/// A call that was written and not yet answered.
struct Flight {
    job: Job,
    call: Call,
    began: Instant,
}

pub(super) struct Actor {
    context: Arc<Context>,
    shared: Shared,
    blueprint: Arc<Blueprint>,
    mailbox: mpsc::Receiver<Mail>,
    control: mpsc::Receiver<Control>,
    /// Nothing while the plugin cannot run.
    runner: Option<Runner>,
    born: Instant,
    free_since: Instant,
    deaths: u32,
    queue: VecDeque<Job>,
    flights: VecDeque<Flight>,
    ears: Ears,
    performer: mpsc::Sender<Performance>,
    undone: Arc<Notify>,
    order: Option<Control>,
}

/// What the loop woke up for.
enum Turn {
    Order(Control),
    Done(Done),
    Died(Death),
    Mail(Mail),
    Timers,
    Undone,
    Closed,
}

impl Actor {
    /// Takes over a worker that was brought up and started, commits what it holds and serves from now on.
    pub(super) async fn start(
        context: Arc<Context>,
        shared: Shared,
        blueprint: Arc<Blueprint>,
        mailbox: mpsc::Receiver<Mail>,
        control: mpsc::Receiver<Control>,
        newborn: Newborn,
    ) {
        let undone = Arc::new(Notify::new());
        let performer = perform::start(shared.id().clone(), context.clone(), undone.clone());
        let mut actor = Self {
            context,
            shared,
            blueprint,
            mailbox,
            control,
            runner: None,
            born: Instant::now(),
            free_since: Instant::now(),
            deaths: 0,
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            ears: Ears::default(),
            performer,
            undone,
            order: None,
        };
        actor.take_over(newborn).await;
        tokio::spawn(actor.run());
    }

    async fn run(mut self) {
        loop {
            self.write_ahead();
            if self.idle() {
                match self.order.take() {
                    Some(Control::Replace { blueprint, newborn, reply }) => {
                        let _ = reply.send(self.replace(blueprint, *newborn).await);
                        continue;
                    }
                    Some(Control::Stop { reply }) => {
                        self.stop().await;
                        let _ = reply.send(());
                        return;
                    }
                    None => {}
                }
            }
            match self.turn().await {
                Turn::Order(order) => self.order = Some(order),
                Turn::Done(done) => self.finish(done).await,
                Turn::Died(death) => self.bury(&death).await,
                Turn::Mail(mail) => self.accept(mail),
                Turn::Timers => self.fire(),
                Turn::Undone => self.revive().await,
                Turn::Closed => return,
            }
        }
    }

    fn idle(&self) -> bool {
        self.flights.is_empty() && self.queue.is_empty()
    }

    async fn turn(&mut self) -> Turn {
        let none = Cause::none();
        let running = self.flights.front().map_or(&none, |flight| &flight.job.cause);
        let taking = self.order.is_none();
        let room = self.queue.is_empty() && self.runner.as_ref().is_none_or(|runner| runner.link.has_room());
        let timer = self.ears.next_timer();
        tokio::select! {
            biased;
            order = self.control.recv(), if taking => order.map_or(Turn::Closed, Turn::Order),
            () = self.undone.notified() => Turn::Undone,
            done = done(&mut self.runner, running) => match done {
                Ok(done) => Turn::Done(done),
                Err(death) => Turn::Died(death),
            },
            () = until(timer), if taking && room => Turn::Timers,
            mail = self.mailbox.recv(), if taking && room => mail.map_or(Turn::Closed, Turn::Mail),
        }
    }

    /// Turns a piece of mail into jobs.
    fn accept(&mut self, mail: Mail) {
        match mail {
            Mail::Hook { hook, input, cause, reply } => {
                self.queue.push_back(Job { target: Aim::Hook(hook), input, cause, reply: Some(reply) });
            }
            Mail::Event { event, cause, reply } => {
                let handlers = self.ears.hear(&event.info);
                let input = || Input::Event { data: event.data.clone(), event: event.info.clone() };
                let steps = handlers.into_iter().map(|handler| {
                    let (step, answer) = oneshot::channel();
                    let target = Aim::Handler(handler);
                    self.queue.push_back(Job {
                        target,
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
                    let target = handler.map_or(Aim::Hook("on_mqtt"), Aim::Handler);
                    let input = Input::Message(Box::new((*message).clone()));
                    self.queue.push_back(Job { target, input, cause: cause.clone(), reply: None });
                }
            }
        }
    }

    fn fire(&mut self) {
        for timer in self.ears.fire(Instant::now()) {
            let (target, input) = (Aim::Timer(timer), Input::Nothing);
            self.queue.push_back(Job { target, input, cause: Cause::none(), reply: None });
        }
    }

    /// Writes jobs to the worker, as many as it has room for.
    fn write_ahead(&mut self) {
        while !self.queue.is_empty() {
            let Some(runner) = &mut self.runner else {
                self.refuse_queue();
                return;
            };
            if !runner.link.has_room() {
                return;
            }
            let Some(mut job) = self.queue.pop_front() else { return };
            let target = match job.target {
                Aim::Hook(hook) => Target::Hook(hook.into()),
                Aim::Handler(handler) => Target::Handler(handler),
                Aim::Timer(timer) => Target::Timer(timer),
            };
            let input = std::mem::replace(&mut job.input, Input::Nothing);
            let call = Call { number: runner.link.next_call(), target, input };
            match runner.link.call(&call) {
                Ok(()) => self.flights.push_back(Flight { job, call, began: Instant::now() }),
                Err(error) => {
                    let text = format!("plugin `{}`: the message does not fit: {error}", self.shared.id());
                    self.fail(job, Failure::new(ErrorCode::TooLarge, text), Duration::ZERO);
                }
            }
        }
    }

    /// A plugin that cannot run says so to whoever asks it.
    fn refuse_queue(&mut self) {
        let id = self.shared.id().clone();
        let why = self.shared.facts().last_error.clone().unwrap_or_default();
        while let Some(job) = self.queue.pop_front() {
            let text = format!("plugin `{id}` cannot run now: {why}");
            if let Some(reply) = job.reply {
                let outcome = Err(Failure::new(ErrorCode::Unavailable, text));
                let _ = reply.send(Step { outcome, ran: Duration::ZERO });
            }
        }
    }

    /// The oldest call has ended.
    async fn finish(&mut self, done: Done) {
        let Some(flight) = self.flights.pop_front() else { return };
        let ran = self.time_of(&flight);
        let Flight { job, .. } = flight;
        if let Aim::Timer(timer) = job.target {
            self.ears.fired(timer);
        }
        self.shared.stats().ran(ran, done.memory);
        let value = match done.outcome {
            Outcome::Missing | Outcome::Nothing => None,
            Outcome::Value(value) => Some(value),
            Outcome::Failed(failure) => {
                let exhausted = failure.code == ErrorCode::MemoryLimit;
                self.fail(job, failure, ran);
                if exhausted {
                    self.revive().await;
                }
                return;
            }
        };
        match self.check(&done.effects, &job.cause) {
            Ok(()) => self.perform(done.effects, job, value, ran).await,
            Err(Blame::Plugin(failure)) => {
                self.fail(job, failure, ran);
                // Its worker believes that its writes happened.
                self.revive().await;
            }
            Err(Blame::Worker(reason)) => {
                let death = Death::Garbage(reason);
                let failure = blame(self.shared.id(), &describe_aim(&job.target), &death);
                self.fail(job, failure, ran);
                self.revive().await;
            }
        }
    }

    fn check(&self, effects: &[Effect], cause: &Cause) -> Result<(), Blame> {
        if effects.is_empty() {
            return Ok(());
        }
        if let Some(runner) = &self.runner {
            runner.check(effects).map_err(Blame::Worker)?;
        }
        let outputs = effects.iter().filter(|effect| crate::effects::is_output(effect)).count();
        cause.spend(outputs).map_err(|reason| {
            let text = format!("plugin `{}`: {reason}", self.shared.id());
            Blame::Plugin(Failure::new(ErrorCode::RateLimited, text))
        })
    }

    /// Takes what a call wants done apart: writes to the store, handlers and timers here, the rest to the
    /// performer.
    async fn perform(
        &mut self,
        effects: Vec<Effect>,
        job: Job,
        value: Option<Box<serde_json::value::RawValue>>,
        ran: Duration,
    ) {
        if effects.is_empty() {
            if let Some(reply) = job.reply {
                let _ = reply.send(Step { outcome: Ok(value), ran });
            }
            return;
        }
        let commit = self.context.effects.commit(self.shared.id(), &effects).await;
        let outputs = self.apply(effects).await;
        let performance = Performance { commit, outputs, cause: job.cause, value, ran, reply: job.reply };
        // The performer lives as long as this sender.
        let _ = self.performer.send(performance).await;
    }

    /// Applies what changes this plugin's own ears; gives back what leaves the bridge.
    async fn apply(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut outputs = Vec::new();
        let mut heard_something = false;
        for effect in effects {
            match effect {
                Effect::On { handler, pattern, priority, once } => {
                    self.ears.on(handler, pattern, priority, once);
                    heard_something = true;
                }
                Effect::Subscribe { handler, filter, qos, retained } => {
                    self.ears.subscribe(Some(handler), filter.clone(), retained);
                    self.context.effects.bus().subscribe(self.shared.id(), &filter, qos, retained).await;
                    heard_something = true;
                }
                Effect::Off { handler } => {
                    if let Some(filter) = self.ears.off(handler) {
                        self.context.effects.bus().unsubscribe(self.shared.id(), &filter).await;
                    }
                    heard_something = true;
                }
                Effect::Timer { timer, delay_ms, repeat } => {
                    self.ears.set_timer(timer, Duration::from_millis(delay_ms), repeat);
                }
                Effect::CancelTimer { timer } => self.ears.cancel_timer(timer),
                Effect::State { .. } | Effect::Config { .. } => {}
                output @ (Effect::Emit { .. } | Effect::Publish(_) | Effect::Say(_)) => outputs.push(output),
            }
        }
        if heard_something {
            self.listen();
        }
        outputs
    }

    /// Tells the registry what this plugin listens to now.
    fn listen(&self) {
        let mut facts = self.shared.facts();
        facts.patterns = self.ears.patterns();
        facts.filters = self.ears.filters().cloned().collect();
    }

    fn fail(&self, job: Job, failure: Failure, ran: Duration) {
        let (id, what) = (self.shared.id(), describe_aim(&job.target));
        tracing::warn!(plugin = %id, hook = what, code = %failure.code, "{}", failure.message);
        self.shared.failed(&failure);
        if let Some(reply) = job.reply {
            let _ = reply.send(Step { outcome: Err(failure), ran });
        }
    }

    /// A call that was written ahead begins when the one before it has ended.
    fn time_of(&mut self, flight: &Flight) -> Duration {
        let (now, free_since) = (Instant::now(), self.free_since);
        self.free_since = now;
        now.duration_since(flight.began.max(free_since))
    }

    /// The worker has died: the call it was running is to blame, the ones behind it are asked again.
    async fn bury(&mut self, death: &Death) {
        if let Some(Flight { job, call, began }) = self.flights.pop_front() {
            let failure = blame(self.shared.id(), &describe(&call.target), death);
            self.fail(job, failure, began.elapsed());
        } else {
            let (id, reason) = (self.shared.id(), death.to_string());
            tracing::warn!(plugin = %id, reason, "a plugin's worker has ended");
        }
        self.revive().await;
    }

    /// Ends the worker and makes a fresh one from the source in memory.
    async fn revive(&mut self) {
        self.runner = None;
        self.put_back();
        if self.born.elapsed() > GOOD_LIFE {
            self.deaths = 0;
        }
        self.deaths += 1;
        // The first time at once; then 0.1 s, 0.2 s, 0.4 s …
        let pause = match self.deaths {
            1 => Duration::ZERO,
            more => Duration::from_millis(50 << more.min(12)).min(MAX_PAUSE),
        };
        if !self.pause(pause).await {
            return;
        }
        match self.fresh().await {
            Ok(newborn) => {
                self.take_over(newborn).await;
                tracing::info!(plugin = %self.shared.id(), "a plugin has a fresh worker");
            }
            Err(failure) => self.break_down(&failure),
        }
    }

    /// Waits, unless an order comes first.
    async fn pause(&mut self, pause: Duration) -> bool {
        if pause.is_zero() {
            return true;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            order = self.control.recv(), if self.order.is_none() => {
                self.order = order;
                self.break_down(&Failure::new(ErrorCode::Unavailable, "its worker was being restarted"));
                false
            }
        }
    }

    async fn fresh(&mut self) -> Result<Newborn, Failure> {
        let mut newborn = Runner::bring_up(&self.blueprint, &self.context).await?;
        newborn.start_up().await?;
        Ok(newborn)
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
    async fn take_over(&mut self, newborn: Newborn) {
        let Newborn { runner, hooks, held } = newborn;
        let id = self.shared.id().clone();
        let old = std::mem::take(&mut self.ears);
        let commit = self.context.effects.commit(&id, &held).await;
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
        let (cause, ran) = (Cause::none(), Duration::ZERO);
        let performance = Performance { commit, outputs, cause, value: None, ran, reply: None };
        let _ = self.performer.send(performance).await;
    }

    /// Tells the registry that this version serves now.
    fn announce(&self, hooks: Vec<String>) {
        let mut facts = self.shared.facts();
        facts.manifest = self.blueprint.manifest.clone();
        facts.permissions.clone_from(&self.blueprint.permissions);
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
    async fn replace(&mut self, blueprint: Arc<Blueprint>, mut newborn: Newborn) -> Result<(), Failure> {
        newborn.refresh().await?;
        newborn.start_up().await?;
        if self.farewell().await {
            newborn.refresh().await?;
        }
        self.blueprint = blueprint;
        self.deaths = 0;
        self.shared.facts().last_error = None;
        self.take_over(newborn).await;
        Ok(())
    }

    /// Calls `on_shutdown` of the worker that leaves. True where it has written something.
    async fn farewell(&mut self) -> bool {
        let wants = self.shared.facts().hooks.contains("on_shutdown");
        let Some(mut runner) = self.runner.take().filter(|_| wants) else { return false };
        let target = Target::Hook("on_shutdown".into());
        match runner.call_alone(target, Input::Nothing).await {
            Ok((_, effects)) => {
                let commit = self.context.effects.commit(self.shared.id(), &effects).await;
                let wrote = matches!(commit, Ok(Some(_)));
                let outputs = effects.into_iter().filter(crate::effects::is_output).collect();
                let (cause, ran) = (Cause::none(), Duration::ZERO);
                let performance = Performance { commit, outputs, cause, value: None, ran, reply: None };
                let _ = self.performer.send(performance).await;
                wrote
            }
            Err(failure) => {
                tracing::warn!(plugin = %self.shared.id(), "{}", failure.message);
                false
            }
        }
    }

    async fn stop(&mut self) {
        self.shared.facts().state = State::Unloading;
        self.farewell().await;
        self.runner = None;
        let ears = std::mem::take(&mut self.ears);
        self.drop_ears(&ears).await;
        self.mailbox.close();
        while let Some(mail) = self.mailbox.recv().await {
            self.accept(mail);
        }
        self.refuse_queue();
        // What was handed to the performer is done before the plugin counts as stopped.
        let (flushed, done) = oneshot::channel();
        let (cause, ran) = (Cause::none(), Duration::ZERO);
        let last = Performance {
            commit: Ok(None),
            outputs: Vec::new(),
            cause,
            value: None,
            ran,
            reply: Some(flushed),
        };
        if self.performer.send(last).await.is_ok() {
            let _ = done.await;
        }
    }
}

/// Whose fault it is.
enum Blame {
    Plugin(Failure),
    Worker(String),
}

fn describe_aim(aim: &Aim) -> String {
    match aim {
        Aim::Hook(hook) => (*hook).into(),
        Aim::Handler(_) => "a handler".into(),
        Aim::Timer(_) => "a timer".into(),
    }
}

/// The end of the oldest call; never where there is no worker.
async fn done(runner: &mut Option<Runner>, running: &Cause) -> Result<Done, Death> {
    match runner {
        Some(runner) => runner.done(running).await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
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
