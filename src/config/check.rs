//! Checks one layer against the rules: what is wrong becomes a fault and leaves the layer, the rest stays.
//! Knows nothing of the other layers.

use std::path::Path;

use ::config::{Config as Merged, Map, Value, ValueKind};

use super::{
    fault::Fault,
    layer::{self, Layer},
    plugins,
    rules::{self, ORDERED, RULES, Rule},
    secret,
    sources::Sources,
};

/// Checks a layer and puts all its faults in the order of its text.
pub(super) fn check(layer: &mut Layer, sources: &Sources) {
    for (section, value) in std::mem::take(&mut layer.values) {
        let place = place(&value);
        let ValueKind::Table(table) = value.kind else {
            layer.faults.push(Fault::new(place, no_section(&section)));
            continue;
        };
        let good = match section.as_str() {
            plugins::SECTION => plugins::check(layer, table, sources),
            _ if !sections().any(|known| known == section) => {
                layer.faults.push(Fault::new(&place, unknown_section(&section)));
                continue;
            }
            _ => check_section(layer, &section, table, sources),
        };
        layer.values.insert(section, Value::new(Some(&place), good));
    }
    layer.faults.sort_by_key(Fault::line);
}

/// Checks what concerns two keys, when all are merged and each is good by itself.
pub(super) fn check_order(merged: &Merged) -> Vec<Fault> {
    let value = |key: &str| {
        let value = layer::find(merged, key)?;
        Some((place(value), value.clone().into_int().ok()?))
    };
    let check = |&(small, large): &(&str, &str)| {
        let ((place, number), (large_place, most)) = (value(small)?, value(large)?);
        let text = format!("`{small}` is {number}, but `{large}` ({large_place}) is only {most}");
        // The one to blame is the one that the user set.
        let blamed = if place == "default" { large_place } else { place };
        (number > most).then(|| Fault::new(blamed, text))
    };
    ORDERED.iter().filter_map(check).collect()
}

/// Where a value was written.
pub(super) fn place(value: &Value) -> String {
    value.origin().unwrap_or("default").to_owned()
}

fn check_section(
    layer: &mut Layer,
    section: &str,
    table: Map<String, Value>,
    sources: &Sources,
) -> Map<String, Value> {
    let mut good = Map::new();
    for (name, value) in table {
        let key = format!("{section}.{name}");
        let fault = match rules::find(&key) {
            Some(rule) => check_value(&key, rule, &value),
            None => {
                let text = format!("unknown key `{key}`{}", suggestion(section, &name));
                Some(Fault::new(place(&value), text))
            }
        };
        match fault {
            Some(fault) => layer.faults.push(fault),
            None if section == "paths" => drop(good.insert(name, located(value, &layer.base, sources))),
            None => drop(good.insert(name, value)),
        }
    }
    good
}

/// The same value with its path made absolute; an empty one stays empty.
fn located(value: Value, base: &Path, sources: &Sources) -> Value {
    match &value.kind {
        ValueKind::String(text) if !text.is_empty() => {
            let path = sources.locate(base, text).to_string_lossy().into_owned();
            Value::new(Some(&place(&value)), path)
        }
        _ => value,
    }
}

fn check_value(key: &str, rule: &Rule, value: &Value) -> Option<Fault> {
    let fault = |value: &Value, text: String| Some(Fault::new(place(value), format!("`{key}` {text}")));
    match (rule, &value.kind) {
        (Rule::Switch, ValueKind::Boolean(_)) => None,
        (Rule::Whole(range), ValueKind::I64(number)) if range.contains(number) => None,
        (Rule::Whole(range), ValueKind::I64(number)) => {
            fault(value, format!("is {number}, allowed are {} to {}", range.start(), range.end()))
        }
        (Rule::OneOf(words), ValueKind::String(text)) if words.contains(&text.as_str()) => None,
        (Rule::OneOf(words), ValueKind::String(text)) => {
            fault(value, format!("is {text:?}, allowed are {}", quoted(words)))
        }
        (Rule::Text(check), ValueKind::String(text)) => {
            check(text).err().and_then(|reason| fault(value, reason))
        }
        (Rule::Texts(check), ValueKind::Array(items)) => items.iter().find_map(|item| match &item.kind {
            ValueKind::String(text) => check(text).err().and_then(|reason| fault(item, reason)),
            _ => fault(item, format!("has {} in it, expected texts only", found(key, item))),
        }),
        _ => fault(value, format!("is {}, expected {}", found(key, value), expected(rule))),
    }
}

/// What stands there, without showing a secret.
fn found(key: &str, value: &Value) -> String {
    let hidden = secret::is_secret_name(key);
    match &value.kind {
        ValueKind::Table(_) => "a table".into(),
        ValueKind::Array(_) => "a list".into(),
        ValueKind::String(_) if hidden => "a text".into(),
        ValueKind::String(text) => format!("the text {text:?}"),
        ValueKind::Boolean(value) => value.to_string(),
        _ if hidden => "a number".into(),
        number => format!("the number {number}"),
    }
}

fn expected(rule: &Rule) -> String {
    match rule {
        Rule::Switch => "true or false".into(),
        Rule::Whole(range) => format!("a whole number from {} to {}", range.start(), range.end()),
        Rule::Text(_) => "a text in quotes".into(),
        Rule::OneOf(words) => format!("one of {}", quoted(words)),
        Rule::Texts(_) => "a list of texts, as in [\"a\", \"b\"]".into(),
    }
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

fn sections() -> impl Iterator<Item = &'static str> {
    let of_rules = RULES.iter().filter_map(|(key, _)| Some(key.split_once('.')?.0));
    of_rules.chain([plugins::SECTION])
}

/// A value where a section must stand.
fn no_section(name: &str) -> String {
    if sections().any(|known| known == name) {
        return format!("`{name}` is a section: write `[{name}]` and its keys below it");
    }
    format!("unknown key `{name}`{}", suggestion("", name))
}

fn unknown_section(name: &str) -> String {
    let hint = nearest(name, sections()).map(|known| format!(", did you mean `[{known}]`?"));
    format!("unknown section `[{name}]`{}", hint.unwrap_or_default())
}

/// The key that was meant: a similar one of the section, or the same one of another.
fn suggestion(section: &str, name: &str) -> String {
    let keys = || RULES.iter().filter_map(|(key, _)| key.split_once('.'));
    let own = keys().filter(|(of, _)| *of == section).map(|(_, name)| name);
    let similar = nearest(name, own).map(|known| (section, known));
    let meant = similar.or_else(|| keys().find(|(_, known)| *known == name));
    meant.map_or_else(String::new, |(section, known)| format!(", did you mean `{section}.{known}`?"))
}

/// The most similar word, if it is close: a third of its letters wrong at most, or the beginning or the end
/// of it left out.
fn nearest(word: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let distance = |known: &&str| strsim::damerau_levenshtein(word, known);
    let is_part = |known: &str| word.len() >= 3 && (known.starts_with(word) || known.ends_with(word));
    let is_close = |known: &&str| distance(known) <= 1.max(known.len() / 3) || is_part(known);
    known.filter(is_close).min_by_key(distance)
}
