//! What the processors did: for a bridge and its workers, for this test, and for everybody else.

use crate::harness::{Bridge, workers_of};

/// Readings of the kernel's clocks, in its ticks.
pub(super) struct Usage {
    /// All processors, whatever they did.
    capacity: u64,
    /// Of that, whatever was not idle.
    busy: u64,
    /// Of that, what the bridge, its workers (also those that are gone) and this process did.
    ours: u64,
}

impl Usage {
    /// Reads them (proc(5): `/proc/stat` and `/proc/<id>/stat`).
    pub(super) fn read(jarvis: &Bridge) -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
        // The last two, for guests, are counted in the first two already.
        let times: Vec<u64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
        let capacity: u64 = times.iter().sum();
        let idle: u64 = times.iter().skip(3).take(2).sum();
        let ours = [jarvis.process_id(), std::process::id()];
        let ours = ours.into_iter().chain(workers_of(jarvis)).map(of_process).sum();
        Self { capacity, busy: capacity - idle, ours }
    }

    /// The part of the machine that others took since then, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "these are minutes, counted in hundredths of a second")]
    pub(super) fn others_since(&self, before: &Self) -> f64 {
        let busy = self.busy.saturating_sub(before.busy);
        let others = busy.saturating_sub(self.ours.saturating_sub(before.ours));
        others as f64 / self.capacity.saturating_sub(before.capacity).max(1) as f64
    }
}

/// A process's time with that of its children that have ended.
fn of_process(id: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name in parentheses may have spaces in it. After it, `utime` is the twelfth field, `cstime` the fifteenth.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}
