//! How a worker that ended by itself came to its end, in words. Knows signals and last words, not calls.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

use rustix::process::Signal;

use crate::model::shown;

/// Characters of a worker's last words that are told.
const MAX_WORDS: usize = 300;
/// What Rust's and mlua's allocators say before they give up.
const NO_MEMORY: &str = "memory allocation of ";
/// Stands in the line before a panic's own words. Behind them comes a note on how to learn more, which nobody can act
/// on here.
const PANICKED: &str = " panicked at ";

/// The signals that end a worker, each with its name and what it stands for.
const SIGNALS: [(Signal, &str); 12] = [
    (Signal::KILL, "SIGKILL from outside: so ends whom the system takes when memory runs short"),
    (Signal::SEGV, "SIGSEGV: it touched memory that is not its own"),
    (Signal::BUS, "SIGBUS: it touched memory that is not there"),
    (Signal::ABORT, "SIGABRT: it gave itself up"),
    (Signal::SYS, "SIGSYS: it tried a system call that workers may not make"),
    (Signal::ILL, "SIGILL: it ran into code that is none"),
    (Signal::FPE, "SIGFPE: it calculated what cannot be"),
    (Signal::TRAP, "SIGTRAP: it ran into a trap"),
    (Signal::PIPE, "SIGPIPE: nobody read its pipe"),
    (Signal::XCPU, "SIGXCPU: it used all the CPU time of its process"),
    (Signal::XFSZ, "SIGXFSZ: it tried to write a file"),
    (Signal::TERM, "SIGTERM from outside"),
];

/// The end of a worker that nobody asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ending {
    /// What a person reads of it, as in `SIGSEGV: it touched memory that is not its own`.
    pub(super) how: String,
    pub(super) why: Why,
}

/// What ended a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It itself.
    Itself,
    /// It itself, for want of memory.
    Memory,
    /// Somebody outside: the system, where the machine's memory runs short.
    Outside,
}

impl Ending {
    /// Of a process, from its status and what it left on its standard error.
    pub(super) fn of(status: ExitStatus, last_words: &str) -> Self {
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => name(signal),
            (None, Some(code)) => format!("exit code {code}"),
            (None, None) => "no exit code".into(),
        };
        let words = pick(last_words);
        let why = match status.signal() {
            Some(signal) if signal == Signal::KILL.as_raw() => Why::Outside,
            _ if words.contains(NO_MEMORY) => Why::Memory,
            _ => Why::Itself,
        };
        let how = if words.is_empty() { how } else { format!("{how}: {}", shown(words, MAX_WORDS)) };
        Self { how, why }
    }

    /// Of a process that nobody could wait for.
    pub(super) fn unknown() -> Self {
        Self { how: "nobody knows how it ended".into(), why: Why::Itself }
    }
}

fn name(signal: i32) -> String {
    let known = SIGNALS.iter().find(|(known, _)| known.as_raw() == signal);
    known.map_or_else(|| format!("signal {signal}"), |(_, words)| (*words).to_owned())
}

/// The line that says most: that memory ran out, else what a panic was about, else the last one.
fn pick(text: &str) -> &str {
    let exhausted = text.lines().find(|line| line.contains(NO_MEMORY));
    let panic = || text.lines().skip_while(|line| !line.contains(PANICKED)).nth(1);
    let last = || text.lines().rev().find(|line| !line.trim().is_empty());
    exhausted.or_else(panic).or_else(last).unwrap_or("").trim()
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::{
        Ending,
        Why::{self, Itself, Memory, Outside},
    };

    #[test]
    fn an_end_is_told_in_words_and_want_of_memory_is_told_apart() {
        let check = |status: i32, words: &str, how: &str, why: Why| {
            let ending = Ending::of(ExitStatus::from_raw(status), words);
            assert_eq!((ending.how.as_str(), ending.why), (how, why));
        };
        check(11, "", "SIGSEGV: it touched memory that is not its own", Itself);
        check(0x80 | 6, "one\ntwo\n\n", "SIGABRT: it gave itself up: two", Itself);
        check(
            6,
            "memory allocation of 64 bytes failed\nnote: more\n",
            "SIGABRT: it gave itself up: memory allocation of 64 bytes failed",
            Memory,
        );
        check(
            101 << 8,
            "\nthread 'main' (7) panicked at src/a.rs:7:5:\nthere is no such limit\nnote: run with `RUST_BACKTRACE=1`\n",
            "exit code 101: there is no such limit",
            Itself,
        );
        check(9, "", "SIGKILL from outside: so ends whom the system takes when memory runs short", Outside);
        check(1 << 8, "worker: \x1b[31mno", "exit code 1: worker: \u{fffd}[31mno", Itself);
        check(27, "", "signal 27", Itself);
    }
}
