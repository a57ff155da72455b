//! The words of a worker's lock-down: its pieces, what each needs, and what a probe of it found out.

use serde::{Deserialize, Serialize};

/// One piece of what keeps a worker in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// No way to gain rights by starting a program that has them.
    NoNewPrivileges,
    /// Landlock: no file can be opened, made, removed or run.
    Files,
    /// Landlock: no TCP socket can be bound or connected.
    Network,
    /// Landlock: no signal and no abstract socket reaches another process.
    Scopes,
    /// seccomp: memory, clocks, and the pipes that are open already; no other system call.
    SystemCalls,
    /// Resource limits: memory, and no further file, process or core dump.
    Limits,
    /// The kernel takes a worker first where memory runs out.
    OomScore,
    /// The bridge runs before its workers.
    Priority,
    /// A worker ends with its bridge.
    ParentDeath,
}

impl Piece {
    /// All of them, in the order in which they are reported.
    pub const ALL: [Self; 9] = [
        Self::NoNewPrivileges,
        Self::Files,
        Self::Network,
        Self::Scopes,
        Self::SystemCalls,
        Self::Limits,
        Self::OomScore,
        Self::Priority,
        Self::ParentDeath,
    ];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "no_new_privs",
            Self::Files => "Landlock for files",
            Self::Network => "Landlock for TCP",
            Self::Scopes => "Landlock for signals and abstract sockets",
            Self::SystemCalls => "seccomp",
            Self::Limits => "resource limits",
            Self::OomScore => "oom_score_adj",
            Self::Priority => "lower priority",
            Self::ParentDeath => "parent-death signal",
        }
    }

    /// What it does for the house.
    #[must_use]
    pub fn purpose(self) -> &'static str {
        match self {
            Self::NoNewPrivileges => "a worker can never gain rights",
            Self::Files => "a worker reaches no file",
            Self::Network => "a worker reaches no TCP port",
            Self::Scopes => "a worker reaches no other process",
            Self::SystemCalls => "a worker has memory, clocks and its pipe, no other system call",
            Self::Limits => "a worker's memory ends at its cap; it makes no process and no file",
            Self::OomScore => "where memory runs out a worker goes before the bridge",
            Self::Priority => "the bridge runs before its workers",
            Self::ParentDeath => "a worker ends with its bridge",
        }
    }

    /// What must be there for it to hold.
    #[must_use]
    pub fn needs(self) -> &'static str {
        match self {
            Self::NoNewPrivileges | Self::ParentDeath => "needs Linux",
            Self::Files => {
                "needs Linux 5.13 with Landlock enabled (`lsm=landlock,…` at boot); in Docker 23 or newer"
            }
            Self::Network => "needs Linux 6.7 with Landlock enabled",
            Self::Scopes => "needs Linux 6.12 with Landlock enabled",
            Self::SystemCalls => {
                "needs Linux with CONFIG_SECCOMP_FILTER on 64-bit x86, ARM or RISC-V, and a container that \
                 lets the system call `seccomp` through"
            }
            Self::Limits => "needs a system that knows resource limits",
            Self::OomScore => "needs Linux with a writable /proc",
            Self::Priority => "needs a system that lets a process lower its priority",
        }
    }
}

/// What a worker that locked itself down found out about its walls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// What does not hold here.
    pub lacks: Vec<Piece>,
    /// The version of Landlock that the kernel offers; 0 where it offers none.
    pub landlock: u32,
    /// What it tried then.
    pub attempts: Vec<Attempt>,
    /// How much memory it got before it was refused more, or before it had enough, in MiB.
    pub memory: usize,
}

/// One thing that no plugin may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// In a word or two, as in `open /etc/passwd`.
    pub what: String,
    /// What came of it.
    pub outcome: AttemptOutcome,
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The kernel refused it, for want of permission or by a limit.
    Refused,
    /// It was done.
    Done,
    /// It failed for another reason, so nothing is proved.
    Failed(String),
}
