//! From header lines to a manifest: which keys there are, and every fault at once.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use serde_json::Value;

use super::{
    Manifest, Parsed, RawPermission,
    fault::{Faults, shortened},
    header::Entry,
    permissions,
    value::{is_command_name, parse_default, parse_duration, parse_size},
};
use crate::model::{Filter, PluginId, is_deceptive, message::is_event_name};

/// The most header lines with a key.
const MAX_KEYS: usize = 200;
/// The longest value in bytes.
const MAX_VALUE: usize = 4096;
/// The most commands, filters, events and permissions of one plugin, all together.
const MAX_ITEMS: usize = 256;

/// Keys that stand once, each with an example.
const SINGLE: [(&str, &str); 9] = [
    ("id", "weather"),
    ("name", "Weather"),
    ("version", "1.0.0"),
    ("author", "Ada"),
    ("description", "Answers /weather"),
    ("license", "MIT"),
    ("priority", "10"),
    ("timeout", "2s"),
    ("memory", "8 MiB"),
];
/// Keys whose lines add up, each with an example.
const SEVERAL: [(&str, &str); 5] = [
    ("commands", "weather, forecast"),
    ("subscribe", "zigbee2mqtt/+"),
    ("emits", "weather_changed"),
    ("permissions", "http:api.example.com"),
    ("config", "city = \"Lyon\""),
];
/// Keys of the plugin contract that this version cannot honour. To ignore them would run a plugin without
/// what it needs.
const LATER: [&str; 5] = ["requires", "depends", "extends", "exports", "start"];
/// What the Lua language server reads; it may stand above a file's first function.
const LUALS: [&str; 27] = [
    "alias",
    "as",
    "async",
    "cast",
    "class",
    "deprecated",
    "diagnostic",
    "enum",
    "field",
    "generic",
    "language",
    "meta",
    "module",
    "nodiscard",
    "operator",
    "overload",
    "package",
    "param",
    "private",
    "protected",
    "public",
    "return",
    "see",
    "source",
    "type",
    "vararg",
    "nodoc",
];

/// Takes one entry after the other, then makes the manifest.
pub(super) struct Reader<'text> {
    file: &'text str,
    /// Keys that were given at all, also wrongly.
    given: BTreeSet<&'static str>,
    single: BTreeMap<&'static str, Entry<'text>>,
    /// How many items all lists have.
    items: usize,
    commands: Vec<String>,
    subscribe: Vec<Filter>,
    subscribe_lines: Vec<u32>,
    emits: Vec<String>,
    permissions: Vec<RawPermission>,
    config: BTreeMap<String, (u32, Value)>,
    /// Known keys that an unknown one was probably meant to be.
    misspelt: BTreeMap<&'static str, Entry<'text>>,
    faults: Faults,
    warnings: Faults,
}

impl<'text> Reader<'text> {
    pub(super) fn read(file: &'text str, entries: impl Iterator<Item = Entry<'text>>) -> Self {
        let mut reader = Self {
            file,
            given: BTreeSet::new(),
            single: BTreeMap::new(),
            items: 0,
            commands: Vec::new(),
            subscribe: Vec::new(),
            subscribe_lines: Vec::new(),
            emits: Vec::new(),
            permissions: Vec::new(),
            config: BTreeMap::new(),
            misspelt: BTreeMap::new(),
            faults: Faults::of(file),
            warnings: Faults::of(file),
        };
        for (count, entry) in entries.filter(|entry| !LUALS.contains(&entry.key)).enumerate() {
            if count == MAX_KEYS {
                reader
                    .faults
                    .at(entry.line, format!("more than {MAX_KEYS} lines with an `@key`: shorten the header"));
                break;
            }
            reader.take(entry);
        }
        reader
    }

    fn take(&mut self, entry: Entry<'text>) {
        let Entry { line, key, value } = entry;
        if LATER.contains(&key) {
            let message =
                format!("`@{key}` is not supported by this version of jarvis-bridge: remove the line");
            return self.faults.at(line, message);
        }
        let known = SINGLE.iter().chain(&SEVERAL).find(|(known, _)| *known == key);
        let Some(&(key, example)) = known else { return self.take_unknown(entry) };
        self.given.insert(key);
        // Also a list of nothing but commas.
        if value.trim_matches([',', ' ']).is_empty() {
            return self.faults.at(line, format!("`@{key}` is empty: write it as in `-- @{key} {example}`"));
        }
        if value.len() > MAX_VALUE {
            let length = value.len();
            return self
                .faults
                .at(line, format!("`@{key}` has {length} bytes, at most {MAX_VALUE} are allowed"));
        }
        if value.chars().any(|character| is_deceptive(character) && character != '\t') {
            return self.faults.at(line, format!("`@{key}` has a control character in it: remove it"));
        }
        match key {
            "commands" => self.take_items(entry, Self::take_command),
            "subscribe" => self.take_items(entry, Self::take_filter),
            "emits" => self.take_items(entry, Self::take_event),
            "permissions" => self.take_items(entry, Self::take_permission),
            "config" => self.take_default(entry),
            _ => self.take_single(key, entry),
        }
    }

    fn take_single(&mut self, key: &'static str, entry: Entry<'text>) {
        match self.single.entry(key) {
            btree_map::Entry::Vacant(place) => {
                place.insert(entry);
            }
            btree_map::Entry::Occupied(first) => {
                let before = first.get().line;
                self.faults
                    .at(entry.line, format!("`@{key}` stands in line {before} too: keep one of the two"));
            }
        }
    }

    fn take_items(&mut self, entry: Entry<'text>, take: fn(&mut Self, u32, &str) -> Result<(), String>) {
        let Entry { line, key, value } = entry;
        for item in value.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            self.items += 1;
            if self.items > MAX_ITEMS {
                return self.faults.at(
                    line,
                    format!("more than {MAX_ITEMS} items in the lists of this header: shorten `@{key}`"),
                );
            }
            if let Err(message) = take(self, line, item) {
                self.faults.at(line, message);
            }
        }
    }

    fn take_command(&mut self, line: u32, name: &str) -> Result<(), String> {
        let found = shortened(name);
        if let Some(bare) = name.strip_prefix('/') {
            return Err(format!(
                "`{found}` is not a command: write it without `/`, as in `{}`",
                shortened(bare)
            ));
        }
        if !is_command_name(name) {
            return Err(format!(
                "`{found}` is not a command: write letters, digits, `_`, `.` and `-`, levels separated by `/`, \
                 and a comma between two commands"
            ));
        }
        if self.commands.iter().any(|known| known == name) {
            self.warnings.at(line, format!("the command `{found}` is named twice"));
            return Ok(());
        }
        self.commands.push(name.to_owned());
        Ok(())
    }

    fn take_filter(&mut self, line: u32, text: &str) -> Result<(), String> {
        if text.contains("{config.") {
            return Err(format!(
                "`{}` has a place for a value, which only `@permissions` can have: call \
                 `jarvis.mqtt.subscribe` in `on_startup` instead",
                shortened(text)
            ));
        }
        let filter = Filter::parse(text).map_err(|error| error.to_string())?;
        if !self.subscribe.contains(&filter) {
            self.subscribe.push(filter);
            self.subscribe_lines.push(line);
        }
        Ok(())
    }

    fn take_event(&mut self, _line: u32, name: &str) -> Result<(), String> {
        if !is_event_name(name) {
            return Err(format!(
                "`{}` is not an event's name: write at most 64 letters, digits, `_`, `.`, `:` and `-`",
                shortened(name)
            ));
        }
        if !self.emits.iter().any(|known| known == name) {
            self.emits.push(name.to_owned());
        }
        Ok(())
    }

    fn take_permission(&mut self, line: u32, text: &str) -> Result<(), String> {
        permissions::check(text)?;
        if !self.permissions.iter().any(|known| known.text == text) {
            self.permissions.push(RawPermission { text: text.to_owned(), line });
        }
        Ok(())
    }

    fn take_default(&mut self, entry: Entry<'text>) {
        let (key, value) = match parse_default(entry.value) {
            Ok(default) => default,
            Err(message) => return self.faults.at(entry.line, message),
        };
        if let Some((before, _)) = self.config.get(&key) {
            let message = format!("`@config {key}` stands in line {before} too: keep one of the two");
            return self.faults.at(entry.line, message);
        }
        self.config.insert(key, (entry.line, value));
    }

    fn take_unknown(&mut self, entry: Entry<'text>) {
        let found = shortened(entry.key);
        let Some(meant) = closest(entry.key) else {
            return self.warnings.at(entry.line, format!("`@{found}` is not known and was ignored"));
        };
        self.misspelt.entry(meant).or_insert(entry);
        let message = format!("`@{found}` is not known and was ignored: did you mean `@{meant}`?");
        self.warnings.at(entry.line, message);
    }

    pub(super) fn finish(mut self) -> Parsed {
        let id = self.required("id", |text| PluginId::parse(text).map_err(|error| error.to_string()));
        let name = self.required("name", |text| Ok(text.to_owned()));
        let version = self.required("version", parse_version);
        let author = self.required("author", |text| Ok(text.to_owned()));
        let description = self.required("description", |text| Ok(text.to_owned()));
        let license = self.optional("license", |text| Ok(text.to_owned()));
        let priority = self.optional("priority", parse_priority);
        let timeout_ms = self.optional("timeout", |text| {
            parse_duration(text)
                .ok_or_else(|| bad("timeout", text, "a time", "`2s`, `500ms` or plain seconds"))
        });
        let memory = self.optional("memory", |text| {
            parse_size(text).ok_or_else(|| bad("memory", text, "a size", "`8 MiB` or bytes, as in `8388608`"))
        });
        let warnings = self.warnings.into_list();
        let faults = self.faults.into_list();
        let (Some(id), Some(name), Some(version), Some(author), Some(description), true) =
            (id, name, version, author, description, faults.is_empty())
        else {
            return Parsed { manifest: Err(faults), warnings };
        };
        let manifest = Manifest {
            file: self.file.to_owned(),
            id,
            name,
            version,
            author,
            description,
            license,
            priority: priority.unwrap_or_default(),
            commands: self.commands,
            subscribe: self.subscribe,
            subscribe_lines: self.subscribe_lines,
            emits: self.emits,
            permissions: self.permissions,
            timeout_ms,
            memory,
            config: self.config.into_iter().map(|(key, (_, value))| (key, value)).collect(),
        };
        Parsed { manifest: Ok(manifest), warnings }
    }

    /// Gives nothing only where it has noted a fault.
    fn required<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        if !self.given.contains(key) {
            let message = self.missing(key);
            self.faults.missing(message);
        }
        self.optional(key, parse)
    }

    fn optional<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let entry = self.single.get(key)?;
        parse(entry.value).map_err(|message| self.faults.at(entry.line, message)).ok()
    }

    fn missing(&self, key: &str) -> String {
        if let Some(entry) = self.misspelt.get(key) {
            let (line, found) = (entry.line, shortened(entry.key));
            return format!("missing `@{key}`: line {line} says `@{found}`, write `@{key}`");
        }
        let example = SINGLE.iter().find(|(known, _)| *known == key).map_or("…", |(_, example)| example);
        format!("missing `@{key}`: add a line such as `-- @{key} {example}`")
    }
}

fn parse_version(text: &str) -> Result<semver::Version, String> {
    semver::Version::parse(text)
        .map_err(|_| bad("version", text, "a version", "three numbers, as in `1.0.0`"))
}

fn parse_priority(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| bad("priority", text, "a whole number", "one such as `10` or `-10`; lower comes first"))
}

fn bad(key: &str, found: &str, kind: &str, instead: &str) -> String {
    format!("`@{key} {}` is not {kind}: write {instead}", shortened(found))
}

/// The known key that a misspelt one most resembles, if it resembles any.
fn closest(found: &str) -> Option<&'static str> {
    let lower = found.to_lowercase();
    let lower = lower.trim_end_matches(':');
    // The distance is quadratic in time: nobody misspells a key at this length.
    if lower.len() > 32 {
        return None;
    }
    let keys = || SINGLE.iter().chain(&SEVERAL).map(|(key, _)| *key);
    // As in `desc`.
    if let Some(key) = keys().find(|key| lower.len() >= 3 && key.starts_with(lower)) {
        return Some(key);
    }
    let distance = |key: &'static str| (strsim::osa_distance(lower, key), key);
    let (distance, key) = keys().map(distance).min()?;
    (distance <= 2 && distance * 2 <= key.len()).then_some(key)
}
