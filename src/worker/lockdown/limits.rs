//! Resource limits: the memory of the whole worker, and nothing new of anything else.

use rustix::process::{Resource, Rlimit, setrlimit};

use super::{LockError, failed};
use crate::model::lockdown::Piece;

/// What a worker needs beside its Lua heap: its own data, its stack where that is a thread's, and buffers.
const BESIDE: u64 = 32 << 20;
/// Address space that costs nothing: code, the C library's reserve for a second thread, untouched stacks.
const UNTOUCHED: u64 = 512 << 20;

/// What a plugin's stack gets; a worker with less makes a thread for it.
const STACK: u64 = crate::worker::child::STACK as u64;

/// Sets every limit for good; a Lua heap of `heap` bytes fits twice, since a value and its JSON are both
/// there for a moment.
pub(super) fn set(heap: usize) -> Result<(), LockError> {
    let data = u64::try_from(heap).unwrap_or(u64::MAX).saturating_mul(2).saturating_add(BESIDE);
    for (resource, most) in [
        // All that is private and can be written (Linux 4.7): what a process really takes of memory.
        (Resource::Data, data),
        // The stack of a process's first thread is not among it and grows by itself.
        (Resource::Stack, STACK),
        (Resource::Core, 0),
        // A file that grows gets a signal; a worker has pipes, which do not count.
        (Resource::Fsize, 0),
        // What is open stays open; nothing more can be.
        (Resource::Nofile, 0),
    ] {
        limit(resource, most)?;
    }
    #[cfg(target_os = "linux")]
    for (resource, most) in [
        (Resource::As, data.saturating_add(UNTOUCHED)),
        // Counted for the whole account but looked at only by whoever forks, so this harms nobody else.
        // Root is exempt.
        (Resource::Nproc, 0),
    ] {
        limit(resource, most)?;
    }
    Ok(())
}

fn limit(resource: Resource, most: u64) -> Result<(), LockError> {
    // A lower one of the surroundings stays.
    let most = rustix::process::getrlimit(resource).maximum.map_or(most, |maximum| maximum.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
        .map_err(|error| failed(Piece::Limits)(&error))
}
