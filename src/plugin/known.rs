//! What is remembered of the files that plugins run from, and which of them are gone. Reads no directory.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::blueprint::Blueprint;
use crate::model::PluginId;

/// A file must be gone this long before its plugin goes: editors replace files by removing them first.
const VANISHED: Duration = Duration::from_secs(1);

/// What the manager remembers of a file.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) id: PluginId,
    /// Of what was loaded, or refused by the plugin itself; nothing where that is still to be tried.
    pub(super) hash: Option<u64>,
    pub(super) vanished: Option<Instant>,
}

impl Known {
    pub(super) fn of(blueprint: &Blueprint) -> Self {
        Self { id: blueprint.manifest.id.clone(), hash: Some(blueprint.source.hash), vanished: None }
    }
}

/// What a look at the known files came to.
#[derive(Debug)]
pub(super) struct Gone {
    /// Those that are gone.
    pub(super) now: Vec<String>,
    /// Whether any other has vanished and is waited for.
    pub(super) waiting: bool,
}

/// Which known files are gone: at once where the file bears another id now or the id another file, else after
/// a grace.
pub(super) fn gone(
    known: &mut BTreeMap<String, Known>,
    present: &BTreeSet<String>,
    changed: &[(String, Blueprint)],
) -> Gone {
    let mut gone = Gone { now: Vec::new(), waiting: false };
    let now = Instant::now();
    for (file, old) in known.iter_mut() {
        let successor = changed.iter().find(|(name, _)| name == file);
        let renamed = changed.iter().any(|(name, new)| name != file && new.manifest.id == old.id);
        if successor.is_some_and(|(_, new)| new.manifest.id != old.id) {
            gone.now.push(file.clone());
        } else if present.contains(file) {
            old.vanished = None;
        } else if renamed || now.duration_since(*old.vanished.get_or_insert(now)) >= VANISHED {
            gone.now.push(file.clone());
        } else {
            gone.waiting = true;
        }
    }
    gone
}
