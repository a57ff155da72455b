//! Resource limits: the memory of the whole worker, and nothing new of anything else.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
        (Resource::RLIMIT_DATA, data),
        // The stack of a process's first thread is not among it and grows by itself.
        (Resource::RLIMIT_STACK, STACK),
        (Resource::RLIMIT_CORE, 0),
        // A file that grows gets a signal; a worker has pipes, which do not count.
        (Resource::RLIMIT_FSIZE, 0),
        // What is open stays open; nothing more can be.
        (Resource::RLIMIT_NOFILE, 0),
    ] {
        limit(resource, most)?;
    }
    #[cfg(target_os = "linux")]
    for (resource, most) in [
        (Resource::RLIMIT_AS, data.saturating_add(UNTOUCHED)),
        // Counted for the whole account but looked at only by whoever forks, so this harms nobody else.
        // Root is exempt.
        (Resource::RLIMIT_NPROC, 0),
    ] {
        limit(resource, most)?;
    }
    Ok(())
}

fn limit(resource: Resource, most: u64) -> Result<(), LockError> {
    // A lower one of the surroundings stays.
    let lower = |(_, maximum): (u64, u64)| maximum.min(most);
    let set = getrlimit(resource).map(lower).and_then(|most| setrlimit(resource, most, most));
    set.map_err(|error| failed(Piece::Limits)(&error))
}

#[cfg(all(test, target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use nix::{errno::Errno, libc};
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

    use super::set;

    /// As in a container that does not let its processes ask for their limits.
    #[test]
    fn a_system_that_tells_no_limits_is_an_error_and_no_panic() {
        let tried = std::thread::spawn(|| {
            let rules = [(libc::SYS_prlimit64, Vec::new())].into_iter().collect();
            let refuse = SeccompAction::Errno(Errno::EPERM as u32);
            let processor = std::env::consts::ARCH.try_into().unwrap();
            let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, processor).unwrap();
            seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
            set(16 << 20).unwrap_err().to_string()
        });
        let error = tried.join().unwrap();
        assert!(error.starts_with("locking the worker down failed at resource limits: EPERM"), "{error}");
    }
}
