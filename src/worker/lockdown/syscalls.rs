//! seccomp: the few system calls that a VM behind a pipe needs. Comes last, since the rest of the lock-down
//! needs others.
//!
//! What is not on the list fails with `EPERM` and does not end the process: a C library that is newer than
//! this list tries a call, is refused and goes another way, and what a plugin gains from that is nothing. A
//! kill would tell no more than the error does, and the probe could not report what it tried.

use std::{collections::BTreeMap, io};

use nix::libc;
use rustix::{process::getpid, thread::gettid};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq,
    SeccompCmpOp::MaskedEq, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Held, LockError, failed};
use crate::model::lockdown::Piece;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: TargetArch = TargetArch::x86_64;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: TargetArch = TargetArch::aarch64;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: TargetArch = TargetArch::riscv64;

/// Allowed with any arguments.
const ALLOWED: &[libc::c_long] = &[
    // The pipes; musl writes with the second pair.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    // Memory. `mmap` and `mprotect` are below, `mremap` cannot make anything executable.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Clocks: system calls only where the kernel does not map them into the process.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    // Locks between the plugin's thread and the one that waits for it.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    // Asked by the C library's allocator, to know how many pools are worth while.
    libc::SYS_sched_getaffinity,
    // Seeds of hash tables and random numbers.
    libc::SYS_getrandom,
    // Signals of its own: the overflow of a stack, an abort. Without these an abort looks like something else.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    // What the kernel itself goes on with after a pause in a sleep (a laptop's lid, SIGSTOP).
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Takes all other system calls from every thread of this process.
pub(super) fn restrict() -> Result<Held, LockError> {
    let filter = compile().map_err(|error| failed(Piece::SystemCalls)(&error))?;
    match seccompiler::apply_filter_all_threads(&filter) {
        Ok(()) => Ok(Held::Yes),
        Err(Error::Seccomp(error)) if is_absent(&error) => Ok(Held::No),
        Err(error) => Err(failed(Piece::SystemCalls)(&error)),
    }
}

/// Not in this kernel (`ENOSYS`, or `EINVAL` without filters), or refused by the filter of a container.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL | libc::EPERM))
}

fn compile() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // New memory only, and none that could be run: what is executable now is all that ever will be.
    let executable = |argument| SeccompCondition::new(argument, Dword, MaskedEq(bits(libc::PROT_EXEC)), 0);
    let anonymous = bits(libc::MAP_ANONYMOUS);
    let anonymous = SeccompCondition::new(3, Dword, MaskedEq(anonymous), anonymous)?;
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![executable(2)?, anonymous])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![executable(2)?])?]);
    // An abort: glibc names the process and the thread, musl the thread.
    let process = u64::from(getpid().as_raw_nonzero().get().unsigned_abs());
    let thread = u64::from(gettid().as_raw_nonzero().get().unsigned_abs());
    let own = |id| SeccompRule::new(vec![SeccompCondition::new(0, Dword, Eq, id)?]);
    rules.insert(libc::SYS_tgkill, vec![own(process)?]);
    rules.insert(libc::SYS_tkill, vec![own(thread)?]);
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    SeccompFilter::new(rules, refusal, SeccompAction::Allow, ARCHITECTURE)?.try_into()
}

fn bits(flags: libc::c_int) -> u64 {
    u64::from(flags.unsigned_abs())
}
