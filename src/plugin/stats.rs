//! Counters of one plugin.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;

use crate::model::ErrorCode;

/// Calls whose duration is kept for the percentile.
const KEPT: usize = 256;

/// What is counted; the worker's own clock does not count, the bridge's does.
#[derive(Debug, Default)]
pub(super) struct Stats {
    calls: u64,
    errors: u64,
    timeouts: u64,
    dropped: u64,
    total: Duration,
    recent: VecDeque<u32>,
    memory: usize,
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
    /// Mean duration of a call, in microseconds.
    pub avg_us: u64,
    /// The duration that 99 of the last 100 calls stayed below, in microseconds.
    pub p99_us: u32,
    /// The Lua heap after the last call, in bytes.
    pub memory_bytes: usize,
    /// Events that its full mailbox dropped.
    pub dropped: u64,
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
        self.errors += 1;
        self.timeouts += u64::from(*code == ErrorCode::Timeout);
    }

    pub(super) fn dropped(&mut self) {
        self.dropped += 1;
    }

    pub(super) fn health(&self) -> PluginHealth {
        let mut sorted: Vec<u32> = self.recent.iter().copied().collect();
        sorted.sort_unstable();
        let p99_us = sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
        let mean = self.total.as_micros().checked_div(u128::from(self.calls)).unwrap_or(0);
        PluginHealth {
            calls: self.calls,
            errors: self.errors,
            timeouts: self.timeouts,
            avg_us: u64::try_from(mean).unwrap_or(u64::MAX),
            p99_us,
            memory_bytes: self.memory,
            dropped: self.dropped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Stats;

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
