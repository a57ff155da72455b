//! What the rest of the bridge may know of one plugin while its own task runs it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tokio::sync::mpsc;

use super::{actor::Control, mail::Mail, manifest::Manifest, stats::Stats};
use crate::model::{Failure, Filter, Permission, PluginId};

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
    mailbox: mpsc::Sender<Mail>,
    control: mpsc::Sender<Control>,
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
        mailbox: mpsc::Sender<Mail>,
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

    pub(super) fn mailbox(&self) -> &mpsc::Sender<Mail> {
        &self.0.mailbox
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
