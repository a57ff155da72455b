//! What the rest of the bridge may know of one plugin while its own task runs it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::Serialize;
use tokio::sync::mpsc;

use super::{
    actor::Control, allowance::Allowance, backlog::Backlog, mailbox::Mailbox, manifest::Manifest,
    stats::Stats,
};
use crate::{
    effects::Hush,
    model::{Failure, Filter, Permission, PluginId},
};

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
    allowance: Mutex<Allowance>,
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
    pub(super) last_error: Option<String>,
}

impl Shared {
    pub(super) fn new(
        manifest: Arc<Manifest>,
        permissions: Vec<Permission>,
        mailbox: Mailbox,
        control: mpsc::Sender<Control>,
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
            allowance: Mutex::new(Allowance::new()),
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

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.0.mailbox
    }

    /// Counts an event that its full mailbox dropped; gives how many, where it is time to say so again.
    pub(super) fn dropped_one(&self) -> Option<u32> {
        self.stats().dropped();
        let mut drops = self.0.drops.lock().unwrap_or_else(PoisonError::into_inner);
        drops.lets("", Instant::now()).then(|| drops.take() + 1)
    }

    /// What it may put out without having been asked.
    pub(super) fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.0.allowance.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.facts().last_error = Some(failure.message.clone());
    }
}
