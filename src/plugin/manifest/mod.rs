//! What a plugin says about itself in its first lines, read without running it. Knows no registry, no limit.

mod fault;
#[cfg(test)]
mod fuzz;
mod header;
mod permissions;
mod reader;
#[cfg(test)]
mod tests;
mod value;

use std::collections::BTreeMap;

use serde_json::Value;

use self::reader::Reader;
pub use self::{fault::Fault, permissions::RawPermission, value::is_command_name};
use crate::model::{Filter, PluginId};

/// A plugin's metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// The file it was read from, for error texts.
    pub file: String,
    /// `@id`
    pub id: PluginId,
    /// `@name`
    pub name: String,
    /// `@version`
    pub version: semver::Version,
    /// `@author`
    pub author: String,
    /// `@description`
    pub description: String,
    /// `@license`
    pub license: Option<String>,
    /// `@priority`, lower first; 0 where it is not given.
    pub priority: i64,
    /// `@commands`: those that go to this plugin alone.
    pub commands: Vec<String>,
    /// `@subscribe`: what `on_mqtt` gets; the permission is included.
    pub subscribe: Vec<Filter>,
    /// The line of each of these.
    pub(in crate::plugin) subscribe_lines: Vec<u32>,
    /// `@emits`: the events it is known for.
    pub emits: Vec<String>,
    /// `@permissions` as written; [`Manifest::permissions`] fills the operator's values in.
    pub permissions: Vec<RawPermission>,
    /// `@timeout`, in milliseconds. A wish: the configuration says how far it counts.
    pub timeout_ms: Option<u64>,
    /// `@memory`, in bytes. A wish like the time-out.
    pub memory: Option<usize>,
    /// `@config`: a default for each key.
    pub config: BTreeMap<String, Value>,
}

/// What came of reading a header.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The metadata, or every fault in it.
    pub manifest: Result<Manifest, Vec<Fault>>,
    /// What is odd and does no harm.
    pub warnings: Vec<Fault>,
}

/// Reads the header of a Lua file.
///
/// ```
/// let header = "-- @id hello\n-- @name Hello\n-- @version 1.0.0\n-- @author Ada\n-- @description Says hello";
/// let manifest = jarvis_bridge::plugin::manifest::parse("hello.lua", header).manifest;
/// assert_eq!(manifest.unwrap().id.as_str(), "hello");
/// ```
#[must_use]
pub fn parse(file: &str, text: &str) -> Parsed {
    Reader::read(file, header::entries(text)).finish()
}
