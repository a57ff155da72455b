//! What plugins write to the log. Each plugin has its own measure: a flood of one never silences another.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::model::{
    PluginId,
    frame::{Level, LogLine},
};

/// Lets a plugin's lines through, as many a second as its limit says; counts the rest.
#[derive(Debug)]
pub struct LogGate {
    plugin: PluginId,
    per_second: u32,
    second: Instant,
    passed: u32,
    dropped: u32,
}

impl LogGate {
    /// A gate for one plugin.
    #[must_use]
    pub fn new(plugin: PluginId, per_second: u32) -> Self {
        Self { plugin, per_second, second: Instant::now(), passed: 0, dropped: 0 }
    }

    /// Writes a line, or drops it where the second is full.
    pub fn write(&mut self, line: &LogLine) {
        if self.second.elapsed() >= Duration::from_secs(1) {
            self.next_second();
        }
        if self.passed >= self.per_second {
            self.dropped += 1;
            return;
        }
        self.passed += 1;
        let (plugin, message) = (self.plugin.as_str(), line.message.as_str());
        let fields = line.fields.as_ref().map(|fields| fields.get());
        match line.level {
            Level::Debug => tracing::debug!(target: "plugin", plugin, fields, "{message}"),
            Level::Info => tracing::info!(target: "plugin", plugin, fields, "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", plugin, fields, "{message}"),
            Level::Error => tracing::error!(target: "plugin", plugin, fields, "{message}"),
        }
    }

    fn next_second(&mut self) {
        if self.dropped > 0 {
            let (plugin, dropped) = (self.plugin.as_str(), self.dropped);
            tracing::warn!(target: "plugin", plugin, dropped, "log lines dropped (limits.logs_per_second)");
        }
        (self.second, self.passed, self.dropped) = (Instant::now(), 0, 0);
    }
}

/// Kinds of trouble that are told of in one second; beyond it they are counted only.
const KINDS: usize = 8;

/// Holds the log down where one plugin has the same trouble again and again: the first of each second and kind is
/// told, the others are counted.
#[derive(Debug, Default)]
pub struct Hush {
    second: Option<Instant>,
    told: BTreeSet<String>,
    withheld: u32,
}

impl Hush {
    /// Whether trouble of this kind is told of; where not, it is counted.
    pub fn lets(&mut self, kind: &str, now: Instant) -> bool {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.told.clear();
        }
        let first = self.told.len() < KINDS && self.told.insert(kind.to_owned());
        self.withheld = self.withheld.saturating_add(u32::from(!first));
        first
    }

    /// When the count is to be told; nothing where there is none.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.second.filter(|_| self.withheld > 0).map(|second| second + Duration::from_secs(1))
    }

    /// Takes the count.
    pub fn take(&mut self) -> u32 {
        std::mem::take(&mut self.withheld)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Hush;

    #[test]
    fn the_first_of_each_second_and_kind_is_told() {
        let (mut hush, start) = (Hush::default(), Instant::now());
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        assert!(hush.lets("a", at(0)) && hush.lets("b", at(10)));
        assert_eq!(hush.due(), None);
        assert!(!hush.lets("a", at(20)) && !hush.lets("a", at(999)));
        assert_eq!((hush.due(), hush.take(), hush.due()), (Some(at(1000)), 2, None));
        assert!(hush.lets("a", at(1000)) && !hush.lets("a", at(1999)) && hush.lets("b", at(1999)));
        let told = (0..100).filter(|kind| hush.lets(&kind.to_string(), at(3000))).count();
        assert_eq!((told, hush.take()), (8, 93), "and no more kinds than a reader can take in");
    }
}
