//! One worker as the bridge sees it: frames go in, events come out, in the order of the calls. It kills a
//! worker that overruns, and one that says what it was not asked.

use std::{collections::VecDeque, io};

use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{
    clock::{Clock, Overrun, TICK},
    frames::FrameError,
    process::{Process, Spawner},
};
use crate::model::{
    Limits,
    frame::{Answer, Call, Done, FromWorker, Load, Loaded, LogLine, Request, Snapshot, ToWorker},
    lockdown::Piece,
};

/// Calls written ahead of their answers at most, so that a busy worker need not wait for its next one.
const AHEAD: usize = 16;
/// Bytes that a worker may leave unread before it gets no further call.
const UNREAD: usize = 256 * 1024;
/// The number that stands for running the source.
const LOAD: u64 = 0;

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
    /// It was killed for what it sent.
    #[error("failed: its worker was ended: {0}")]
    Garbage(String),
}

/// A live worker and the calls it has not answered.
#[derive(Debug)]
pub struct Link {
    process: Process,
    limits: Limits,
    unanswered: VecDeque<u64>,
    last_call: u64,
    owed: Option<u64>,
    /// Whether it has said nothing yet, so that no code of the plugin can have run.
    unheard: bool,
    clock: Clock,
    ticker: Interval,
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
        process.writer.push(&ToWorker::Load(Box::new(load))).map_err(io::Error::other)?;
        let mut ticker = interval(TICK);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let unanswered = VecDeque::from([LOAD]);
        let clock = Clock::default();
        Ok(Self { process, limits, unanswered, last_call: LOAD, owed: None, unheard: true, clock, ticker })
    }

    /// Whether another call may be written now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unanswered.len() < AHEAD && self.process.writer.pending() < UNREAD
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
        self.process.writer.push(&Borrowed::Call(call))?;
        self.last_call = call.number;
        self.unanswered.push_back(call.number);
        Ok(())
    }

    /// Gives the worker state and configuration as they are now.
    ///
    /// # Errors
    /// When they do not fit into a frame.
    pub fn snapshot(&mut self, snapshot: Snapshot) -> Result<(), FrameError> {
        self.process.writer.push(&ToWorker::Snapshot(snapshot))
    }

    /// Answers the request that the running call waits for.
    ///
    /// # Errors
    /// When it does not fit into a frame; the worker still waits.
    pub fn answer(&mut self, answer: Answer) -> Result<(), FrameError> {
        self.process.writer.push(&ToWorker::Answer(answer))?;
        self.owed = None;
        Ok(())
    }

    /// The next thing the worker says. Cancel-safe.
    ///
    /// # Errors
    /// The worker's death; it has no further events.
    pub async fn event(&mut self) -> Result<Event, Death> {
        loop {
            tokio::select! {
                biased;
                frame = self.process.reader.next() => match frame {
                    Ok(FromWorker::Lacks(lacks)) if self.unheard => self.warn(&lacks),
                    Ok(frame) => match self.expected(frame) {
                        Ok(event) => return Ok(event),
                        Err(reason) => return Err(self.end(reason).await),
                    },
                    Err(super::process::ReadError::Closed) => {
                        return Err(Death::Ended(self.process.end().await));
                    }
                    Err(garbage) => return Err(self.end(garbage.to_string()).await),
                },
                () = self.process.writer.progress(), if self.process.writer.pending() > 0 => {}
                _ = self.ticker.tick(), if !self.unanswered.is_empty() => {
                    if let Some(overrun) = self.overrun() {
                        self.process.end().await;
                        return Err(Death::Overran(overrun));
                    }
                }
            }
        }
    }

    /// Ends the worker for a reason of the caller's.
    pub async fn end(&mut self, reason: String) -> Death {
        self.process.end().await;
        Death::Garbage(reason)
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
        let oldest = *self.unanswered.front()?;
        self.clock.tick(oldest, self.owed.is_some(), self.process.id(), &self.limits)
    }

    /// Takes only what was asked for: answers in the order of the calls, requests from the running one.
    fn expected(&mut self, frame: FromWorker) -> Result<Event, String> {
        self.unheard = false;
        let running = self.unanswered.front().copied();
        match frame {
            FromWorker::Lacks(_) => Err("it spoke of its lock-down after its plugin had begun".into()),
            FromWorker::Log(line) => Ok(Event::Log(line)),
            FromWorker::Request(request) if running == Some(request.call) && self.owed.is_none() => {
                self.owed = Some(request.number);
                Ok(Event::Request(request))
            }
            FromWorker::Loaded(loaded) if running == Some(LOAD) && self.owed.is_none() => {
                self.unanswered.pop_front();
                Ok(Event::Loaded(loaded))
            }
            FromWorker::Done(done) if running == Some(done.call) && self.owed.is_none() => {
                self.unanswered.pop_front();
                Ok(Event::Done(done))
            }
            FromWorker::Request(_) => Err("it asked for something while no call of it ran".into()),
            FromWorker::Loaded(_) => Err("it said twice that it was loaded".into()),
            FromWorker::Done(_) => Err("it answered a call that was not its oldest".into()),
        }
    }
}
