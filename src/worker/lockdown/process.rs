//! What a worker is to the rest of the system: bound to its bridge, without rights and inherited files, last to
//! run and first to go.

use std::{fs, io, os::fd::RawFd};

use rustix::process::{Signal, getppid, nice, set_parent_process_death_signal};

use super::{Held, LockError, failed};
use crate::model::lockdown::Piece;

/// How far a worker stands back behind the bridge. Beside two endless loops on two cores a neighbour's slowest
/// answers came soonest with 10: of 600, p99 5 ms and at most 7 ms, against 8 ms and 61 ms with 0, 13 ms and 23 ms
/// with 15. Bridge and workers share one session and one control group, within which alone the kernel compares
/// these: a worker must not be given a session of its own, or autogroups would give it the bridge's share.
const NICE: i32 = 10;
/// Of 1,000 the most: taken before everything else.
const OOM_SCORE: &str = "1000";
/// Where /proc does not say which files are open, so many are tried.
const DESCRIPTORS: RawFd = 1024;

/// Asks to be killed when the bridge's thread that started this process ends.
pub(super) fn end_with(parent: u32) -> Result<(), LockError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| failed(Piece::ParentDeath)(&error))?;
    // Where it has ended before that, no signal comes any more.
    let living = getppid().is_some_and(|id| id.as_raw_nonzero().get().cast_unsigned() == parent);
    if living { Ok(()) } else { Err(LockError::Orphan) }
}

/// Closes what the bridge, or what it is embedded in, left open by mistake. Only the three pipes stay.
pub(super) fn close_inherited() {
    let numbers = |directory: fs::ReadDir| -> Vec<RawFd> {
        let entries = directory.filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    };
    let open = fs::read_dir("/proc/self/fd").map_or_else(|_| (3..DESCRIPTORS).collect(), numbers);
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // It fails where nothing is open, as behind the directory that was just read.
        let _ = nix::unistd::close(descriptor);
    }
}

/// Lets the kernel take this process first where memory runs out.
pub(super) fn prefer_to_kill() -> Result<Held, LockError> {
    use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
    match fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        Ok(()) => Ok(Held::Yes),
        Err(error) if matches!(error.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem) => {
            Ok(Held::No)
        }
        Err(error) => Err(failed(Piece::OomScore)(&error)),
    }
}

/// Lets the bridge run first. Relative, because nobody may raise what a bridge that is nice itself gave up.
pub(super) fn step_back() -> Result<Held, LockError> {
    match nice(NICE) {
        Ok(_) => Ok(Held::Yes),
        Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS | rustix::io::Errno::NOSYS) => Ok(Held::No),
        Err(error) => Err(failed(Piece::Priority)(&error)),
    }
}

/// No program that is started from here has more rights than this process, whatever its file says.
pub(super) fn give_up_privileges() -> Result<(), LockError> {
    rustix::thread::set_no_new_privs(true).map_err(|error| failed(Piece::NoNewPrivileges)(&error))
}
