//! What happened to a plugin, for `bridge/event`.

use serde::Serialize;
use serde_json::{Value, json};

use crate::model::PluginId;

/// An announcement about one plugin.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Notice {
    /// `plugin_loaded`, `plugin_reloaded`, `plugin_unloaded`, `plugin_error` or `plugin_disabled`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The plugin and what belongs to it.
    pub data: Value,
}

impl Notice {
    pub(super) fn loaded(id: &PluginId, version: &str) -> Self {
        Self { kind: "plugin_loaded", data: json!({ "id": id, "version": version }) }
    }

    pub(super) fn reloaded(id: &PluginId, version: &str) -> Self {
        Self { kind: "plugin_reloaded", data: json!({ "id": id, "version": version }) }
    }

    pub(super) fn unloaded(id: &PluginId) -> Self {
        Self { kind: "plugin_unloaded", data: json!({ "id": id }) }
    }

    pub(super) fn error(id: &str, error: &str) -> Self {
        Self { kind: "plugin_error", data: json!({ "id": id, "error": error }) }
    }

    pub(super) fn disabled(id: &PluginId, error: &str) -> Self {
        Self { kind: "plugin_disabled", data: json!({ "id": id, "error": error }) }
    }
}
