//! When a plugin is left alone: for a while after failures in a row, for good after too many ended workers.
//! Knows times, neither calls nor workers.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::model::{ErrorCode, Failure};

/// What is borne of a plugin before it is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Time-outs, memory failures and deaths of its worker in a row that open the breaker.
    pub failures: u32,
    /// How long it stays open before one call is tried.
    pub pause: Duration,
    /// Ended workers that switch the plugin off.
    pub kills: usize,
    /// Within this time.
    pub kills_within: Duration,
}

/// The figures of the shipped `config/default.toml`; a test of the configuration holds the two together.
impl Default for BreakerSettings {
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(60), kills: 3, kills_within: Duration::from_secs(600) }
    }
}

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Calls go through.
    #[default]
    Closed,
    /// No call goes through; from then on one is tried.
    Open { until: Instant },
    /// One call is being tried; the others are refused until it has ended.
    HalfOpen,
}

/// Whether a call may be made now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    /// What is tried, or was written before, must end first.
    Wait,
    Refuse,
}

/// Stops calling a plugin that does not come back, so that whoever asks it need not wait for that each time.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    phase: Phase,
    /// Failures since the last call that came back in time.
    row: u32,
}

/// The times at which a plugin's worker had to be ended; never more of them than switch it off.
#[derive(Debug)]
pub(super) struct Strikes {
    settings: BreakerSettings,
    times: VecDeque<Instant>,
}

/// Whether a failure says that a plugin does not come back. One that it raised itself came back in time.
pub(super) fn is_breaking(failure: &Failure) -> bool {
    matches!(failure.code, ErrorCode::Timeout | ErrorCode::MemoryLimit)
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self { settings, phase: Phase::Closed, row: 0 }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// How long whoever asks now must wait for the next trial; nothing where calls are taken.
    pub(super) fn refuses(&self, now: Instant) -> Option<Duration> {
        match self.phase {
            Phase::Closed => None,
            Phase::Open { until } => {
                Some(until.saturating_duration_since(now)).filter(|left| !left.is_zero())
            }
            Phase::HalfOpen => Some(Duration::ZERO),
        }
    }

    /// Says whether a call may be made. `busy` is whether another one runs still: the one that is tried runs
    /// alone, or another's end would be taken for its own.
    pub(super) fn admit(&mut self, busy: bool, now: Instant) -> Verdict {
        match self.phase {
            Phase::Closed => Verdict::Go,
            Phase::Open { until } if now < until => Verdict::Refuse,
            Phase::Open { .. } | Phase::HalfOpen if busy => Verdict::Wait,
            Phase::Open { .. } | Phase::HalfOpen => {
                self.phase = Phase::HalfOpen;
                Verdict::Go
            }
        }
    }

    /// When timers may fire: what they start is a call like any other.
    pub(super) fn not_before(&self, due: Instant) -> Option<Instant> {
        match self.phase {
            Phase::Closed => Some(due),
            Phase::Open { until } => Some(due.max(until)),
            Phase::HalfOpen => None,
        }
    }

    /// A call came back in time, with a result or an error of its own.
    pub(super) fn went_well(&mut self) {
        (self.phase, self.row) = (Phase::Closed, 0);
    }

    /// A call did not come back. True where this opens the breaker.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.row = self.row.saturating_add(1);
        let opens = match self.phase {
            Phase::Closed => self.row >= self.settings.failures,
            // Calls that were written before it opened.
            Phase::Open { .. } => false,
            Phase::HalfOpen => true,
        };
        if opens {
            self.phase = Phase::Open { until: now + self.settings.pause };
        }
        opens
    }

    /// The call that was tried has not run after all: the next one is tried instead.
    pub(super) fn untried(&mut self, now: Instant) {
        if self.phase == Phase::HalfOpen {
            self.phase = Phase::Open { until: now };
        }
    }

    /// Starts afresh, for a new version.
    pub(super) fn reset(&mut self) {
        self.went_well();
    }

    /// Failures in a row.
    pub(super) fn row(&self) -> u32 {
        self.row
    }
}

impl Strikes {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self { settings, times: VecDeque::new() }
    }

    /// Notes an ended worker. True where that is one too many.
    pub(super) fn add(&mut self, now: Instant) -> bool {
        let old = |time: &Instant| now.duration_since(*time) >= self.settings.kills_within;
        while self.times.front().is_some_and(old) || self.times.len() >= self.settings.kills {
            self.times.pop_front();
        }
        self.times.push_back(now);
        self.times.len() >= self.settings.kills
    }

    /// Forgets them all, for a new version.
    pub(super) fn clear(&mut self) {
        self.times.clear();
    }
}

impl Phase {
    /// As `bridge/health` says it. One whose pause is over waits for a call to try.
    pub(super) fn name(self, now: Instant) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open { until } if now < until => "open",
            Self::Open { .. } | Self::HalfOpen => "half_open",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Breaker, BreakerSettings, Strikes, Verdict};

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(BreakerSettings { failures: 3, ..BreakerSettings::default() }), Instant::now())
    }

    fn opened() -> (Breaker, Instant) {
        let (mut breaker, now) = breaker();
        assert_eq!([breaker.failed(now), breaker.failed(now), breaker.failed(now)], [false, false, true]);
        (breaker, now)
    }

    #[test]
    fn only_failures_in_a_row_open_it() {
        let (mut breaker, now) = breaker();
        for _ in 0..5 {
            assert!(!breaker.failed(now));
            assert!(!breaker.failed(now));
            breaker.went_well();
            assert_eq!(breaker.admit(true, now), Verdict::Go);
        }
        assert_eq!((breaker.refuses(now), breaker.phase().name(now)), (None, "closed"));
    }

    #[test]
    fn an_open_one_refuses_until_its_pause_is_over_and_then_tries_one_call() {
        let (mut breaker, now) = opened();
        assert_eq!(breaker.phase().name(now), "open");
        assert_eq!(breaker.refuses(now + 18 * SECOND), Some(42 * SECOND));
        assert_eq!(breaker.admit(false, now + 59 * SECOND), Verdict::Refuse);
        let later = now + 60 * SECOND;
        assert_eq!((breaker.refuses(later), breaker.phase().name(later)), (None, "half_open"));
        assert_eq!(breaker.admit(true, later), Verdict::Wait, "one of before runs still");
        assert_eq!(breaker.admit(false, later), Verdict::Go);
        assert_eq!(breaker.admit(true, later), Verdict::Wait, "one is tried");
        assert_eq!(breaker.refuses(later), Some(Duration::ZERO), "and who comes now is refused");
        breaker.went_well();
        assert_eq!((breaker.admit(true, later), breaker.phase().name(later)), (Verdict::Go, "closed"));
        assert!(!breaker.failed(later), "the row begins anew");
    }

    #[test]
    fn a_trial_that_fails_opens_it_for_another_pause() {
        let (mut breaker, now) = opened();
        let later = now + 61 * SECOND;
        assert_eq!(breaker.admit(false, later), Verdict::Go);
        assert!(breaker.failed(later));
        assert_eq!(breaker.refuses(later + SECOND), Some(59 * SECOND));
    }

    #[test]
    fn a_trial_that_did_not_run_leaves_its_turn_to_the_next() {
        let (mut breaker, now) = opened();
        let later = now + 60 * SECOND;
        assert_eq!(breaker.admit(false, later), Verdict::Go);
        breaker.untried(later);
        assert_eq!((breaker.refuses(later), breaker.admit(false, later)), (None, Verdict::Go));
    }

    #[test]
    fn what_was_written_before_it_opened_does_not_prolong_it() {
        let (mut breaker, now) = opened();
        assert!(!breaker.failed(now + 30 * SECOND));
        assert_eq!(breaker.refuses(now + 30 * SECOND), Some(30 * SECOND));
        breaker.went_well();
        assert_eq!(breaker.refuses(now + 31 * SECOND), None, "one that came back shows that it works");
    }

    #[test]
    fn timers_wait_with_the_calls() {
        let (mut breaker, now) = opened();
        let until = now + 60 * SECOND;
        assert_eq!(breaker.not_before(now), Some(until));
        assert_eq!(breaker.not_before(until + SECOND), Some(until + SECOND));
        assert_eq!(breaker.admit(false, until), Verdict::Go);
        assert_eq!(breaker.not_before(now), None);
        breaker.reset();
        assert_eq!(breaker.not_before(now), Some(now));
    }

    #[test]
    fn strikes_count_within_their_time_only() {
        let mut strikes = Strikes::new(BreakerSettings::default());
        let now = Instant::now();
        assert!(!strikes.add(now));
        assert!(!strikes.add(now + 300 * SECOND));
        assert!(!strikes.add(now + 601 * SECOND), "the first is too old");
        assert!(strikes.add(now + 602 * SECOND));
        strikes.clear();
        assert!(!strikes.add(now + 603 * SECOND));
        let mut strict = Strikes::new(BreakerSettings { kills: 1, ..BreakerSettings::default() });
        assert!(strict.add(now));
    }
}
