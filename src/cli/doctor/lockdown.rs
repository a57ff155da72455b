//! Which pieces of the workers' lock-down hold here, and what a worker could do all the same.

use super::report::Report;
use crate::{
    app,
    model::lockdown::{Attempt, AttemptOutcome, Piece, Probe},
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
    let (mut holes, mut unproved) = (Vec::new(), Vec::new());
    for Attempt { what, outcome } in &probe.attempts {
        match outcome {
            AttemptOutcome::Refused => {}
            AttemptOutcome::Done => holes.push(what.clone()),
            AttemptOutcome::Failed(reason) => unproved.push(format!("{what} ({reason})")),
        }
    }
    let tried = probe.attempts.len();
    if holes.is_empty() && unproved.is_empty() {
        return report.ok(WALLS, format!("a worker that tried {tried} ways out was refused each"));
    }
    if !unproved.is_empty() {
        report.warn(
            WALLS,
            format!(
                "whether a worker is refused is not proved for {} of {tried}: {}",
                unproved.len(),
                unproved.join(", ")
            ),
            "it failed for a reason of its own, in brackets: mend that and look again",
        );
    }
    if holes.is_empty() {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Report, walls};
    use crate::model::lockdown::{
        Attempt,
        AttemptOutcome::{self, Done, Failed, Refused},
        Piece, Probe,
    };

    #[test]
    fn what_failed_by_itself_is_no_hole() {
        let check = |outcomes: [AttemptOutcome; 2], lacks: &[Piece], expected: &[(&str, &str)]| {
            let attempts = ["fly", "dig"].into_iter().zip(outcomes);
            let attempts = attempts.map(|(what, outcome)| Attempt { what: what.into(), outcome });
            let attempts = attempts.collect();
            let probe = Probe { lacks: lacks.to_vec(), landlock: 0, attempts, memory: 0 };
            let mut report = Report::default();
            walls(&probe, &mut report);
            let checks = report.json()["checks"].take();
            let said = checks.as_array().unwrap().iter();
            let said: Vec<[&Value; 2]> = said.map(|check| [&check["status"], &check["message"]]).collect();
            let expected: Vec<[Value; 2]> =
                expected.iter().map(|(status, message)| [json!(status), json!(message)]).collect();
            assert_eq!(json!(said), json!(expected));
        };
        let failed = || Failed("no wings".into());
        let seccomp = &[Piece::SystemCalls];
        let unproved = ("warn", "whether a worker is refused is not proved for 1 of 2: fly (no wings)");
        check([Refused, Refused], &[], &[("ok", "a worker that tried 2 ways out was refused each")]);
        check([failed(), Refused], &[], &[unproved]);
        check([Done, Refused], &[], &[("fail", "a worker was not refused 1 of 2: fly")]);
        check([Done, Refused], seccomp, &[("warn", "a worker was not refused 1 of 2: fly")]);
        check([failed(), Done], seccomp, &[unproved, ("warn", "a worker was not refused 1 of 2: dig")]);
    }
}
