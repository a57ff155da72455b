//! Checks the values for plugins and reads the files that hold secrets. Which keys a plugin has is its own
//! matter: here only what can be JSON matters.

use std::{fs::File, io::Read, path::Path};

use ::config::{Map, Value, ValueKind};

use super::{check::place, fault::Fault, layer::Layer, sources::Sources};
use crate::model::PluginId;

/// The section with a table for every plugin.
pub(super) const SECTION: &str = "plugins";
/// The ending of a key whose value names a file.
const FILE: &str = "_file";
/// More than any secret has: a mistyped path to something large is an error, not a full memory.
const MAX_SECRET: u64 = 64 * 1024;

/// Whether a key belongs to a plugin.
pub(super) fn is_plugin_key(key: &[String]) -> bool {
    key.first().is_some_and(|section| section == SECTION)
}

/// Checks `[plugins]`; gives back what is good, with secrets in the place of their files.
pub(super) fn check(layer: &mut Layer, table: Map<String, Value>, sources: &Sources) -> Map<String, Value> {
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
        let values = check_plugin(layer, &id, &values, sources);
        good.insert(id, Value::new(Some(&place), values));
    }
    good
}

fn check_plugin(
    layer: &mut Layer,
    id: &str,
    values: &Map<String, Value>,
    sources: &Sources,
) -> Map<String, Value> {
    let mut good = Map::new();
    for (key, value) in values {
        let name = key.strip_suffix(FILE).filter(|name| !name.is_empty());
        let checked = match name {
            Some(name) if values.contains_key(name) => {
                Err((place(value), format!(" and `{name}` name the same value, keep one of them")))
            }
            Some(_) => secret_of(value, &layer.base, sources).map_err(|reason| (place(value), reason)),
            None => match find_no_number(value) {
                Some(place) => Err((place, " has a number that JSON has not".into())),
                None => Ok(value.clone()),
            },
        };
        match checked {
            Ok(value) => {
                let name = name.unwrap_or(key).to_owned();
                if name != *key {
                    layer.secrets.insert(vec![SECTION.into(), id.into(), name.clone()]);
                }
                good.insert(name, value);
            }
            Err((place, reason)) => {
                layer.faults.push(Fault::new(place, format!("`{SECTION}.{id}.{key}`{reason}")));
            }
        }
    }
    good
}

/// The value in the place of a `_file` key, or why there is none.
fn secret_of(value: &Value, base: &Path, sources: &Sources) -> Result<Value, String> {
    let ValueKind::String(path) = &value.kind else {
        return Err(format!(" must name a file, because it ends in `{FILE}`"));
    };
    let path = sources.locate(base, path);
    let shown = path.display();
    let text = read_secret(&path).map_err(|reason| format!(": `{shown}` {reason}"))?;
    Ok(Value::new(Some(&format!("{}, from {shown}", place(value))), text))
}

/// The content of a file without its last line break.
fn read_secret(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(MAX_SECRET + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_SECRET {
        return Err(format!("has more than {MAX_SECRET} bytes, that is no secret"));
    }
    if text.ends_with('\n') {
        text.pop();
        text.truncate(text.strip_suffix('\r').unwrap_or(&text).len());
    }
    Ok(text)
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
