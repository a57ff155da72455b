//! One layer of a configuration: values as they were written, each with its place. Knows how variables
//! and flags name keys, not which values are good.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
};

use ::config::{Config as Merged, ConfigError, Map, Source, Value, ValueKind};

use super::{DEFAULTS, fault::Fault, plugins, sources::Flag, text, typed::typed};

/// What the names of environment variables begin with.
const PREFIX: &str = "JARVIS__";

/// The path of a key: section, key, and more below `[plugins]`.
pub(super) type Key = Vec<String>;

/// A layer.
#[derive(Clone, Default)]
pub(super) struct Layer {
    /// Sections and their values.
    pub(super) values: Map<String, Value>,
    /// What is wrong with it.
    pub(super) faults: Vec<Fault>,
    /// Keys that are secret because their values came from files of their own.
    pub(super) secrets: BTreeSet<Key>,
    /// What relative paths in it start from.
    pub(super) base: PathBuf,
}

impl Layer {
    /// Reads the shipped defaults.
    pub(super) fn shipped() -> Self {
        let (values, faults) = text::read(None, DEFAULTS);
        Self { values, faults, ..Self::default() }
    }

    /// Reads the text of the user's file. One that is not TOML makes an empty layer with its faults.
    pub(super) fn from_file(path: &Path, text: &str) -> Self {
        let (values, faults) = text::read(Some(path.display().to_string()), text);
        let base = path.parent().map(Path::to_owned).unwrap_or_default();
        Self { values, faults, base, ..Self::default() }
    }

    /// Reads `JARVIS__SECTION__KEY` variables.
    pub(super) fn from_environment(environment: &BTreeMap<String, OsString>) -> Self {
        let mut layer = Self::default();
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            let key: Key = rest.split("__").map(str::to_ascii_lowercase).collect();
            let least = if plugins::is_plugin_key(&key) { 3 } else { 2 };
            if key.len() < least || key.iter().any(String::is_empty) {
                let text = "names no key: write `JARVIS__SECTION__KEY` or `JARVIS__PLUGINS__ID__KEY`";
                layer.faults.push(Fault::new(name, text));
                continue;
            }
            match value.to_str() {
                Some(text) => layer.set(&key, Value::new(Some(name), typed(&key, text))),
                None => layer.faults.push(Fault::new(name, "is not UTF-8")),
            }
        }
        layer
    }

    /// Takes the values that flags set.
    pub(super) fn from_flags(flags: &[Flag]) -> Self {
        let mut layer = Self::default();
        for Flag { key, value, name } in flags {
            let key: Key = key.split('.').map(str::to_owned).collect();
            layer.set(&key, Value::new(Some(&(*name).to_owned()), typed(&key, value)));
        }
        layer
    }

    /// Sets a value, and makes the tables above it.
    fn set(&mut self, key: &[String], value: Value) {
        let Some((last, above)) = key.split_last() else { return };
        let origin = value.origin().map(str::to_owned);
        let mut table = &mut self.values;
        for part in above {
            let entry = table.entry(part.clone()).or_insert_with(|| empty_table(origin.as_ref()));
            // `…__A` and `…__A__B`: the longer name comes later and wins.
            if !matches!(entry.kind, ValueKind::Table(_)) {
                *entry = empty_table(origin.as_ref());
            }
            let ValueKind::Table(inner) = &mut entry.kind else { return };
            table = inner;
        }
        table.insert(last.clone(), value);
    }
}

/// A table with nothing in it.
fn empty_table(origin: Option<&String>) -> Value {
    Value::new(origin, Map::<String, Value>::new())
}

/// Lays the layers over each other, the last on top.
pub(super) fn merge(layers: Vec<Layer>) -> Result<Merged, ConfigError> {
    layers.into_iter().fold(Merged::builder(), |builder, layer| builder.add_source(layer)).build()
}

/// A value of a merged configuration with its place, which the crate's own `get` forgets.
pub(super) fn find<'merged>(merged: &'merged Merged, key: &str) -> Option<&'merged Value> {
    key.split('.').try_fold(&merged.cache, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

impl std::fmt::Debug for Layer {
    /// Shows no values: some are secret.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Layer").field("sections", &self.values.keys()).finish_non_exhaustive()
    }
}
