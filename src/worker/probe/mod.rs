//! A worker without a plugin: locks itself down as for one, tries what no plugin may do, and says in one line of
//! JSON what came of it. For `doctor` and for tests; nothing that it tries does harm where it succeeds.

#[cfg(target_os = "linux")]
mod attempts;

use std::{io, path::PathBuf};

use super::{child, lockdown::Lockdown};
use crate::model::{
    Limits,
    lockdown::{Piece, Probe},
};

/// The third argument of a process that was started only to be started.
const NOTHING: &str = "nothing";
/// The third argument of what ran instead of a probe that could run another program; the report so far follows.
const EXECUTED: &str = "executed";
/// More memory than any worker gets, in MiB.
const MUCH: usize = 1024;

/// What lies in the directory that a probe may do as it likes in, for it to be removed.
pub(super) const FILE: &str = "file";
/// As [`FILE`].
pub(super) const DIRECTORY: &str = "directory";

/// What a probe reaches for, none of which is anybody's.
#[derive(Debug)]
struct Targets {
    /// Its parent's process.
    bridge: u32,
    /// Where the bridge listens for it.
    port: u16,
    /// A directory that was made for it.
    place: PathBuf,
}

/// How much of the lock-down holds while a probe tries its walls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walls {
    /// Nothing: shows that an attempt would succeed.
    None,
    /// What is taken before the source is read: Landlock and no_new_privs.
    First,
    /// Everything, as for a plugin.
    All,
}

impl Walls {
    /// As the third argument of a worker.
    pub(super) fn argument(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::First => "first",
            Self::All => "all",
        }
    }

    fn parse(argument: &str) -> Option<Self> {
        [Self::None, Self::First, Self::All].into_iter().find(|walls| walls.argument() == argument)
    }
}

/// The name of the abstract socket that listens beside a TCP port.
#[cfg(target_os = "linux")]
pub(super) fn abstract_name(port: u16) -> String {
    format!("jarvis-bridge-probe-{port}")
}

/// Runs a probe; `bridge` is its parent's id, `told` the port on which that listens and the directory that it made,
/// or the report so far. Gives the process's exit code.
pub(super) fn run(bridge: u32, walls: &str, told: &[&str]) -> i32 {
    let told = |place: usize| told.get(place).copied().unwrap_or_default();
    match (walls, Walls::parse(walls)) {
        (NOTHING, _) => 0,
        (EXECUTED, _) => match serde_json::from_str(told(0)) {
            Ok(probe) => report(&executed(probe)),
            Err(error) => refuse(&error),
        },
        (_, Some(walls)) => match lock(bridge, walls) {
            Ok(probe) => {
                let targets = Targets { bridge, port: told(0).parse().unwrap_or(0), place: told(1).into() };
                report(&explore(probe, &targets))
            }
            Err(error) => refuse(&error),
        },
        (_, None) => refuse(&"a worker has no such walls"),
    }
}

fn lock(bridge: u32, walls: Walls) -> Result<Probe, child::ChildError> {
    child::settle()?;
    let mut probe = Probe { lacks: Vec::new(), landlock: 0, attempts: Vec::new(), memory: 0 };
    if walls == Walls::None {
        probe.lacks = Piece::ALL.to_vec();
        return Ok(probe);
    }
    let lockdown = Lockdown::begin(bridge)?;
    probe.landlock = lockdown.landlock;
    if walls == Walls::All {
        probe.lacks = lockdown.finish(Limits::default().memory)?;
    }
    Ok(probe)
}

fn explore(mut probe: Probe, targets: &Targets) -> Probe {
    probe.memory = memory();
    #[cfg(target_os = "linux")]
    attempts::all(&mut probe, targets);
    #[cfg(not(target_os = "linux"))]
    let _ = (targets.bridge, targets.port, &targets.place);
    probe
}

/// What this process does once it runs as another program.
fn executed(mut probe: Probe) -> Probe {
    #[cfg(target_os = "linux")]
    attempts::executed(&mut probe);
    #[cfg(not(target_os = "linux"))]
    probe.attempts.clear();
    probe
}

/// How many MiB this process gets, up to `MUCH`; gives them back.
fn memory() -> usize {
    let mut taken: Vec<Vec<u8>> = Vec::with_capacity(MUCH);
    while taken.len() < MUCH {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(1 << 20).is_err() {
            break;
        }
        taken.push(piece);
    }
    taken.len()
}

fn report(probe: &Probe) -> i32 {
    match serde_json::to_writer(io::stdout().lock(), probe) {
        Ok(()) => 0,
        Err(error) => refuse(&error),
    }
}

fn refuse(reason: &dyn std::fmt::Display) -> i32 {
    eprintln!("worker: {reason}");
    1
}
