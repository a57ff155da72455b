//! What plugins write to the log. Each plugin has its own measure: a flood of one never silences another.

use std::time::{Duration, Instant};

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
