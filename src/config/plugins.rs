//! Checks the values for plugins and reads the files that hold secrets. Which keys a plugin has is its own
//! matter: here only what can be JSON matters.

use std::{fs::File, io::Read, path::Path};

use ::config::{Map, Value, ValueKind};

use super::{check::place, fault::Fault, layer::Layer};
use crate::model::PluginId;

/// The section with a table for every plugin.
pub(super) const SECTION: &str = "plugins";
/// The ending of a key whose value names a file.
const FILE: &str = "_file";
/// More than any secret has: a mistyped path to something large is an error, not a full memory.
const MAX_SECRET: u64 = 64 * 1024;

/// Checks `[plugins]`; gives back what is good, with secrets in the place of their files.
pub(super) fn check(layer: &mut Layer, table: Map<String, Value>) -> Map<String, Value> {
    let mut good = Map::new();
    for (id, value) in table {
        let place = place(&value);
        if let Err(error) = PluginId::parse(&id) {
            layer.faults.push(Fault::new(place, error.to_string()));
            continue;
        }
        let ValueKind::Table(values) = value.kind else {
            let text =
                format!("`plugins.{id}` holds values for a plugin: write `[plugins.{id}]` and them below it");
            layer.faults.push(Fault::new(place, text));
            continue;
        };
        let values = check_plugin(layer, &id, values);
        good.insert(id, Value::new(Some(&place), values));
    }
    good
}

fn check_plugin(layer: &mut Layer, id: &str, values: Map<String, Value>) -> Map<String, Value> {
    let mut good = Map::new();
    let twice = |name: &str| values.contains_key(name);
    for (key, value) in &values {
        let full = format!("{SECTION}.{id}.{key}");
        let Some(name) = key.strip_suffix(FILE).filter(|name| !name.is_empty()) else {
            match find_no_number(value) {
                Some(place) => {
                    layer.faults.push(Fault::new(place, format!("`{full}` has a number that JSON has not")))
                }
                None => drop(good.insert(key.clone(), value.clone())),
            }
            continue;
        };
        let secret = match &value.kind {
            _ if twice(name) => Err(format!("`{full}` and `{name}` name the same value, keep one of them")),
            ValueKind::String(path) => {
                read_secret(&layer.base.join(path)).map_err(|reason| format!("`{full}`: {reason}"))
            }
            _ => Err(format!("`{full}` must name a file, because it ends in `{FILE}`")),
        };
        match secret {
            Ok((text, path)) => {
                let place = format!("{}, from {path}", place(value));
                good.insert(name.to_owned(), Value::new(Some(&place), text));
                layer.secrets.insert(vec![SECTION.into(), id.into(), name.into()]);
            }
            Err(text) => layer.faults.push(Fault::new(place(value), text)),
        }
    }
    good
}

/// The content of a file without its last line break, and the file's name.
fn read_secret(path: &Path) -> Result<(String, String), String> {
    let shown = path.display().to_string();
    let failed = |error: std::io::Error| format!("`{shown}` cannot be read: {error}");
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SECRET + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_SECRET {
        return Err(format!("`{shown}` has more than {MAX_SECRET} bytes, that is no secret"));
    }
    let trimmed =
        text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    Ok((trimmed.to_owned(), shown))
}

/// Where TOML's `nan` or `inf` stands in a value.
fn find_no_number(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::Float(number) if !number.is_finite() => Some(place(value)),
        ValueKind::Array(items) => items.iter().find_map(find_no_number),
        ValueKind::Table(table) => table.values().find_map(find_no_number),
        _ => None,
    }
}
