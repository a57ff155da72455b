//! What the bridge shows of its plugins.

use serde::Serialize;

use super::{
    registry::Broken,
    shared::{LastError, Shared, State},
    stats::PluginHealth,
};

/// One plugin as `bridge/plugins` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct PluginInfo {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether its owner wants it to run.
    pub enabled: bool,
    /// Where it stands.
    pub state: State,
    /// The hooks it has.
    pub hooks: Vec<String>,
    /// What went wrong last; where it is known, the traceback follows in lines of its own.
    pub last_error: Option<String>,
}

/// More about one plugin.
#[derive(Debug, Clone, Serialize)]
pub struct PluginDetails {
    /// As in the list.
    #[serde(flatten)]
    pub info: PluginInfo,
    /// When `last_error` was, RFC 3339.
    pub last_error_at: Option<String>,
    /// Who wrote it.
    pub author: String,
    /// What it does.
    pub description: String,
    /// Its file in the plugin directory.
    pub file: String,
    /// Lower is asked first.
    pub priority: i64,
    /// The commands that go to it alone.
    pub commands: Vec<String>,
    /// What it may reach.
    pub permissions: Vec<String>,
    /// The filters it listens to.
    pub subscriptions: Vec<String>,
    /// The events it listens to.
    pub events: Vec<String>,
    /// Its counters.
    pub health: PluginHealth,
}

/// A plugin as the list shows it.
pub(super) fn info(shared: &Shared) -> PluginInfo {
    let facts = shared.facts();
    PluginInfo {
        id: shared.id().to_string(),
        name: facts.manifest.name.clone(),
        version: facts.manifest.version.to_string(),
        enabled: true,
        state: facts.state,
        hooks: facts.hooks.iter().cloned().collect(),
        last_error: facts.last_error.as_ref().map(LastError::text),
    }
}

/// A refused file as the list shows it.
pub(super) fn refused(file: &str, broken: &Broken) -> PluginInfo {
    PluginInfo {
        id: broken.id.clone(),
        name: file.to_owned(),
        version: String::new(),
        enabled: true,
        state: State::Error,
        hooks: Vec::new(),
        last_error: Some(broken.fault.clone()),
    }
}

/// All about a plugin.
pub(super) fn details(shared: &Shared) -> PluginDetails {
    let facts = shared.facts().clone();
    PluginDetails {
        info: info(shared),
        last_error_at: facts.last_error.map(|error| error.at),
        author: facts.manifest.author.clone(),
        description: facts.manifest.description.clone(),
        file: facts.manifest.file.clone(),
        priority: facts.manifest.priority,
        commands: facts.manifest.commands.clone(),
        permissions: facts.permissions.iter().map(ToString::to_string).collect(),
        subscriptions: facts.filters.iter().map(ToString::to_string).collect(),
        events: facts.patterns,
        health: shared.health(),
    }
}
