//! Other programs: started, read line by line, ended with the value that holds them.

use std::{
    io::{BufRead, BufReader, Read, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// A program's path. Debian puts `mosquitto` where an ordinary user's PATH does not lead.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|program| program.is_file())
}

/// Says something past the test's captured output: also a test that passes shall be heard.
pub(crate) fn say(text: &str) {
    // A closed standard error is nobody who listens.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A child process; killed with this value.
pub(super) struct Process(Child);

impl Process {
    pub(super) fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    pub(super) fn stdout(&mut self) -> Lines {
        Lines::of(self.0.stdout.take().unwrap())
    }

    pub(super) fn stderr(&mut self) -> Lines {
        Lines::of(self.0.stderr.take().unwrap())
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(id, signal).unwrap();
    }

    /// Waits for its end.
    pub(super) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "process {} does not end", self.0.id());
            // There is no wait with a deadline; this one only looks, it decides nothing.
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where the process has ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a program to its end.
pub(super) fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a process prints, line by line, read by a thread of its own until it ends.
#[derive(Clone)]
pub(crate) struct Lines(Arc<(Mutex<Printed>, Condvar)>);

#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
        let lines = Self(Arc::default());
        let (into, output) = (lines.clone(), BufReader::new(output));
        thread::spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                into.change(|printed| printed.lines.push(line));
            }
            into.change(|printed| printed.ended = true);
        });
        lines
    }

    fn change(&self, change: impl FnOnce(&mut Printed)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// All that was printed so far.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.join("\n")
    }

    /// The first line that contains a text; waits for it.
    pub(crate) fn expect(&self, text: &str) -> String {
        self.find(text).unwrap_or_else(|| panic!("no line with `{text}` among these:\n{}", self.text()))
    }

    /// Waits until that many lines contain a text.
    pub(crate) fn expect_times(&self, text: &str, times: usize) {
        let enough = |lines: &[String]| lines.iter().filter(|line| line.contains(text)).count() >= times;
        let found = self.wait(|printed| enough(&printed.lines).then_some(()));
        assert!(found.is_some(), "not {times} lines with `{text}` among these:\n{}", self.text());
    }

    /// The first lines that contain these texts, each after the one before; waits for them.
    pub(crate) fn expect_block(&self, texts: &[&str]) -> Vec<String> {
        self.expect(texts.last().unwrap_or(&""));
        let text = self.text();
        let mut lines = text.lines();
        let found = texts.iter().map(|text| lines.find(|line| line.contains(text)).map(str::to_owned));
        found.collect::<Option<_>>().unwrap_or_else(|| panic!("not {texts:?} in this order:\n{text}"))
    }

    /// The first line that contains a text; waits until the process has ended.
    pub(super) fn find(&self, text: &str) -> Option<String> {
        let mut seen = 0;
        self.wait(|printed| {
            let new = &printed.lines[seen..];
            seen = printed.lines.len();
            new.iter().find(|line| line.contains(text)).cloned()
        })
    }
    /// Looks after each line until something is found, the process has ended, or patience has.
    fn wait<T>(&self, mut find: impl FnMut(&Printed) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut printed = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&printed) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                return None;
            }
            printed = self.0.1.wait_timeout(printed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
