//! Medians and their ratios, as a table.

use std::time::Duration;

use crate::{
    load::{Faults, Outcome},
    parts::Subject,
    process::Memory,
};

/// One run of one subject.
pub(crate) struct Run {
    pub(crate) subject: Subject,
    pub(crate) outcome: Outcome,
    /// CPU time of the subject's own process and of those it has started.
    pub(crate) cpu: (Duration, Duration),
}

/// The runs of one load, in the order they ran.
pub(crate) struct Runs(pub(crate) Vec<Run>);

/// What a line shows of a run.
type Figure = fn(&Run) -> f64;

pub(crate) fn heading(broker: &str) {
    println!("\n{broker}");
    line(["", "echo", "through pipe", "bridge", "÷ echo", "÷ pipe", "target"].map(str::to_owned));
}

pub(crate) fn throughput(runs: &Runs, load: &str, target: &str) {
    figures(runs, &format!("{load}, answers/s"), |run| run.outcome.rate, target);
}

pub(crate) fn latencies(runs: &Runs, load: &str, targets: [&str; 2]) {
    let [median, tail] = targets;
    figures(runs, &format!("{load}, p50 µs"), |run| run.outcome.p50.as_secs_f64() * 1e6, median);
    figures(runs, &format!("{load}, p99 µs"), |run| run.outcome.p99.as_secs_f64() * 1e6, tail);
}

pub(crate) fn cpu(runs: &Runs, target: &str) {
    figures(runs, "  CPU ms per 10,000", |run| per_ten_thousand(run, run.cpu.0 + run.cpu.1), target);
    let own = runs.median(Subject::Bridge, |run| per_ten_thousand(run, run.cpu.0)).unwrap_or(0.0);
    let workers = runs.median(Subject::Bridge, |run| per_ten_thousand(run, run.cpu.1)).unwrap_or(0.0);
    println!("{:34}bridge {own:.0}, workers {workers:.0}", "  of that");
}

/// Counts of all runs; they are nobody's medians.
pub(crate) fn faults(runs: &Runs, subject: Subject) -> Faults {
    let mut sum = Faults::default();
    for Faults { lost, duplicated, disordered, failed } in runs.of(subject).map(|run| run.outcome.faults) {
        sum.lost += lost;
        sum.duplicated += duplicated;
        sum.disordered += disordered;
        sum.failed += failed;
    }
    sum
}

pub(crate) fn show_faults(runs: &Runs) {
    let shown = [Subject::Echo, Subject::Pipe, Subject::Bridge].map(|subject| {
        let Faults { lost, duplicated, disordered, failed } = faults(runs, subject);
        runs.of(subject).next().map_or("-".into(), |_| format!("{lost}/{duplicated}/{disordered}/{failed}"))
    });
    let [echo, pipe, bridge] = shown;
    line([
        "  lost/twice/disordered/failed".into(),
        echo,
        pipe,
        bridge,
        String::new(),
        String::new(),
        "0".into(),
    ]);
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
pub(crate) fn memory(bridge: Memory, workers: &[Memory], with_broker: bool) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let sum = |part: fn(&Memory) -> u64| megabytes(part(&bridge) + workers.iter().map(part).sum::<u64>());
    let each = |part: fn(&Memory) -> u64| {
        megabytes(workers.iter().map(part).sum::<u64>()) / workers.len().max(1) as f64
    };
    let broker = if with_broker { " and broker" } else { "" };
    println!(
        "memory under load: bridge{broker} with {} workers {:.1} MB PSS, {:.1} MB RSS (target: PSS 14 MB); \
         bridge alone {:.1} MB PSS; one worker {:.2} MB PSS, {:.2} MB private (target: 1 MB)",
        workers.len(),
        sum(|memory| memory.pss),
        sum(|memory| memory.rss),
        megabytes(bridge.pss),
        each(|memory| memory.pss),
        each(|memory| memory.private),
    );
}

#[expect(clippy::cast_precision_loss, reason = "some hundreds")]
pub(crate) fn idle(wakes: u64, cpu: Duration, during: Duration) {
    println!(
        "idle: {:.1} wake-ups/s (target: 5), {:.2} ms CPU/s",
        wakes as f64 / during.as_secs_f64(),
        cpu.as_secs_f64() * 1e3 / during.as_secs_f64(),
    );
}

impl Runs {
    fn of(&self, subject: Subject) -> impl Iterator<Item = &Run> {
        self.0.iter().filter(move |run| run.subject == subject)
    }

    fn median(&self, subject: Subject, figure: Figure) -> Option<f64> {
        median(self.of(subject).map(figure).collect())
    }

    /// The median of what each run of the bridge is to the reference's runs just before and just after it:
    /// what else the machine does changes from minute to minute, and both feel it.
    fn ratio(&self, reference: Subject, figure: Figure) -> Option<f64> {
        let is = |run: &&Run| run.subject == reference;
        let ratios = self.0.iter().enumerate().filter(|(_, run)| run.subject == Subject::Bridge).filter_map(
            |(index, run)| {
                let (before, after) = self.0.split_at(index);
                let near = [before.iter().rev().find(is), after.iter().find(is)].into_iter().flatten();
                let near: Vec<f64> = near.map(figure).filter(|value| *value > 0.0).collect();
                #[expect(clippy::cast_precision_loss, reason = "one or two")]
                let mean = near.iter().sum::<f64>() / near.len() as f64;
                mean.is_normal().then(|| figure(run) / mean)
            },
        );
        median(ratios.collect())
    }
}

fn figures(runs: &Runs, name: &str, figure: Figure, target: &str) {
    let show =
        |value: Option<f64>, places: usize| value.map_or("-".into(), |value| format!("{value:.places$}"));
    line([
        name.to_owned(),
        show(runs.median(Subject::Echo, figure), 0),
        show(runs.median(Subject::Pipe, figure), 0),
        show(runs.median(Subject::Bridge, figure), 0),
        show(runs.ratio(Subject::Echo, figure), 2),
        show(runs.ratio(Subject::Pipe, figure), 2),
        target.to_owned(),
    ]);
}

fn line([name, echo, pipe, bridge, by_echo, by_pipe, target]: [String; 7]) {
    println!("{name:34}{echo:>10}{pipe:>14}{bridge:>10}{by_echo:>9}{by_pipe:>9}   {target}");
}

#[expect(clippy::cast_precision_loss, reason = "counts of some thousands")]
fn per_ten_thousand(run: &Run, cpu: Duration) -> f64 {
    cpu.as_secs_f64() * 1e3 * 1e4 / run.outcome.sent.max(1) as f64
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}
