//! Counters of one plugin.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use serde::Serialize;

use super::breaker::Phase;
use crate::model::ErrorCode;

/// Calls whose duration is kept for the percentile.
const KEPT: usize = 256;
/// What stands for all codes that plugins choose themselves, so that no plugin makes up counters.
const OWN_CODE: &str = "plugin";

/// What is counted; the worker's own clock does not count, the bridge's does.
#[derive(Debug, Default)]
pub(super) struct Stats {
    calls: u64,
    errors: BTreeMap<String, u64>,
    kills: u64,
    restarts: u64,
    refused: u64,
    dropped: u64,
    total: Duration,
    recent: VecDeque<u32>,
    memory: usize,
    breaker: Phase,
    /// What its `health()` said last, where it has one.
    condition: Option<Result<(), String>>,
}

/// A plugin's counters as `bridge/health` shows them.
#[derive(Debug, Clone, Serialize)]
pub struct PluginHealth {
    /// Hook and callback calls since it was loaded.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that failed by passing a time limit.
    pub timeouts: u64,
    /// Those that failed, by the code of their failure; codes that plugins choose are `plugin` together.
    pub errors_by_code: BTreeMap<String, u64>,
    /// Workers that were killed or died.
    pub kills: u64,
    /// Fresh workers that took over from one that ended.
    pub restarts: u64,
    /// Calls that were answered without asking it, because it could not run or its breaker was open.
    pub refused: u64,
    /// Events and messages that did not reach it: it could not run, its breaker was open, its mailbox full.
    pub dropped: u64,
    /// Pieces of mail that wait for it.
    pub waiting: usize,
    /// Mean duration of a call, in microseconds.
    pub avg_us: u64,
    /// The duration that 99 of the last 100 calls stayed below, in microseconds.
    pub p99_us: u32,
    /// The Lua heap after the last call, in bytes.
    pub memory_bytes: usize,
    /// `closed`, `open`, or `half_open` where the next call is tried.
    pub breaker: &'static str,
    /// What its `health()` said last; nothing where it has none, or was not asked yet.
    pub healthy: Option<bool>,
    /// Why it is not healthy.
    pub reason: Option<String>,
}

impl Stats {
    pub(super) fn ran(&mut self, duration: Duration, memory: usize) {
        self.calls += 1;
        self.total += duration;
        self.memory = memory;
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn failed(&mut self, code: &ErrorCode) {
        let code = match code {
            ErrorCode::Plugin(_) => OWN_CODE.into(),
            known => known.to_string(),
        };
        *self.errors.entry(code).or_default() += 1;
    }

    pub(super) fn killed(&mut self) {
        self.kills += 1;
    }

    pub(super) fn restarted(&mut self) {
        self.restarts += 1;
    }

    pub(super) fn refused(&mut self) {
        self.refused += 1;
    }

    pub(super) fn dropped(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn set_condition(&mut self, condition: Option<Result<(), String>>) {
        self.condition = condition;
    }

    pub(super) fn set_breaker(&mut self, phase: Phase) {
        self.breaker = phase;
    }

    pub(super) fn health(&self) -> PluginHealth {
        let mut sorted: Vec<u32> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let p99_us = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
        let mean = self.total.as_micros().checked_div(u128::from(self.calls)).unwrap_or(0);
        PluginHealth {
            calls: self.calls,
            errors: self.errors.values().sum(),
            timeouts: self.errors.get(&ErrorCode::Timeout.to_string()).copied().unwrap_or(0),
            errors_by_code: self.errors.clone(),
            kills: self.kills,
            restarts: self.restarts,
            refused: self.refused,
            dropped: self.dropped,
            waiting: 0,
            avg_us: u64::try_from(mean).unwrap_or(u64::MAX),
            p99_us,
            memory_bytes: self.memory,
            breaker: self.breaker.name(Instant::now()),
            healthy: self.condition.as_ref().map(Result::is_ok),
            reason: self.condition.clone().and_then(Result::err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Stats;
    use crate::model::ErrorCode;

    #[test]
    fn errors_are_counted_by_code_and_no_plugin_makes_up_counters() {
        let mut stats = Stats::default();
        let own = |number: u32| ErrorCode::Plugin(format!("mine_{number}"));
        (0..100).for_each(|number| stats.failed(&own(number)));
        [ErrorCode::Timeout, ErrorCode::Timeout, ErrorCode::HookError]
            .iter()
            .for_each(|code| stats.failed(code));
        let health = stats.health();
        let counted: Vec<_> =
            health.errors_by_code.iter().map(|(code, count)| (code.as_str(), *count)).collect();
        assert_eq!(counted, [("hook_error", 1), ("plugin", 100), ("timeout", 2)]);
        assert_eq!((health.errors, health.timeouts), (103, 2));
    }

    #[test]
    fn the_percentile_is_that_of_the_last_calls() {
        let mut stats = Stats::default();
        assert_eq!((stats.health().p99_us, stats.health().avg_us), (0, 0));
        for microseconds in 1..=100 {
            stats.ran(Duration::from_micros(microseconds), 7);
        }
        let health = stats.health();
        assert_eq!((health.calls, health.p99_us, health.avg_us, health.memory_bytes), (100, 99, 50, 7));
    }
}
