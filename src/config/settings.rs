//! The merged configuration key by key, secrets masked. Knows where each value came from, not what it is for.

use std::{collections::BTreeSet, fmt};

use ::config::{Config as Merged, Value, ValueKind};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{
    check,
    layer::{self, Key},
    plugins,
    rules::RULES,
    secret,
};

/// The values of one plugin: what `jarvis.config` gives it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
pub struct PluginValues(pub Map<String, Json>);

impl fmt::Debug for PluginValues {
    /// Shows the keys only: any value may be a secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// One key as `config show` prints it.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Section, key, and more below `[plugins]`.
    pub(super) key: Key,
    /// The value, masked.
    pub(super) value: Json,
    /// `default`, `file:line`, a variable or a flag.
    pub(super) place: String,
}

/// All keys in the order of the defaults, then those of the plugins in the order of their names.
pub(super) fn list(merged: &Merged, secrets: &BTreeSet<Key>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (key, _) in RULES {
        if let Some(value) = layer::find(merged, key) {
            let key = key.split('.').map(str::to_owned).collect();
            settings.push(setting(key, value, secrets));
        }
    }
    if let Some(value) = layer::find(merged, plugins::SECTION) {
        list_below(vec![plugins::SECTION.into()], value, secrets, &mut settings);
    }
    settings
}

/// Every value below a key that is no table itself.
fn list_below(key: Key, value: &Value, secrets: &BTreeSet<Key>, settings: &mut Vec<Setting>) {
    let ValueKind::Table(table) = &value.kind else {
        settings.push(setting(key, value, secrets));
        return;
    };
    let mut names = table.iter().collect::<Vec<_>>();
    // Within a table TOML wants values before tables; names decide the rest.
    names.sort_by_key(|(name, value)| (matches!(value.kind, ValueKind::Table(_)), *name));
    for (name, value) in names {
        list_below([key.as_slice(), std::slice::from_ref(name)].concat(), value, secrets, settings);
    }
}

fn setting(key: Key, value: &Value, secrets: &BTreeSet<Key>) -> Setting {
    let is_secret = secrets.contains(&key) || key.iter().skip(1).any(|part| secret::is_secret_name(part));
    let place = check::place(value);
    let value = match json(value) {
        Json::String(text) if text.is_empty() => text.into(),
        _ if is_secret => secret::MASK.into(),
        value => value,
    };
    Setting { key, value, place }
}

/// A value as JSON, passwords in URLs masked.
fn json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Boolean(value) => (*value).into(),
        ValueKind::I64(number) => (*number).into(),
        ValueKind::Float(number) => (*number).into(),
        ValueKind::String(text) => secret::mask_url(text).into(),
        ValueKind::Array(items) => items.iter().map(json).collect(),
        ValueKind::Table(table) => table.iter().map(|(name, value)| (name.clone(), json(value))).collect(),
        // TOML has no other kinds.
        other => other.to_string().into(),
    }
}
