//! The bridge end to end beside a bare echo client, in one run: throughput, latency, CPU time, memory, and what was
//! lost. `cargo bench --bench end_to_end`; with `-- --quick` a few seconds of it, with `-- --bridge FILE` of another
//! build of the bridge, as before a change.
//!
//! Figures in one row were measured in turns, echo, bridge, echo, bridge, echo, within seconds of each other: the
//! ratios travel to other machines and other days, the absolute figures do not.

#![expect(clippy::print_stdout, reason = "a benchmark speaks to the person who runs it")]

mod echo;
mod load;
mod parts;
mod process;
mod report;
mod wire;

use std::{path::Path, thread, time::Duration};

use anyhow::{bail, ensure};

use load::{Load, Pace};
use parts::{Broker, Parts, Subject};
use report::{Run, Runs};

/// How long it all takes.
struct Plan {
    rounds: usize,
    /// Requests of a load that goes as fast as it can.
    fast: usize,
    /// Requests of a load of which each waits for a disk.
    kept: usize,
    /// Requests of a load at a fixed rate.
    steady: usize,
    /// How long nothing is sent.
    idle: Duration,
}

const FULL: Plan =
    Plan { rounds: 5, fast: 30_000, kept: 5_000, steady: 1_000, idle: Duration::from_secs(10) };
const QUICK: Plan = Plan { rounds: 1, fast: 1_000, kept: 200, steady: 100, idle: Duration::from_millis(500) };

const IN_FLIGHT: Pace = Pace::Closed { in_flight: 100 };
const STEADY: Pace = Pace::Open { per_second: 200 };

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--echo", name, address] => echo::serve(name, address, false),
        ["--echo-through-pipe", name, address] => echo::serve(name, address, true),
        flags => {
            let other = flags.windows(2).find(|pair| pair[0] == "--bridge").map(|pair| pair[1]);
            let bridge = Path::new(other.unwrap_or(env!("CARGO_BIN_EXE_jarvis-bridge")));
            // Cargo says `--bench` where it measures, and nothing where it only tests that this runs.
            let quick = flags.contains(&"--quick") || !flags.contains(&"--bench");
            measure(bridge, if quick { &QUICK } else { &FULL })
        }
    }
}

fn measure(bridge: &Path, plan: &Plan) -> anyhow::Result<()> {
    process::end_together()?;
    println!("{}", bridge.display());
    println!("medians of {} runs in turns; ratios are medians of neighbours' ratios", plan.rounds);
    if cfg!(debug_assertions) {
        println!("this is a debug build: the figures say nothing");
    }
    for (broker, name) in [
        (Broker::Mosquitto, "Mosquitto, set_tcp_nodelay true"),
        (Broker::Embedded, "embedded broker, its CPU time left out"),
    ] {
        match Parts::start(broker, bridge)? {
            Some(parts) => measure_on(&parts, broker, name, plan)?,
            None => println!("\n{name}: not installed, left out"),
        }
    }
    Ok(())
}

fn measure_on(parts: &Parts, broker: Broker, name: &str, plan: &Plan) -> anyhow::Result<()> {
    report::heading(name);
    let direct = [Subject::Echo, Subject::Bridge];
    let load = |qos, messages| Load { qos, pace: IN_FLIGHT, messages };

    let runs = turns(parts, plan, &direct, "bench", load(0, plan.fast))?;
    report::throughput(&runs, "QoS 0, 100 in flight", "÷ echo ≥ 0.85");
    report::cpu(&runs, "÷ echo ≤ 3");
    report::show_faults(&runs);

    let runs = turns(parts, plan, &direct, "bench", load(1, plan.fast))?;
    let (bridge, workers) = parts.bridge_memory();
    report::throughput(&runs, "QoS 1, 100 in flight", "÷ echo ≥ 0.9");
    report::cpu(&runs, "÷ echo ≤ 3");
    whole(&runs)?;

    let runs = turns(parts, plan, &direct, "keep", load(1, plan.kept))?;
    report::throughput(&runs, "QoS 1, each keeping state", "÷ echo ≥ 0.8");
    report::cpu(&runs, "");
    whole(&runs)?;

    let all = [Subject::Echo, Subject::Pipe, Subject::Bridge];
    let runs = turns(parts, plan, &all, "bench", Load { qos: 1, pace: STEADY, messages: plan.steady })?;
    report::latencies(&runs, "QoS 1, 200/s", ["÷ pipe ≤ 1.5", "÷ pipe ≤ 2"]);
    report::cpu(&runs, "÷ pipe ≤ 2");
    whole(&runs)?;

    report::memory(bridge, &workers, broker == Broker::Embedded);
    rest(parts, plan.idle);
    Ok(())
}

/// Looks at a bridge that has nothing to do.
fn rest(parts: &Parts, during: Duration) {
    let cpu_time = || {
        let (own, workers) = parts.cpu_time(Subject::Bridge);
        own + workers
    };
    let (wakes, cpu) = (parts.wakes(), cpu_time());
    thread::sleep(during);
    report::idle(parts.wakes() - wakes, cpu_time().saturating_sub(cpu), during);
}

/// Lets the subjects take turns, each reference once more at the end.
fn turns(
    parts: &Parts,
    plan: &Plan,
    subjects: &[Subject],
    command: &str,
    load: Load,
) -> anyhow::Result<Runs> {
    let references = subjects.iter().filter(|subject| **subject != Subject::Bridge);
    let order = std::iter::repeat_n(subjects, plan.rounds).flatten().chain(references);
    let mut runs = Vec::new();
    for subject in order.copied() {
        let before = parts.cpu_time(subject);
        let outcome = load::run(&parts.address, &subject.question(command), load)?;
        let after = parts.cpu_time(subject);
        let cpu = (after.0.saturating_sub(before.0), after.1.saturating_sub(before.1));
        runs.push(Run { subject, outcome, cpu });
    }
    Ok(Runs(runs))
}

/// Shows what went wrong; at QoS 1 nothing may, and then these figures are of no use.
fn whole(runs: &Runs) -> anyhow::Result<()> {
    report::show_faults(runs);
    for subject in [Subject::Echo, Subject::Pipe, Subject::Bridge] {
        let faults = report::faults(runs, subject);
        ensure!(faults.failed == 0, "{} answers were errors", faults.failed);
        if faults.lost + faults.duplicated > 0 {
            bail!("at QoS 1 {} answers were lost and {} came twice", faults.lost, faults.duplicated);
        }
    }
    Ok(())
}
