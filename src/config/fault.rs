//! What is wrong with a configuration, each fault with the place to mend it.

use std::fmt;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it was said: `file:line`, an environment variable or a flag.
    pub place: String,
    /// What is wrong and what to write instead. Never shows the value of a secret.
    pub text: String,
}

/// Everything that is wrong, in the order file, environment, flags; by line within the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl Fault {
    /// Joins a place and what is wrong there.
    pub(super) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }

    /// The line of a place such as `file:line` or `file:line:column`, to put faults in the order of the text.
    pub(super) fn line(&self) -> usize {
        self.place.rsplit(':').map_while(|part| part.parse().ok()).last().unwrap_or_default()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let noun = if count == 1 { "fault" } else { "faults" };
        write!(formatter, "{count} {noun} in the configuration:")?;
        for Fault { place, text } in &self.0 {
            write!(formatter, "\n  {place}: {}", text.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}
