//! How much a plugin may put out when nobody asked it anything.

use std::time::{Duration, Instant};

/// What calls that no message started may put out. What senders set the pace of is not counted here.
#[derive(Debug)]
pub(super) struct Allowance {
    second: Instant,
    spent: usize,
}

impl Allowance {
    /// Emits and publishes a second.
    const PER_SECOND: usize = 100;

    /// A whole second's worth.
    pub(super) fn new() -> Self {
        Self { second: Instant::now(), spent: 0 }
    }

    /// Counts outputs.
    pub(super) fn spend(&mut self, outputs: usize) -> Result<(), String> {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.spent) = (Instant::now(), 0);
        }
        self.spent += outputs;
        if self.spent <= Self::PER_SECOND {
            return Ok(());
        }
        Err(format!("timers and start-up may emit and publish {} times a second in all", Self::PER_SECOND))
    }
}
