//! What a plugin has put out and nobody has taken yet, in bytes: events that listeners have not heard, texts that
//! filters have not passed. It lies in others' mailboxes, so who put it out is held to account.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The most that may be on its way: as much as the messages may take that cause it and wait with it, so that a backlog
/// of ten thousand of them drains.
const MOST: usize = 64 << 20;
/// What one event or text takes besides its bytes: itself, its cause, its place in a queue.
const OVERHEAD: usize = 512;

/// One plugin's count. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Backlog(Arc<AtomicUsize>);

/// Bytes on their way, until this is dropped.
#[derive(Debug)]
pub(super) struct Held {
    backlog: Backlog,
    bytes: usize,
}

impl Backlog {
    /// Whether so many more pieces, of so many bytes together, may go on their way. They are not counted yet: that
    /// is [`Backlog::hold`]'s, once they do.
    pub(super) fn check(&self, pieces: usize, bytes: usize) -> Result<(), String> {
        let held = self.0.load(Ordering::Relaxed);
        if pieces == 0 || held + bytes + pieces * OVERHEAD <= MOST {
            return Ok(());
        }
        Err(format!(
            "its events that nobody has heard yet take {} MiB already, at most {} MiB are allowed: emit smaller ones, \
             or fewer at a time",
            held >> 20,
            MOST >> 20
        ))
    }

    /// Counts what goes on its way.
    pub(super) fn hold(&self, bytes: usize) -> Held {
        let bytes = bytes + OVERHEAD;
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Held { backlog: self.clone(), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.backlog.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Backlog, MOST};

    #[test]
    fn what_is_on_its_way_counts_until_it_has_arrived() {
        let backlog = Backlog::default();
        let held: Vec<_> = (0..100).map(|_| backlog.hold(256 << 10)).collect();
        assert_eq!(backlog.check(1, 256 << 10), Ok(()), "the backlog of a hundred messages passes");
        assert!(backlog.check(1, MOST).unwrap_err().contains("take 25 MiB already, at most 64 MiB"));
        assert!(backlog.check(200_000, 0).is_err(), "many small ones are much");
        assert_eq!(backlog.check(0, 0), Ok(()), "what puts out nothing is never refused");
        drop(held);
        assert_eq!(backlog.check(1, MOST - 512), Ok(()));
    }
}
