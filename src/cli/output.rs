//! What the program says to a person. A reader that went away (`| head`) is no fault.

use std::io::{self, Write};

/// Prints to standard output.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints a line to standard output.
pub(super) fn line(text: &str) {
    print(&format!("{text}\n"));
}

/// Prints a remark to standard error, where it does not end up in a pipe.
pub(super) fn remark(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints what went wrong.
pub(super) fn error(text: &str) {
    remark(&format!("jarvis-bridge: {text}"));
}
