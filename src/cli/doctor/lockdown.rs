//! Which pieces of the workers' lock-down hold here, and what a worker could do all the same.

use super::report::Report;
use crate::{
    app,
    model::lockdown::{AttemptOutcome, Piece, Probe},
};

const LOCKDOWN: &str = "lock-down";
const WALLS: &str = "walls";
const MEMORY: &str = "memory cap";
/// What a worker with the shipped heap of 16 MiB gets in all, in MiB.
const CAP: usize = 64;

pub(super) async fn check(report: &mut Report) {
    match app::probe_worker(None).await {
        Err(error) => report.fail(
            LOCKDOWN,
            error.to_string(),
            "run `jarvis-bridge call on_chat hello`: it starts workers as well and may say more",
        ),
        Ok(probe) => {
            kernel(&probe, report);
            for piece in Piece::ALL {
                match probe.lacks.contains(&piece) {
                    false => report.ok(LOCKDOWN, format!("{}: {}", piece.name(), piece.purpose())),
                    true => report.warn(LOCKDOWN, format!("{} does not hold", piece.name()), piece.needs()),
                }
            }
            walls(&probe, report);
            memory(&probe, report);
        }
    }
}

fn kernel(probe: &Probe, report: &mut Report) {
    let system = rustix::system::uname();
    let landlock = match probe.landlock {
        0 => "no Landlock".to_owned(),
        version => format!("Landlock {version}"),
    };
    let (name, release) = (system.sysname().to_string_lossy(), system.release().to_string_lossy());
    report.ok("kernel", format!("{name} {release} on {}, {landlock}", std::env::consts::ARCH));
}

/// What the attempts came to. Where a piece is missing, the warning about it says so too.
fn walls(probe: &Probe, report: &mut Report) {
    let through = |outcome: &AttemptOutcome| *outcome != AttemptOutcome::Refused;
    let holes = probe.attempts.iter().filter(|attempt| through(&attempt.outcome));
    let holes: Vec<&str> = holes.map(|attempt| attempt.what.as_str()).collect();
    let tried = probe.attempts.len();
    if holes.is_empty() {
        report.ok(WALLS, format!("a worker that tried {tried} ways out was refused each"));
        return;
    }
    let message = format!("a worker was not refused {} of {tried}: {}", holes.len(), holes.join(", "));
    if probe.lacks.is_empty() {
        report.fail(WALLS, message, "run no plugin that you have not read, and report this with the output");
    } else {
        report.warn(WALLS, message, "the Lua sandbox still stands before it; see the lock-down above");
    }
}

fn memory(probe: &Probe, report: &mut Report) {
    let message = format!("a worker got {} MiB before it was refused more", probe.memory);
    match probe.memory <= CAP {
        true => report.ok(MEMORY, message),
        false => report.warn(MEMORY, message, "the kernel does not count private memory: needs Linux 4.7"),
    }
}
