//! The process boundary: one worker process per plugin, frames over its pipes. The bridge's side starts,
//! watches and ends workers; it knows nothing of what their calls mean.

pub mod child;
mod clock;
mod ending;
mod examine;
pub mod frames;
#[cfg(test)]
mod fuzz;
mod link;
mod lockdown;
mod probe;
mod process;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};

pub use clock::Overrun;
pub use examine::ProbeError;
pub use link::{Death, Event, Link};
pub use probe::Walls;
pub use process::Spawner;

/// The first argument of a process that is a worker; the id of the process that starts it follows.
const WORKER_ARGUMENT: &str = "--serve-one-plugin";

/// Whether this executable can be its own worker. A fact about the process, so a static.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The first line of an embedder's `main`. In a worker process it serves its plugin and never returns; in
/// any other it notes that this executable can be started as a worker.
pub fn enter() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|argument| argument == WORKER_ARGUMENT) {
        // Those that follow are our own.
        let arguments: Vec<String> = arguments.filter_map(|argument| argument.into_string().ok()).collect();
        let mut arguments = arguments.iter().map(String::as_str);
        let bridge = arguments.next().and_then(|id| id.parse().ok()).unwrap_or(0);
        std::process::exit(match arguments.next() {
            None => child::run(bridge),
            Some(walls) => probe::run(bridge, walls, &arguments.collect::<Vec<_>>()),
        });
    }
    ENTERED.store(true, Ordering::Relaxed);
}

/// Whether [`enter`] was called in this process.
#[must_use]
pub fn entered() -> bool {
    ENTERED.load(Ordering::Relaxed)
}
