//! What the rest of the bridge may know of one plugin while its own task runs it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    actor::Control,
    backlog::Backlog,
    mailbox::Mailbox,
    manifest::Manifest,
    stats::{PluginHealth, Stats},
};
use crate::{
    effects::{Budget, Hush},
    model::{Failure, Filter, Permission, PluginId, shown},
};

/// Bytes of a traceback that are kept.
const MAX_TRACE: usize = 4096;
/// Characters of one line of it.
const MAX_LINE: usize = 300;

/// Where a plugin stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its worker is being made.
    Loading,
    /// It takes messages.
    Ready,
    /// It cannot run; `last_error` says why.
    Error,
    /// Its worker had to be ended too often: it stays off until its file changes or it is reloaded.
    Disabled,
    /// It is on its way out.
    Unloading,
}

/// One plugin as the registry holds it. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Shared(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: PluginId,
    facts: Mutex<Facts>,
    stats: Mutex<Stats>,
    mailbox: Mailbox,
    control: mpsc::Sender<Control>,
    patience: Duration,
    unasked: Budget,
    backlog: Backlog,
    drops: Mutex<Hush>,
}

/// What changes with a reload.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) manifest: Arc<Manifest>,
    pub(super) permissions: Vec<Permission>,
    pub(super) state: State,
    pub(super) hooks: BTreeSet<String>,
    pub(super) patterns: Vec<String>,
    pub(super) filters: Vec<Filter>,
    pub(super) last_error: Option<LastError>,
}

/// What went wrong last.
#[derive(Debug, Clone)]
pub(super) struct LastError {
    /// The sentence, as whoever asked has read it.
    pub(super) message: String,
    /// Where in the plugin it came from, for who looks after the plugin; empty where nothing is known.
    traceback: String,
    /// When, RFC 3339.
    pub(super) at: String,
}

impl LastError {
    /// Of a failure.
    pub(super) fn of(failure: &Failure) -> Self {
        let traceback = trace(&failure.traceback).join("\n");
        Self { message: failure.message.clone(), traceback, at: crate::model::now() }
    }

    /// Of a fault in a file, which nothing was called in.
    pub(super) fn fault(text: &str) -> Self {
        Self { message: text.to_owned(), traceback: String::new(), at: crate::model::now() }
    }

    /// Everything, the traceback in lines of its own.
    pub(super) fn text(&self) -> String {
        match self.traceback.is_empty() {
            true => self.message.clone(),
            false => format!("{}\n{}", self.message, self.traceback),
        }
    }
}

/// The lines of a traceback as they can be shown. It comes from a worker: nothing in it is believed, and it is
/// cut after its first lines, which say most.
fn trace(traceback: &str) -> Vec<String> {
    let mut left = MAX_TRACE;
    let lines = traceback.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| shown(line, MAX_LINE))
        .take_while(|line| {
            let fits = line.len() < left;
            left = left.saturating_sub(line.len() + 1);
            fits
        })
        .collect()
}

/// A failure's traceback for the log, which is one line; nothing where there is none.
pub(super) fn trace_line(failure: &Failure) -> Option<String> {
    let line = trace(&failure.traceback).join("; ");
    (!line.is_empty()).then_some(line)
}

impl Shared {
    pub(super) fn new(
        manifest: Arc<Manifest>,
        permissions: Vec<Permission>,
        mailbox: Mailbox,
        control: mpsc::Sender<Control>,
        patience: Duration,
    ) -> Self {
        let id = manifest.id.clone();
        let facts = Facts {
            manifest,
            permissions,
            state: State::Loading,
            hooks: BTreeSet::new(),
            patterns: Vec::new(),
            filters: Vec::new(),
            last_error: None,
        };
        Self(Arc::new(Inner {
            id,
            facts: Mutex::new(facts),
            stats: Mutex::new(Stats::default()),
            mailbox,
            control,
            patience,
            unasked: Budget::of_plugin(),
            backlog: Backlog::default(),
            drops: Mutex::default(),
        }))
    }

    pub(super) fn id(&self) -> &PluginId {
        &self.0.id
    }

    /// Looks at the facts, or changes them; nothing may wait while this is held.
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts something.
    pub(super) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.0.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long others wait for it.
    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.0.mailbox
    }

    /// Its counters, and what waits for it.
    pub(super) fn health(&self) -> PluginHealth {
        PluginHealth { waiting: self.mailbox().behind(), ..self.stats().health() }
    }

    /// Counts an event that its full mailbox dropped; gives how many, where it is time to say so again.
    pub(super) fn dropped_one(&self) -> Option<u32> {
        self.stats().dropped();
        let mut drops = self.0.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.lets("", Instant::now()).then(|| drops.take() + 1)
    }

    /// What it may put out without having been asked.
    pub(super) fn unasked(&self) -> &Budget {
        &self.0.unasked
    }

    /// What it has put out and nobody has taken yet.
    pub(super) fn backlog(&self) -> &Backlog {
        &self.0.backlog
    }

    pub(super) fn control(&self) -> &mpsc::Sender<Control> {
        &self.0.control
    }

    /// Keeps a failure for whoever asks what was wrong last.
    pub(super) fn failed(&self, failure: &Failure) {
        self.stats().failed(&failure.code);
        self.facts().last_error = Some(LastError::of(failure));
    }
}

#[cfg(test)]
mod tests {
    use super::LastError;
    use crate::model::{ErrorCode, Failure};

    #[test]
    fn a_traceback_is_shown_in_lines_and_bounded() {
        let mut failure = Failure::new(ErrorCode::HookError, "it failed");
        assert_eq!(LastError::of(&failure).text(), "it failed");
        failure.traceback = "\ta.lua:7: in \x1b[31mfunction 'f'\n\n\ta.lua:9: in g".into();
        let expected = "it failed\na.lua:7: in \u{fffd}[31mfunction 'f'\na.lua:9: in g";
        assert_eq!(LastError::of(&failure).text(), expected);
        failure.traceback = format!("first\n{}", "é".repeat(1_000) + "\n" + &"x\n".repeat(100_000));
        let text = LastError::of(&failure).text();
        assert!(text.starts_with("it failed\nfirst\néé") && text.len() < 4_200, "{}", text.len());
    }
}
