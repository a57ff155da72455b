//! Takes from a worker everything but its pipes, before any code of a plugin runs. Knows pieces of the system,
//! never what a plugin is.
//!
//! In two steps: what the process needs no more from its start goes in [`Lockdown::begin`], while there is one
//! thread, so that all later ones inherit it; what depends on the plugin's memory, and the system calls that
//! the rest of the lock-down itself needs, go in [`Lockdown::finish`], once the source has been read.

#[cfg(target_os = "linux")]
mod files;
mod limits;
#[cfg(target_os = "linux")]
mod process;
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
))]
mod syscalls;

use std::fmt::Display;

use crate::model::lockdown::Piece;

/// A piece that is there and does not hold, or a bridge that is gone: the worker must not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// The system has it and it failed all the same.
    #[error("locking the worker down failed at {}: {reason}", piece.name())]
    Failed {
        /// What.
        piece: Piece,
        /// What the system said.
        reason: String,
    },
    /// The bridge ended before this worker could ask to end with it.
    #[error("the bridge has ended")]
    Orphan,
}

/// Whether a piece holds.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    /// The system does not have it, or a container does not let it through.
    No,
}

/// A lock-down in the making.
#[derive(Debug)]
pub(super) struct Lockdown {
    lacks: Vec<Piece>,
    /// The version of Landlock that the kernel offers; 0 where it offers none.
    pub(super) landlock: u32,
}

impl Lockdown {
    /// Takes files, the network and other processes; `parent` is the bridge's process id. Must come while the
    /// process has one thread.
    #[cfg(target_os = "linux")]
    pub(super) fn begin(parent: u32) -> Result<Self, LockError> {
        let mut this = Self { lacks: Vec::new(), landlock: 0 };
        // Where the kernel keeps its quick clock is looked up once, in a file that is out of reach later.
        let _ = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        process::end_with(parent)?;
        process::close_inherited();
        this.note(Piece::OomScore, process::prefer_to_kill()?);
        this.note(Piece::Priority, process::step_back()?);
        process::give_up_privileges()?;
        this.landlock = files::restrict()?;
        for (piece, version) in files::VERSIONS {
            this.note(piece, if this.landlock >= version { Held::Yes } else { Held::No });
        }
        Ok(this)
    }

    /// Elsewhere the process boundary and its limits must do.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn begin(_parent: u32) -> Result<Self, LockError> {
        let lacks = Piece::ALL.into_iter().filter(|piece| *piece != Piece::Limits).collect();
        Ok(Self { lacks, landlock: 0 })
    }

    /// Caps the memory of the whole process for a Lua heap of that many bytes, then takes the system calls.
    /// Gives what does not hold here.
    pub(super) fn finish(mut self, heap: usize) -> Result<Vec<Piece>, LockError> {
        limits::set(heap)?;
        #[cfg(target_os = "linux")]
        self.take_system_calls()?;
        Ok(self.lacks)
    }

    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")
    ))]
    fn take_system_calls(&mut self) -> Result<(), LockError> {
        let held = syscalls::restrict()?;
        self.note(Piece::SystemCalls, held);
        Ok(())
    }

    /// There is no compiler of filters for this processor.
    #[cfg(all(
        target_os = "linux",
        not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))
    ))]
    fn take_system_calls(&mut self) -> Result<(), LockError> {
        self.note(Piece::SystemCalls, Held::No);
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn note(&mut self, piece: Piece, held: Held) {
        if held == Held::No {
            self.lacks.push(piece);
        }
    }
}

fn failed(piece: Piece) -> impl Fn(&dyn Display) -> LockError {
    move |reason| LockError::Failed { piece, reason: reason.to_string() }
}
