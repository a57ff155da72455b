//! What is wrong with a plugin's metadata, and where.

use std::fmt;

/// The most faults or warnings that are kept of one file: nobody reads more, and a hostile header has many.
const MAX_FAULTS: usize = 50;

/// One fault, with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file, as in `weather.lua`.
    pub file: String,
    /// The line, counted from 1; nothing where something is missing.
    pub line: Option<u32>,
    /// What was found and what to write instead.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.file, self.message),
            None => write!(formatter, "{}: {}", self.file, self.message),
        }
    }
}

/// Gathers faults of one file.
#[derive(Debug)]
pub(super) struct Faults {
    file: String,
    list: Vec<Fault>,
    left_out: usize,
}

impl Faults {
    pub(super) fn of(file: &str) -> Self {
        Self { file: file.to_owned(), list: Vec::new(), left_out: 0 }
    }

    pub(super) fn at(&mut self, line: u32, message: impl Into<String>) {
        self.push(Some(line), message.into());
    }

    pub(super) fn missing(&mut self, message: impl Into<String>) {
        self.push(None, message.into());
    }

    /// Ends with how many were left out: what is missing first, then by line.
    pub(super) fn into_list(self) -> Vec<Fault> {
        let mut list = self.list;
        list.sort_by_key(|fault| fault.line);
        if self.left_out > 0 {
            let message = format!("and {} more", self.left_out);
            list.push(Fault { file: self.file, line: None, message });
        }
        list
    }

    fn push(&mut self, line: Option<u32>, message: String) {
        // What is missing comes last and is never left out: there are only a few such faults.
        if line.is_some() && self.list.len() >= MAX_FAULTS {
            self.left_out += 1;
            return;
        }
        self.list.push(Fault { file: self.file.clone(), line, message });
    }
}

/// The beginning of a text, safe to show in an error.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    let mut short = crate::model::shown(text, MOST);
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    short
}
