//! The process boundary: one worker process per plugin, frames over its pipes. The bridge's side starts,
//! watches and ends workers; it knows nothing of what their calls mean.

pub mod child;
mod clock;
pub mod frames;
#[cfg(test)]
mod fuzz;
mod link;
mod process;

use std::sync::atomic::{AtomicBool, Ordering};

pub use clock::Overrun;
pub use link::{Death, Event, Link};
pub use process::Spawner;

/// The first argument of a process that is a worker.
const WORKER_ARGUMENT: &str = "--serve-one-plugin";

/// Whether this executable can be its own worker. A fact about the process, so a static.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The first line of an embedder's `main`. In a worker process it serves its plugin and never returns; in
/// any other it notes that this executable can be started as a worker.
pub fn enter() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == WORKER_ARGUMENT) {
        std::process::exit(child::run());
    }
    ENTERED.store(true, Ordering::Relaxed);
}

/// Whether [`enter`] was called in this process.
#[must_use]
pub fn entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}
