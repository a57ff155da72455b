//! One worker as the bridge sees it: frames go in, events come out, in the order of the calls. It kills a
//! worker that overruns, and one that says what it was not asked.

use std::{collections::VecDeque, io, time::Instant};

use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    clock::{Clock, Overrun, TICK},
    ending::{Ending, Why},
    frames::FrameError,
    process::{Process, ReadError, Spawner},
};
use crate::model::{
    Limits,
    frame::{Answer, Call, Done, FromWorker, Load, Loaded, LogLine, Operation, Request, Snapshot, ToWorker},
    lockdown::Piece,
};

/// Calls written ahead of their answers at most, so that a busy worker need not wait for its next one.
const AHEAD: usize = 16;
/// Bytes that a worker may leave unread before it gets no further call.
const UNREAD: usize = 256 * 1024;
/// The number that stands for running the source.
const LOAD: u64 = 0;
/// Bytes of a log line's text, and of its fields; the worker cuts both at 4 KiB.
const MAX_LINE: usize = 8 * 1024;
/// So many times more log lines than its limit come from a worker that does not keep it itself.
const FLOOD: f64 = 10.0;
/// Lines that may have waited in a pipe while the bridge did not read: 64 KiB of short ones.
const IN_PIPE: f64 = 2_000.0;

/// What a worker says.
#[derive(Debug)]
pub enum Event {
    /// The source ran, or failed.
    Loaded(Loaded),
    /// The oldest call ended.
    Done(Done),
    /// The oldest call asks for something and waits for [`Link::answer`].
    Request(Request),
    /// A line for the log.
    Log(LogLine),
}

/// Why there is no worker any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Death {
    /// It was killed for the call it was running.
    #[error("did not come back within {0}, so its worker was ended")]
    Overran(Overrun),
    /// It ended by itself.
    #[error("failed: its worker ended by itself ({0})")]
    Ended(String),
    /// It ended for want of memory.
    #[error("failed: its worker ran out of memory ({0})")]
    Exhausted(String),
    /// It was ended from outside, as the system does where the machine's memory runs short.
    #[error("failed: its worker ran out of memory ({0})")]
    Taken(String),
    /// It was killed for what it sent.
    #[error("failed: its worker was ended: {0}")]
    Garbage(String),
}

impl From<Ending> for Death {
    fn from(Ending { how, why }: Ending) -> Self {
        match why {
            Why::Itself => Self::Ended(how),
            Why::Memory => Self::Exhausted(how),
            Why::Outside => Self::Taken(how),
        }
    }
}

/// A live worker and the calls it has not answered.
#[derive(Debug)]
pub struct Link {
    process: Process,
    limits: Limits,
    unanswered: VecDeque<Unanswered>,
    last_call: u64,
    owed: bool,
    /// Where the last answer ends in what was written.
    answered: u64,
    asked: Asked,
    /// Whether the oldest call has said anything.
    heard: bool,
    lines: Lines,
    /// Whether it has said nothing yet, so that no code of the plugin can have run.
    unheard: bool,
    clock: Clock,
    ticker: Interval,
}

/// A call that was written; its place is where it ends in what was written.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    number: u64,
    place: u64,
}

/// What the oldest call has asked for so far.
#[derive(Debug, Default)]
struct Asked {
    requests: usize,
    http: usize,
}

/// The measure of a worker's log lines: a bucket that fills with time.
#[derive(Debug)]
struct Lines {
    filled: Instant,
    room: f64,
}

/// [`ToWorker::Call`] without giving the call away.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Borrowed<'call> {
    Call(&'call Call),
}

impl Link {
    /// Starts a worker and gives it its source; [`Event::Loaded`] follows.
    ///
    /// # Errors
    /// When no process can be started, or the source does not fit into a frame.
    pub async fn start(spawner: &Spawner, load: Load) -> io::Result<Self> {
        let mut process = spawner.spawn().await?;
        let limits = load.limits.clone();
        let place = process.writer.push(&ToWorker::Load(Box::new(load))).map_err(io::Error::other)?;
        let mut ticker = interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            process,
            lines: Lines::new(&limits),
            limits,
            unanswered: VecDeque::from([Unanswered { number: LOAD, place }]),
            last_call: LOAD,
            owed: false,
            answered: 0,
            asked: Asked::default(),
            heard: false,
            unheard: true,
            clock: Clock::default(),
            ticker,
        })
    }

    /// Whether another call may be written now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let has_place = self.unanswered.len() < AHEAD && self.process.writer.pending() < UNREAD;
        has_place && !self.process.is_ending()
    }

    /// Whether the oldest call has asked for or logged anything. One that has not has done nothing yet that a second
    /// time would do again.
    #[must_use]
    pub fn has_been_heard(&self) -> bool {
        self.heard
    }

    /// The number that the next call must bear.
    #[must_use]
    pub fn next_call(&self) -> u64 {
        self.last_call + 1
    }

    /// Writes a call. [`Event::Done`] follows, after those of all earlier calls.
    ///
    /// # Errors
    /// When it does not fit into a frame; the worker then knows nothing of it.
    pub fn call(&mut self, call: &Call) -> Result<(), FrameError> {
        let place = self.process.writer.push(&Borrowed::Call(call))?;
        self.last_call = call.number;
        self.unanswered.push_back(Unanswered { number: call.number, place });
        Ok(())
    }

    /// Gives the worker state and configuration as they are now.
    ///
    /// # Errors
    /// When they do not fit into a frame.
    pub fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), FrameError> {
        self.process.writer.push(&ToWorker::Snapshot(snapshot)).map(drop)
    }

    /// Answers the request that the running call waits for.
    ///
    /// # Errors
    /// When it does not fit into a frame; the worker still waits.
    pub fn answer(&mut self, answer: Answer) -> Result<(), FrameError> {
        self.answered = self.process.writer.push(&ToWorker::Answer(answer))?;
        self.owed = false;
        Ok(())
    }

    /// The next thing the worker says. Cancel-safe, and it waits for no worker longer than the clock lets it: also
    /// one that stops within a frame or does not read is looked at with every tick while it owes an answer.
    ///
    /// What it says comes before the clock, as an answer that is in the pipe counts. So a worker that never stops
    /// talking could hold the clock off; but all that it may say has a bound of its own.
    ///
    /// # Errors
    /// The worker's death; it has no further events.
    pub async fn event(&mut self) -> Result<Event, Death> {
        let most = self.limits.frame();
        loop {
            tokio::select! {
                biased;
                frame = self.process.reader.next(most) => return match frame {
                    Ok(FromWorker::Lacks(lacks)) if self.unheard => {
                        self.warn(&lacks);
                        continue;
                    }
                    Ok(frame) => match self.expected(frame) {
                        Ok(event) => Ok(event),
                        Err(reason) => Err(self.end(reason)),
                    },
                    Err(ReadError::Closed) => Err(self.closed("output").await),
                    Err(garbage) => Err(self.end(garbage.to_string())),
                },
                () = self.process.writer.progress(), if self.process.writer.pending() > 0 => {}
                _ = self.ticker.tick(), if !self.unanswered.is_empty() => {
                    if self.process.writer.is_broken() {
                        return Err(self.closed("input").await);
                    }
                    if let Some(overrun) = self.overrun() {
                        self.process.kill();
                        return Err(Death::Overran(overrun));
                    }
                }
            }
        }
    }

    /// Bytes of memory that are set aside for what it says.
    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.process.reader.reserved()
    }

    /// Ends the worker for a reason of the caller's.
    pub fn end(&mut self, reason: String) -> Death {
        self.process.kill();
        Death::Garbage(reason)
    }

    /// The worker has closed a pipe: that is how one ends, and no way to live.
    async fn closed(&mut self, which: &str) -> Death {
        match self.process.ended().await {
            Some(ending) => ending.into(),
            None => Death::Garbage(format!("it closed its {which} and went on")),
        }
    }

    /// Says once in a run which pieces of the lock-down do not hold on this system.
    fn warn(&mut self, lacks: &[Piece]) {
        self.unheard = false;
        if !self.process.warns_first() {
            return;
        }
        let missing: Vec<String> = lacks
            .iter()
            .take(Piece::ALL.len())
            .map(|piece| format!("{} ({})", piece.name(), piece.needs()))
            .collect();
        tracing::warn!(
            missing = missing.join("; "),
            "plugins run with less lock-down than they could: `jarvis-bridge doctor` says what to do"
        );
    }

    fn overrun(&mut self) -> Option<Overrun> {
        let oldest = self.unanswered.front()?.number;
        self.clock.tick(oldest, self.owed, self.process.id(), &self.limits)
    }

    /// Takes only what was asked for: answers in the order of the calls, requests from the running one. A worker has
    /// one thread: while it waits for an answer, and before it has read what it was told last, it has nothing to say.
    fn expected(&mut self, frame: FromWorker) -> Result<Event, String> {
        self.unheard = false;
        let Some(&running) = self.unanswered.front() else {
            return Err(speaks_idly(&frame).into());
        };
        let writer = &self.process.writer;
        let has_read = writer.has_written(running.place) && writer.has_written(self.answered);
        let too_soon = match (self.owed, has_read) {
            (true, _) => Some("it went on while it waited for an answer"),
            (false, false) => Some("it went on before it had read what it was told"),
            (false, true) => None,
        };
        // What has no place at all comes first, as that says most.
        if let Some(reason) = misplaced(&frame, running.number).or(too_soon) {
            return Err(reason.into());
        }
        self.take(frame)
    }

    /// Takes what has its place.
    fn take(&mut self, frame: FromWorker) -> Result<Event, String> {
        self.heard = true;
        match frame {
            FromWorker::Lacks(_) => Err("it spoke of its lock-down".into()),
            FromWorker::Log(line) => {
                self.lines.take(&line, &self.limits)?;
                Ok(Event::Log(line))
            }
            FromWorker::Request(request) => {
                self.asked.count(&request.operation, &self.limits)?;
                self.owed = true;
                Ok(Event::Request(request))
            }
            FromWorker::Loaded(loaded) => {
                self.has_answered();
                Ok(Event::Loaded(loaded))
            }
            FromWorker::Done(done) => {
                self.has_answered();
                Ok(Event::Done(done))
            }
        }
    }

    fn has_answered(&mut self) {
        self.unanswered.pop_front();
        (self.asked, self.heard) = (Asked::default(), false);
    }
}

/// Why nothing may be said while no call runs.
fn speaks_idly(frame: &FromWorker) -> &'static str {
    match frame {
        FromWorker::Lacks(_) => "it spoke of its lock-down after its plugin had begun",
        FromWorker::Log(_) => "it wrote to the log while no call of it ran",
        FromWorker::Request(_) => "it asked for something while no call of it ran",
        FromWorker::Loaded(_) => "it said twice that it was loaded",
        FromWorker::Done(_) => "it answered a call that nobody made",
    }
}

/// Why a frame does not belong to the running call. Running the source is none that could be done.
fn misplaced(frame: &FromWorker, running: u64) -> Option<&'static str> {
    match frame {
        FromWorker::Lacks(_) => Some("it spoke of its lock-down after its plugin had begun"),
        FromWorker::Loaded(_) if running != LOAD => Some("it said twice that it was loaded"),
        FromWorker::Done(done) if running != done.call || running == LOAD => {
            Some("it answered a call that was not its oldest")
        }
        FromWorker::Request(request) if running != request.call => {
            Some("it asked for something on behalf of a call that does not run")
        }
        FromWorker::Loaded(_) | FromWorker::Done(_) | FromWorker::Request(_) | FromWorker::Log(_) => None,
    }
}

impl Asked {
    /// The worker refuses its plugin what passes a limit; what comes here nevertheless is no plugin's doing.
    fn count(&mut self, operation: &Operation, limits: &Limits) -> Result<(), String> {
        self.requests += 1;
        self.http += usize::from(matches!(operation, Operation::Http(_)));
        let Limits { requests, http, .. } = *limits;
        if self.requests > requests {
            return Err(format!("it asked for more than {requests} things in one call (limits.requests)"));
        }
        if self.http > http {
            return Err(format!("it sent more than {http} HTTP requests in one call (limits.http)"));
        }
        Ok(())
    }
}

impl Lines {
    fn new(limits: &Limits) -> Self {
        Self { filled: Instant::now(), room: Self::rate(limits) + IN_PIPE }
    }

    /// Counts a line.
    fn take(&mut self, line: &LogLine, limits: &Limits) -> Result<(), String> {
        let fields = line.fields.as_ref().map_or(0, |fields| fields.get().len());
        if line.message.len() > MAX_LINE || fields > MAX_LINE {
            return Err(format!("it wrote a log line of {} bytes", line.message.len() + fields));
        }
        let rate = Self::rate(limits);
        let now = Instant::now();
        let passed = now.duration_since(std::mem::replace(&mut self.filled, now)).as_secs_f64();
        self.room = (self.room + passed * rate).min(rate + IN_PIPE) - 1.0;
        match self.room < 0.0 {
            true => Err(format!(
                "it floods the log: it may write {} lines a second (limits.logs_per_second)",
                limits.logs_per_second
            )),
            false => Ok(()),
        }
    }

    fn rate(limits: &Limits) -> f64 {
        FLOOD * f64::from(limits.logs_per_second.max(1))
    }
}
