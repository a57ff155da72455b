//! Child processes that end with the program, and what `/proc` says of their time and memory. Linux only; elsewhere
//! every figure is nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

/// How long a process gets to end by itself.
const GOODBYE: Duration = Duration::from_secs(10);

/// A process that is asked to end when this is dropped.
pub(crate) struct Running {
    child: Child,
    /// Its standard output; kept open, or it would be ended by a write.
    output: Option<BufReader<ChildStdout>>,
}

/// Bytes of memory.
#[derive(Default, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident.
    pub(crate) rss: u64,
    /// Proportional: pages that several processes share count in parts.
    pub(crate) pss: u64,
    /// Its own alone.
    pub(crate) private: u64,
}

impl Running {
    /// Starts a process that lets its standard error through.
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let name = command.get_program().display().to_string();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("`{name}` cannot be started"))?;
        let output = child.stdout.take().map(BufReader::new);
        Ok(Self { child, output })
    }

    /// The first line of its output that has `mark` in it.
    pub(crate) fn line_with(&mut self, mark: &str) -> anyhow::Result<String> {
        let output = self.output.as_mut().context("its output is closed")?;
        let mut line = String::new();
        while !line.contains(mark) {
            line.clear();
            anyhow::ensure!(output.read_line(&mut line)? > 0, "it ended before it said `{mark}`");
        }
        Ok(line)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        terminate_process(self.child.id());
        let asked = Instant::now();
        while asked.elapsed() < GOODBYE {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Lets SIGTERM and SIGINT, which end this process without dropping anything, end its children too.
pub(crate) fn end_together() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let [mut terminate, mut interrupt] = {
        let _inside = runtime.enter();
        [signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        children(std::process::id()).into_iter().for_each(terminate_process);
        std::process::exit(1);
    });
    Ok(())
}

fn terminate_process(process: u32) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // It fails only where the process has ended.
        kill_process(pid, Signal::TERM).ok();
    }
}

/// The processes that a process has started and that still run.
pub(crate) fn children(process: u32) -> Vec<u32> {
    tasks(process)
        .filter_map(|task| fs::read_to_string(task.join("children")).ok())
        .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// CPU time so far of the threads that run, those with a name in `except` left out.
pub(crate) fn cpu_time(process: u32, except: &[&str]) -> Duration {
    let times = tasks_except(process, except).filter_map(|task| {
        // The first figure is nanoseconds on the CPU (Linux: Documentation/scheduler/sched-stats).
        let text = fs::read_to_string(task.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    });
    times.sum()
}

/// How often the threads that run have gone to sleep so far, and so how often they were woken.
pub(crate) fn sleeps(process: u32, except: &[&str]) -> u64 {
    let counts = tasks_except(process, except).filter_map(|task| {
        let text = fs::read_to_string(task.join("status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        line.trim().parse::<u64>().ok()
    });
    counts.sum()
}

pub(crate) fn memory(process: u32) -> Memory {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
    let sum = |keys: &[&str]| {
        let kilobytes = |line: &str| {
            let (key, value) = line.split_once(':')?;
            keys.contains(&key).then(|| value.trim().trim_end_matches(" kB").parse::<u64>().ok())?
        };
        text.lines().filter_map(kilobytes).sum::<u64>() * 1024
    };
    Memory { rss: sum(&["Rss"]), pss: sum(&["Pss"]), private: sum(&["Private_Clean", "Private_Dirty"]) }
}

fn tasks(process: u32) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn tasks_except(process: u32, except: &[&str]) -> impl Iterator<Item = PathBuf> {
    tasks(process).filter(move |task| {
        let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
        !except.contains(&name.trim_end())
    })
}
