//! One plugin at work: takes its mail one by one, keeps its worker busy, replaces it when it dies or when a
//! new version comes. Everything a plugin does to the world starts here, and nothing of it blocks another.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    blueprint::Blueprint,
    breaker::{Breaker, Phase, Strikes, Verdict},
    checkup::{Checkup, is_answer},
    context::Context,
    ears::Ears,
    job::{Aim, Flight, Job},
    mail::{Mail, Step},
    mailbox::Inbox,
    perform::Performer,
    runner::{Newborn, Runner, Trouble, describe},
    shared::{Shared, trace_line},
};
use crate::{
    effects::{Budget, Cause, Hush},
    model::{
        ErrorCode, Failure,
        frame::{Call, Done, Input},
    },
    worker::Death,
};

/// Orders that go before any mail.
pub(super) enum Control {
    /// Let this version take over, between two messages.
    Replace { blueprint: Arc<Blueprint>, newborn: Box<Newborn>, reply: oneshot::Sender<Result<(), Trouble>> },
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

/// One plugin's task; `turnover` has what happens when its worker changes.
pub(super) struct Actor {
    pub(super) context: Arc<Context>,
    pub(super) shared: Shared,
    pub(super) blueprint: Arc<Blueprint>,
    pub(super) mailbox: Inbox,
    pub(super) control: mpsc::Receiver<Control>,
    /// Nothing while the plugin cannot run.
    pub(super) runner: Option<Runner>,
    /// The worker that takes over next, in the making while there is none.
    pub(super) coming: Option<Coming>,
    /// Whether that one is waited for so long that whoever asks is told.
    pub(super) resting: bool,
    pub(super) born: Instant,
    pub(super) free_since: Instant,
    /// Workers made since one lived well: each waits longer than the one before.
    pub(super) attempts: u32,
    /// Whether a call was given another worker since one came back.
    pub(super) has_spared: bool,
    pub(super) breaker: Breaker,
    pub(super) strikes: Strikes,
    pub(super) checkup: Checkup,
    pub(super) queue: VecDeque<Job>,
    pub(super) flights: VecDeque<Flight>,
    pub(super) ears: Ears,
    pub(super) performer: Performer,
    pub(super) hush: Hush,
    pub(super) undone: Arc<Notify>,
    pub(super) order: Option<Control>,
    /// Whether the last call took next to no time.
    pub(super) is_quick: bool,
    /// Whether a timer came last: then mail that waits comes first, so that neither starves the other.
    pub(super) after_timer: bool,
}

/// A call that is shorter than this gains by being written ahead: it may well be the machine that is slow.
const QUICK: Duration = Duration::from_millis(20);

/// A worker in the making.
pub(super) type Coming = Pin<Box<dyn Future<Output = Result<Box<Newborn>, Trouble>> + Send>>;

/// What the loop woke up for.
enum Turn {
    Order(Control),
    Born(Result<Box<Newborn>, Trouble>),
    Done(Done),
    Died(Death),
    Mail(Mail),
    Timers,
    CheckUp,
    Undone,
    Room,
    Tell,
    Closed,
}

impl Actor {
    /// Takes over a worker that was brought up and started, commits what it holds and serves from now on.
    ///
    /// # Errors
    /// When that could not be kept.
    pub(super) async fn start(
        context: Arc<Context>,
        shared: Shared,
        blueprint: Arc<Blueprint>,
        mailbox: Inbox,
        control: mpsc::Receiver<Control>,
        newborn: Newborn,
    ) -> Result<(), Trouble> {
        let undone = Arc::new(Notify::new());
        let breaker = context.settings.breaker;
        let checkup = Checkup::new(context.settings.health_interval);
        let performer = Performer::start(shared.clone(), context.clone(), undone.clone());
        let mut actor = Self {
            context,
            shared,
            blueprint,
            mailbox,
            control,
            runner: None,
            coming: None,
            resting: false,
            born: Instant::now(),
            free_since: Instant::now(),
            attempts: 0,
            has_spared: false,
            breaker: Breaker::new(breaker),
            strikes: Strikes::new(breaker),
            checkup,
            queue: VecDeque::new(),
            flights: VecDeque::new(),
            ears: Ears::default(),
            performer,
            hush: Hush::default(),
            undone,
            order: None,
            is_quick: false,
            after_timer: false,
        };
        actor.take_over(newborn).await?;
        tokio::spawn(actor.run());
        Ok(())
    }

    async fn run(mut self) {
        loop {
            self.write_ahead();
            self.shared.stats().set_breaker(self.breaker.phase());
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
                Turn::Born(born) => self.settle(born).await,
                Turn::Mail(mail) => {
                    self.after_timer = false;
                    self.accept(mail);
                }
                Turn::Timers => {
                    self.after_timer = true;
                    self.fire();
                }
                Turn::CheckUp => self.check_up(),
                Turn::Undone => self.start_over(),
                Turn::Room => {}
                Turn::Tell => self.tell(),
                Turn::Closed => return,
            }
        }
    }

    /// Whether nothing runs, so that an order can be carried out; what waits has time until then.
    fn idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Whether there is a worker that takes another call, and the performer takes what may come of it: nothing
    /// here waits for either, so that an order is always heard.
    fn has_room(&self) -> bool {
        // Calls are written ahead to save the way through the pipe. What takes long saves nothing by it, and would keep
        // an order or a message waiting for all that was written.
        let ahead = self.is_quick || self.flights.len() < 2;
        let takes = self.runner.as_ref().is_some_and(|runner| runner.link.has_room());
        ahead && takes && self.performer.capacity() > self.flights.len()
    }

    async fn turn(&mut self) -> Turn {
        let none = Cause::none();
        let running = self.flights.front().map_or(&none, |flight| &flight.job.cause);
        let taking = self.order.is_none();
        let room = self.queue.is_empty() && self.has_room();
        let now = Instant::now();
        let (refusing, lane) = (self.is_refusing(now), self.lane(now));
        let blocked = self.flights.is_empty() && self.performer.capacity() == 0;
        let timer = self.ears.next_timer().and_then(|due| self.breaker.not_before(due));
        let timers = taking && room && (!self.after_timer || self.mailbox.is_empty());
        let checkup = self.checkup.due().filter(|_| self.breaker.phase() == Phase::Closed);
        let told = self.hush.due();
        tokio::select! {
            biased;
            order = self.control.recv(), if taking => order.map_or(Turn::Closed, Turn::Order),
            () = self.undone.notified() => Turn::Undone,
            done = done(&mut self.runner, running) => match done {
                Ok(done) => Turn::Done(done),
                Err(death) => Turn::Died(death),
            },
            born = born(&mut self.coming), if !blocked => Turn::Born(born),
            () = self.performer.has_capacity(), if blocked => Turn::Room,
            () = until(told) => Turn::Tell,
            () = until(timer), if timers => Turn::Timers,
            () = until(checkup), if taking && room => Turn::CheckUp,
            mail = self.mailbox.recv(lane), if taking && (room || refusing) => mail.map_or(Turn::Closed, Turn::Mail),
        }
    }

    /// Writes jobs to the worker, as many as it has room for.
    fn write_ahead(&mut self) {
        if self.order.is_some() {
            // What waits is for whoever comes after it.
            return;
        }
        if self.is_down() {
            self.refuse_queue();
        }
        while !self.queue.is_empty() && self.has_room() {
            match self.breaker.admit(!self.flights.is_empty(), Instant::now()) {
                Verdict::Go => self.write_next(),
                Verdict::Wait => break,
                Verdict::Refuse => self.refuse_queue(),
            }
        }
    }

    fn write_next(&mut self) {
        let (Some(runner), Some(mut job)) = (&mut self.runner, self.queue.pop_front()) else { return };
        if job.is_given_up() {
            self.breaker.untried(Instant::now());
            return;
        }
        let target = job.target.target();
        let input = std::mem::replace(&mut job.input, Input::Nothing);
        let cut = job.cause.cut(self.shared.id());
        let left = job.cause.budget().map(Budget::left);
        let call = Call { number: runner.link.next_call(), target, input, cut, left };
        match runner.link.call(&call) {
            Ok(()) => self.flights.push_back(Flight { job, call, began: Instant::now() }),
            Err(error) => {
                self.breaker.untried(Instant::now());
                let text = format!("plugin `{}`: the message does not fit: {error}", self.shared.id());
                self.fail(job, Failure::new(ErrorCode::TooLarge, text), Duration::ZERO);
            }
        }
    }

    pub(super) fn fail(&mut self, job: Job, failure: Failure, ran: Duration) {
        if is_answer(job.target, &failure) {
            return reply(job, Err(failure), ran);
        }
        let hook = self.name(job.target);
        if self.hush.lets(&format!("{hook} {}", failure.code), Instant::now()) {
            let (id, traceback) = (self.shared.id(), trace_line(&failure));
            let traceback = traceback.as_deref();
            tracing::warn!(plugin = %id, hook, code = %failure.code, traceback, "{}", failure.message);
        }
        self.shared.failed(&failure);
        self.context.registry.touched();
        reply(job, Err(failure), ran);
    }

    /// Says how many failures of the last second the log has not told of.
    fn tell(&mut self) {
        let more = self.hush.take();
        tracing::warn!(plugin = %self.shared.id(), more, "the plugin failed as before, this many times more");
    }

    /// What a job calls, for who reads of it.
    pub(super) fn name(&self, aim: Aim) -> String {
        match aim {
            Aim::Handler(handler) => match self.ears.name(handler) {
                Some(name) => format!("the handler of `{name}`"),
                None => "a handler".into(),
            },
            Aim::Hook(_) | Aim::Timer(_) => describe(&aim.target()),
        }
    }

    /// A call that was written ahead begins when the one before it has ended.
    pub(super) fn time_of(&mut self, flight: &Flight) -> Duration {
        let (now, free_since) = (Instant::now(), self.free_since);
        self.free_since = now;
        let ran = now.duration_since(flight.began.max(free_since));
        self.is_quick = ran < QUICK;
        ran
    }
}

/// Answers a call. Who asked may be gone: a time-out, a shutdown.
pub(super) fn reply(job: Job, outcome: Result<Option<Box<RawValue>>, Failure>, ran: Duration) {
    let _ = job.reply.map(|reply| reply.send(Step { outcome, ran }));
}

/// The worker in the making, made or not; never where there is none.
async fn born(coming: &mut Option<Coming>) -> Result<Box<Newborn>, Trouble> {
    let Some(making) = coming else { return std::future::pending().await };
    let born = making.await;
    *coming = None;
    born
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
