//! How many calls a worker is told of ahead of their turn. Knows how long calls take, not what they are.

use std::time::Duration;

/// What lies in the pipe behind the running call should take no longer than this: it can neither be taken back nor
/// overtaken, so an order, and whoever asks next, would wait for it.
const AHEAD: Duration = Duration::from_millis(20);

/// How long a plugin's calls take: longer at once, shorter little by little.
#[derive(Debug)]
pub(super) struct Pace(Duration);

/// A plugin is slow until it has shown otherwise.
impl Default for Pace {
    fn default() -> Self {
        Self(AHEAD)
    }
}

impl Pace {
    /// Takes note of a call that has ended.
    pub(super) fn took(&mut self, ran: Duration) {
        self.0 = ran.max((self.0 * 3 + ran) / 4);
    }

    /// Calls that may be under way at once, the running one among them.
    pub(super) fn calls(&self) -> usize {
        let calls = AHEAD.as_micros() / self.0.as_micros().max(1);
        usize::try_from(calls).unwrap_or(usize::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Pace;

    #[test]
    fn only_quick_calls_are_written_ahead() {
        let mut pace = Pace::default();
        assert_eq!(pace.calls(), 1);
        for _ in 0..20 {
            pace.took(Duration::from_micros(200));
        }
        assert!(pace.calls() > 50, "{pace:?}");
        pace.took(Duration::from_secs(5));
        assert_eq!(pace.calls(), 1, "one that is slow counts at once");
        pace.took(Duration::from_micros(200));
        assert_eq!(pace.calls(), 1);
    }
}
