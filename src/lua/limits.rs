//! Stops plugin code that passes its time or memory. Knows the VM's hook, never what the code was for.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use mlua::{HookTriggers, Lua, VmState};
use rustix::time::{ClockId, clock_gettime};

use super::stack::{Stack, Traceback};
use crate::model::Limits;

/// Every 100 instructions cost the same as every 10,000, and leave the least slack to slow instructions.
const INSTRUCTIONS: u32 = 100;
/// No time limit is longer than a day, so that no instant overflows.
const MAX_MS: u64 = 86_400_000;

/// The limits of one VM while a call runs in it.
pub(super) struct Limiter {
    cpu: Duration,
    wall: Duration,
    total: Duration,
    memory: usize,
    stack: Stack,
    armed: Cell<bool>,
    started: Cell<Instant>,
    cpu_started: Cell<Duration>,
    waited: Cell<Duration>,
    /// Before this instant no time limit can have passed.
    next_look: Cell<Instant>,
    tripped: Cell<bool>,
    trip: Cell<Option<Trip>>,
    /// Where the error was raised that ends the call.
    raised: Cell<Traceback>,
}

/// A call that was stopped.
#[derive(Debug)]
pub(super) struct Trip {
    /// Why.
    pub(super) cause: Cause,
    /// Where, as in `weather.lua:12`.
    pub(super) place: Option<String>,
    /// The calls that led there.
    pub(super) traceback: Traceback,
}

/// The limit that a call passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Cpu,
    Wall,
    Total,
    Memory,
}

impl Limiter {
    /// Builds a limiter that is not armed yet.
    pub(super) fn build(limits: &Limits, chunk: &str) -> Self {
        let now = Instant::now();
        let duration = |millis: u64| Duration::from_millis(millis.min(MAX_MS));
        Self {
            cpu: duration(limits.cpu_ms),
            wall: duration(limits.wall_ms),
            total: duration(limits.total_ms),
            memory: limits.memory,
            stack: Stack::new(chunk),
            armed: Cell::new(false),
            started: Cell::new(now),
            cpu_started: Cell::new(Duration::ZERO),
            waited: Cell::new(Duration::ZERO),
            next_look: Cell::new(now),
            tripped: Cell::new(false),
            trip: Cell::new(None),
            raised: Cell::default(),
        }
    }

    /// Installs the hook. Must come before any plugin code: a coroutine inherits the hook of its maker.
    pub(super) fn install(self: &Rc<Self>, lua: &Lua) -> mlua::Result<()> {
        let limiter = Rc::clone(self);
        let triggers = HookTriggers::new().every_nth_instruction(INSTRUCTIONS);
        lua.set_global_hook(triggers, move |lua, _| limiter.look(lua))
    }

    /// Starts the clocks of a call.
    pub(super) fn arm(&self) {
        let now = Instant::now();
        self.started.set(now);
        self.cpu_started.set(cpu_time());
        self.waited.set(Duration::ZERO);
        self.raised.take();
        self.next_look.set(now + self.cpu.min(self.wall).min(self.total));
        self.armed.set(true);
    }

    /// Ends a call and says whether, and where, it was stopped.
    pub(super) fn disarm(&self) -> Option<Trip> {
        self.armed.set(false);
        self.tripped.set(false);
        self.trip.take()
    }

    /// Whether the running call was stopped and must do nothing more.
    pub(super) fn is_tripped(&self) -> bool {
        self.tripped.get()
    }

    /// Runs something that waits for the bridge; that time counts for the total limit only.
    pub(super) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = wait();
        let now = Instant::now();
        self.waited.set(self.waited.get() + (now - begun));
        self.next_look.set(now);
        result
    }

    /// Stops the running call because memory ran out where no hook could see it.
    pub(super) fn stop_for_memory(&self, lua: &Lua) {
        if self.armed.get() && !self.tripped.get() {
            self.stop(lua, Cause::Memory);
        }
    }

    /// The stack that the limits are broken on.
    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Notes where an error was raised that nothing in the plugin catches. Runs while the stack is still there, and
    /// its own frame is the innermost.
    pub(super) fn note_raised(&self, lua: &Lua) {
        if let Some(mut trip) = self.trip.take() {
            // Stopped within a coroutine: these are the calls that resumed it.
            if !trip.traceback.is_whole {
                self.stack.trace(lua, 1, &mut trip.traceback);
            }
            self.trip.set(Some(trip));
            return;
        }
        let mut traceback = Traceback::default();
        self.stack.trace(lua, 1, &mut traceback);
        self.raised.set(traceback);
    }

    /// Where the error was raised that ended the last call; nothing where memory ran out, for want of it.
    pub(super) fn take_raised(&self) -> Traceback {
        self.raised.take()
    }

    /// The hook: cheap while nothing is due.
    fn look(&self, lua: &Lua) -> mlua::Result<VmState> {
        if !self.armed.get() {
            return Ok(VmState::Continue);
        }
        if !self.tripped.get() {
            let Some(cause) = self.passed_time().or_else(|| self.passed_memory(lua)) else {
                return Ok(VmState::Continue);
            };
            self.stop(lua, cause);
        }
        Err(mlua::Error::RuntimeError(String::new()))
    }

    fn stop(&self, lua: &Lua, cause: Cause) {
        let mut traceback = Traceback::default();
        self.stack.trace(lua, 0, &mut traceback);
        self.trip.set(Some(Trip { cause, place: self.stack.place(lua), traceback }));
        self.tripped.set(true);
    }

    fn passed_time(&self) -> Option<Cause> {
        let now = Instant::now();
        if now < self.next_look.get() {
            return None;
        }
        let total = now - self.started.get();
        let wall = total.saturating_sub(self.waited.get());
        let cpu = cpu_time().saturating_sub(self.cpu_started.get());
        if cpu >= self.cpu {
            return Some(Cause::Cpu);
        }
        if wall >= self.wall {
            return Some(Cause::Wall);
        }
        if total >= self.total {
            return Some(Cause::Total);
        }
        self.next_look.set(now + (self.cpu - cpu).min(self.wall - wall).min(self.total - total));
        None
    }

    /// An error at the very limit could be caught and met again for ever, so the last tenth is out of bounds.
    fn passed_memory(&self, lua: &Lua) -> Option<Cause> {
        let ceiling = self.memory / 10 * 9;
        if lua.used_memory() <= ceiling {
            return None;
        }
        // Most of it may be garbage that Lua has not yet looked at.
        let collected = lua.gc_collect();
        (collected.is_err() || lua.used_memory() > ceiling).then_some(Cause::Memory)
    }
}

/// CPU time of this thread, which alone runs the VM.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}
