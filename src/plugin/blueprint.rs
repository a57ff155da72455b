//! All that a worker is made from, kept in memory so that a fresh one can be made at any time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use super::{
    BreakerSettings,
    manifest::{Fault, Manifest},
    source::Source,
};
use crate::model::{
    Limits, Rights, Topic,
    frame::{About, Load, Snapshot},
};

/// What the configuration says about plugins.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What each may use where its header asks for nothing else.
    pub limits: Limits,
    /// How far `@timeout` counts, in milliseconds.
    pub max_timeout_ms: u64,
    /// How far `@memory` counts, in bytes.
    pub max_memory: usize,
    /// How many plugins may run, each in a process of its own.
    pub max_plugins: usize,
    /// IANA name for `jarvis.time`.
    pub timezone: String,
    /// First levels of the bridge's own topics.
    pub base: Topic,
    /// The operator's values, by plugin id.
    pub values: BTreeMap<String, Map<String, Value>>,
    /// What is borne of each before it is left alone.
    pub breaker: BreakerSettings,
    /// Between two calls of a plugin's `health()`.
    pub health_interval: Duration,
}

/// One version of one plugin, checked.
#[derive(Debug)]
pub(super) struct Blueprint {
    pub(super) manifest: Arc<Manifest>,
    pub(super) rights: Rights,
    pub(super) limits: Limits,
    pub(super) source: Source,
    config: BTreeMap<String, Box<RawValue>>,
    timezone: String,
    base: Topic,
}

impl Blueprint {
    /// Joins a plugin's header and source with the operator's values.
    ///
    /// # Errors
    /// Every permission that cannot be read with those values in place.
    pub(super) fn draw(manifest: Manifest, source: Source, settings: &Settings) -> Result<Self, Vec<Fault>> {
        let operator = settings.values.get(manifest.id.as_str());
        let operator: BTreeMap<String, Value> =
            operator.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
        let rights = rights(&manifest, &operator, &settings.base)?;
        let values = manifest.config.iter().chain(&operator);
        let config = values.filter_map(|(key, value)| Some((key.clone(), to_raw_value(value).ok()?)));
        Ok(Self {
            rights,
            limits: limits(&manifest, settings),
            config: config.collect(),
            timezone: settings.timezone.clone(),
            base: settings.base.clone(),
            manifest: Arc::new(manifest),
            source,
        })
    }

    /// The first frame of a worker.
    pub(super) fn load(&self, snapshot: Snapshot) -> Load {
        let manifest = &self.manifest;
        Load {
            about: About {
                id: manifest.id.to_string(),
                name: manifest.name.clone(),
                version: manifest.version.to_string(),
                author: manifest.author.clone(),
                description: manifest.description.clone(),
            },
            chunk: self.source.file_name.clone(),
            source: self.source.text.to_string(),
            permissions: self.rights.permissions().to_vec(),
            limits: self.limits.clone(),
            timezone: self.timezone.clone(),
            base_topic: self.base.to_string(),
            snapshot,
        }
    }

    /// What the worker sees, from what is kept.
    pub(super) fn snapshot(&self, kept: crate::store::Kept) -> Snapshot {
        Snapshot { state: kept.state, config: self.config.clone(), overrides: kept.config }
    }
}

/// What the header asks for, with the operator's values in place. Requests go through the hooks and to no
/// subscription.
fn rights(
    manifest: &Manifest,
    operator: &BTreeMap<String, Value>,
    base: &Topic,
) -> Result<Rights, Vec<Fault>> {
    let fault = |line, message| Fault { file: manifest.file.clone(), line, message };
    let rights = Rights::of(manifest.id.as_str(), manifest.permissions(operator)?, base)
        .map_err(|error| vec![fault(None, error.to_string())])?;
    let filters = manifest.subscribe.iter().zip(&manifest.subscribe_lines);
    let inside = filters.filter_map(|(filter, line)| Some((filter, line, rights.requests_around(filter)?)));
    let faults: Vec<Fault> = inside
        .map(|(filter, line, requests)| {
            let message = format!(
                "`@subscribe {filter}` lies inside `{requests}`, which is for the bridge: remove it and use a hook \
                 such as on_command"
            );
            fault(Some(*line), message)
        })
        .collect();
    if faults.is_empty() { Ok(rights) } else { Err(faults) }
}

/// A header's wishes, as far as the configuration lets them count.
fn limits(manifest: &Manifest, settings: &Settings) -> Limits {
    let mut limits = settings.limits.clone();
    if let Some(timeout) = manifest.timeout_ms {
        let most = settings.max_timeout_ms.max(limits.wall_ms);
        limits.wall_ms = timeout.clamp(1, most);
        limits.cpu_ms = limits.cpu_ms.min(limits.wall_ms);
    }
    if let Some(memory) = manifest.memory {
        limits.memory = memory.min(settings.max_memory.max(limits.memory));
    }
    limits
}
