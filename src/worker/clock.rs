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
    /// Nothing where the system does not tell.
    cpu_before: Option<Duration>,
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
                let cpu_before = cpu_time(worker);
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
        let used = cpu_time(worker)?.saturating_sub(self.cpu_before?);
        (used > Duration::from_millis(limits.cpu_ms) + CPU_GRACE).then_some(Overrun::Cpu(limits.cpu_ms))
    }
}

/// CPU time of all living threads of a process so far. Only Linux tells; elsewhere the wall limit alone holds, as
/// it does for a worker that hides its time in threads that end.
///
/// This cannot hang: the kernel keeps these figures with the task and takes no lock that the task could hold, as it
/// would for its memory map (`cmdline`, `maps`).
fn cpu_time(process: u32) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{process}/task")).ok()? {
        // A thread may end between the two reads.
        let Ok(text) = std::fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
        // The first figure is the time on the CPU in nanoseconds (Linux: Documentation/scheduler/sched-stats).
        total += Duration::from_nanos(text.split_whitespace().next()?.parse().ok()?);
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Clock, Overrun, TICK};
    use crate::model::Limits;

    /// Ticks a clock until it says something or this many milliseconds are charged.
    fn wait(owed: bool, limits: &Limits, most_ms: u64) -> Option<Overrun> {
        let mut clock = Clock::default();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(most_ms) {
            if let Some(overrun) = clock.tick(7, owed, std::process::id(), limits) {
                return Some(overrun);
            }
            std::thread::park_timeout(TICK / 5);
        }
        None
    }

    #[test]
    fn a_sleeper_is_stopped_by_the_wall_clock_and_one_that_waits_for_us_by_the_total() {
        // The CPU of this process is that of all tests.
        let limits = Limits { cpu_ms: 1_000_000, wall_ms: 30, total_ms: 400, ..Limits::default() };
        assert_eq!(wait(false, &limits, 10_000), Some(Overrun::Wall(30)));
        assert_eq!(wait(true, &limits, 10_000), Some(Overrun::Total(400)));
    }

    #[test]
    fn cpu_time_counts_from_the_first_look() {
        let limits = Limits { cpu_ms: 0, wall_ms: 1_000_000, total_ms: 1_000_000, ..Limits::default() };
        let spinning = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let flag = spinning.clone();
        let spin = move || {
            while flag.load(std::sync::atomic::Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let spinner = std::thread::spawn(spin);
        assert_eq!(wait(false, &limits, 60_000), Some(Overrun::Cpu(0)));
        spinning.store(false, std::sync::atomic::Ordering::Relaxed);
        spinner.join().unwrap();
    }

    #[test]
    fn a_bridge_that_was_late_does_not_charge_the_worker() {
        let limits = Limits { cpu_ms: 1_000_000, wall_ms: 0, total_ms: 1_000_000, ..Limits::default() };
        let mut clock = Clock::default();
        clock.tick(1, false, std::process::id(), &limits);
        // Longer than the wall limit with its grace, and not looked at in between.
        std::thread::park_timeout(Duration::from_millis(400));
        assert_eq!(clock.tick(1, false, std::process::id(), &limits), None);
    }
}
