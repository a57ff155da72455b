//! Shipped defaults ← the user's file ← the environment ← flags become one checked [`Config`], or all faults
//! at once. Knows keys, types and ranges, never what the rooms do with them.

mod check;
mod fault;
mod layer;
mod plugins;
mod resolve;
mod rules;
mod secret;
mod sections;
mod settings;
mod show;
mod sources;
mod text;
mod typed;

pub use fault::{Fault, Faults};
pub use sections::{
    Admin, Assistant, Breaker, Bridge, Broker, Chat, Delivery, Http, Limits, Location, Log, Mqtt, Paths,
    Reload,
};
pub use settings::PluginValues;
pub use show::{show, show_json};
pub use sources::{Flag, Sources};

use std::collections::BTreeMap;

use serde::Deserialize;

use layer::Layer;
use settings::Setting;

/// Every setting with its default and what it means: the only place of defaults.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// Everything a user can set, checked.
///
/// ```
/// use jarvis_bridge::config::{Config, Flag, Sources};
///
/// # let directory = std::env::temp_dir().join("jarvis-bridge-doc");
/// # let data = directory.to_string_lossy().into_owned();
/// let sources = Sources {
///     flags: vec![
///         Flag { key: "mqtt.url", value: "mqtt://nas".into(), name: "--broker" },
///         Flag { key: "paths.data", value: data, name: "--data" },
///     ],
///     ..Sources::default()
/// };
/// let config = Config::load(&sources)?;
/// assert_eq!(config.mqtt.url.as_deref(), Some("mqtt://nas"));
/// # Ok::<(), jarvis_bridge::config::Faults>(())
/// ```
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[paths]`
    pub paths: Paths,
    /// `[mqtt]`
    pub mqtt: Mqtt,
    /// `[broker]`
    pub broker: Broker,
    /// `[bridge]`
    pub bridge: Bridge,
    /// `[delivery]`
    pub delivery: Delivery,
    /// `[chat]`
    pub chat: Chat,
    /// `[limits]`
    pub limits: Limits,
    /// `[breaker]`
    pub breaker: Breaker,
    /// `[http]`
    pub http: Http,
    /// `[reload]`
    pub reload: Reload,
    /// `[location]`
    pub location: Location,
    /// `[log]`
    pub log: Log,
    /// `[plugins.<id>]`, secrets read from their files.
    #[serde(default)]
    pub plugins: BTreeMap<String, PluginValues>,
    /// The same once more, key by key, secrets masked: for [`show`] and [`show_json`].
    #[serde(skip)]
    settings: Vec<Setting>,
}

impl Config {
    /// Loads the layers, checks them and merges them.
    ///
    /// # Errors
    /// With every fault of every layer, each with its place.
    pub fn load(sources: &Sources) -> Result<Self, Faults> {
        let mut layers = vec![Layer::shipped()];
        layers.extend(sources.load_file());
        layers.push(Layer::from_environment(&sources.environment));
        layers.push(Layer::from_flags(&sources.flags));
        let mut faults = Vec::new();
        for layer in &mut layers {
            check::check(layer, sources);
            faults.append(&mut layer.faults);
        }
        let secrets = layers.iter().flat_map(|layer| layer.secrets.iter().cloned()).collect();
        let mut merged = layer::merge(layers).map_err(internal)?;
        resolve::resolve(&mut merged, sources, &mut faults);
        if faults.is_empty() {
            faults.extend(check::check_order(&merged));
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let settings = settings::list(&merged, &secrets);
        let config: Self = merged.try_deserialize().map_err(internal)?;
        Ok(Self { settings, ..config })
    }
}

/// What only a mismatch of the rules and the section structs can cause; a test keeps them equal.
fn internal(error: impl std::fmt::Display) -> Faults {
    Faults(vec![Fault { place: "configuration".into(), text: error.to_string() }])
}

#[cfg(test)]
mod tests;
