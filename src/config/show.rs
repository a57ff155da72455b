//! Prints a configuration with the source of every value. Sees only what is masked.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use super::{Config, plugins, settings::Setting};

/// The merged configuration as TOML, the source of each value behind it, secrets masked.
#[must_use]
pub fn show(config: &Config) -> String {
    let mut text = String::new();
    let mut section = &[][..];
    for Setting { key, value, place } in &config.settings {
        let depth = if plugins::is_plugin_key(key) { 2 } else { 1 };
        let (of, name) = key.split_at(depth);
        if of != section {
            let gap = if section.is_empty() { "" } else { "\n" };
            text += &format!("{gap}[{}]\n", dotted(of));
            section = of;
        }
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} = {}  # {}", dotted(name), toml_value(value), place.escape_debug());
    }
    text
}

/// The same as JSON: for every key its `value` and its `source`.
#[must_use]
pub fn show_json(config: &Config) -> Json {
    let mut root = Map::new();
    for Setting { key, value, place } in &config.settings {
        put(&mut root, key, json!({ "value": value, "source": place }));
    }
    root.into()
}

/// Puts a value below its key, and makes the objects above it.
fn put(object: &mut Map<String, Json>, key: &[String], value: Json) {
    match key {
        [] => {}
        [last] => drop(object.insert(last.clone(), value)),
        [first, rest @ ..] => {
            let inner = object.entry(first).or_insert_with(|| Map::new().into());
            if let Json::Object(inner) = inner {
                put(inner, rest, value);
            }
        }
    }
}

/// A key with its dots, parts in quotes where TOML wants them.
fn dotted(key: &[String]) -> String {
    let is_bare = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let part = |part: &String| if is_bare(part) { part.clone() } else { toml_text(part) };
    key.iter().map(part).collect::<Vec<_>>().join(".")
}

/// A value on one line, whatever is in it.
fn toml_value(value: &Json) -> String {
    match value {
        Json::Null => toml_text(""),
        Json::Bool(value) => value.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => toml_text(text),
        Json::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        Json::Object(table) => {
            let pair = |(name, value): (&String, &Json)| {
                format!("{} = {}", dotted(std::slice::from_ref(name)), toml_value(value))
            };
            format!("{{ {} }}", table.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    }
}

/// A text as a basic string of TOML: JSON's escapes are all known there, and DEL needs one too.
fn toml_text(text: &str) -> String {
    Json::from(text).to_string().replace('\u{7f}', "\\u007F")
}
