//! When a call has run too long for its worker to live. The VM stops ordinary offenders itself; this clock
//! is for what cannot be stopped in place.

use std::{
    fmt,
    time::{Duration, Instant},
};

use crate::model::Limits;

/// How often a busy worker is looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// CPU time beyond the limit in which the VM may still stop the call itself.
const CPU_GRACE: Duration = Duration::from_millis(50);
/// Wall time beyond the limit in which the VM may still stop the call itself.
const WALL_GRACE: Duration = Duration::from_millis(250);

/// Which limit a call passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overrun {
    /// CPU time, in milliseconds allowed.
    Cpu(u64),
    /// Wall time without waits, in milliseconds allowed.
    Wall(u64),
    /// Wall time with waits, in milliseconds allowed.
    Total(u64),
}

impl fmt::Display for Overrun {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu(limit) => write!(formatter, "{limit} ms of CPU time (limits.hook_cpu_ms)"),
            Self::Wall(limit) => write!(formatter, "{limit} ms (limits.hook_wall_ms)"),
            Self::Total(limit) => {
                write!(formatter, "{limit} ms, waits included (limits.hook_total_ms)")
            }
        }
    }
}

/// Watches the oldest unanswered call of one worker. A call that ends between two ticks costs nothing.
#[derive(Debug, Default)]
pub(super) struct Clock {
    watched: Option<Watched>,
}

#[derive(Debug)]
struct Watched {
    call: u64,
    last: Instant,
    cpu_before: Duration,
    running: Duration,
    waiting: Duration,
}

impl Clock {
    /// Looks at the oldest unanswered call. `owed` is whether the bridge owes it an answer.
    pub(super) fn tick(&mut self, call: u64, owed: bool, worker: u32, limits: &Limits) -> Option<Overrun> {
        let now = Instant::now();
        let watched = match &mut self.watched {
            Some(watched) if watched.call == call => watched,
            _ => {
                let cpu_before = cpu_time(worker).unwrap_or_default();
                let (running, waiting) = (Duration::ZERO, Duration::ZERO);
                self.watched = Some(Watched { call, last: now, cpu_before, running, waiting });
                return None;
            }
        };
        // Where the bridge itself was late, the worker is not charged for it.
        let passed = now.duration_since(watched.last).min(2 * TICK);
        watched.last = now;
        match owed {
            true => watched.waiting += passed,
            false => watched.running += passed,
        }
        watched.overrun(worker, limits)
    }
}

impl Watched {
    fn overrun(&self, worker: u32, limits: &Limits) -> Option<Overrun> {
        if self.running > Duration::from_millis(limits.wall_ms) + WALL_GRACE {
            return Some(Overrun::Wall(limits.wall_ms));
        }
        if self.running + self.waiting > Duration::from_millis(limits.total_ms) + WALL_GRACE {
            return Some(Overrun::Total(limits.total_ms));
        }
        let used = cpu_time(worker)?.saturating_sub(self.cpu_before);
        (used > Duration::from_millis(limits.cpu_ms) + CPU_GRACE).then_some(Overrun::Cpu(limits.cpu_ms))
    }
}

/// CPU time of all threads of a process so far. Only Linux tells; elsewhere the wall limit alone holds.
fn cpu_time(process: u32) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).ok()? {
        // The first figure is the time on the CPU in nanoseconds (Linux: Documentation/scheduler/sched-stats).
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        total += Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?);
    }
    Some(total)
}
