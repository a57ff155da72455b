//! Fills in what is left empty: the data directory, the time zone, the reply topics. Asks the machine, never the
//! layers.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ::config::{Config as Merged, Value, ValueKind};

use super::{fault::Fault, sources::Sources};

/// Fills in the empty values of a merged configuration.
pub(super) fn resolve(merged: &mut Merged, sources: &Sources, faults: &mut Vec<Fault>) {
    if is_empty(merged, "paths.data") {
        match data_directory(sources) {
            Some((path, from)) => set(merged, "paths", "data", path.to_string_lossy().into_owned(), from),
            None => faults.push(Fault::new(
                "default",
                "`paths.data` is empty, and there is no $HOME to put it in: name a directory",
            )),
        }
    }
    if is_empty(merged, "location.timezone") {
        let (zone, from) = machine_timezone(sources, Path::new("/"));
        set(merged, "location", "timezone", zone, from);
    }
    if merged.get_array("mqtt.reply_topics").is_ok_and(|topics| topics.is_empty())
        && let Ok(base) = merged.get_string("mqtt.base_topic")
    {
        let topics = [format!("{base}/reply/#"), format!("{base}/+/response/#")].map(Value::from).to_vec();
        set(merged, "mqtt", "reply_topics", topics, "mqtt.base_topic");
    }
}

fn is_empty(merged: &Merged, key: &str) -> bool {
    merged.get_string(key).is_ok_and(|text| text.is_empty())
}

/// Sets a key of a section; `from` is what it was made from.
fn set(merged: &mut Merged, section: &str, key: &str, value: impl Into<ValueKind>, from: &str) {
    let place = format!("default, from {from}");
    let ValueKind::Table(sections) = &mut merged.cache.kind else { return };
    let Some(ValueKind::Table(keys)) = sections.get_mut(section).map(|value| &mut value.kind) else { return };
    keys.insert(key.into(), Value::new(Some(&place), value));
}

/// Where state lives, and the variable that said so. systemd gives a list where a unit has several state
/// directories; the first is ours.
fn data_directory(sources: &Sources) -> Option<(PathBuf, &'static str)> {
    let state = sources.variable("STATE_DIRECTORY").and_then(|list| std::env::split_paths(list).next());
    let data = || sources.directory("XDG_DATA_HOME").map(|path| path.join("jarvis-bridge"));
    let home = || sources.directory("HOME").map(|path| path.join(".local/share/jarvis-bridge"));
    let state = state.map(|path| (path, "$STATE_DIRECTORY"));
    state.or_else(|| Some((data()?, "$XDG_DATA_HOME"))).or_else(|| Some((home()?, "$HOME")))
}

/// The machine's time zone, and what said so. A value that names no IANA zone, as `CET-1CEST` does, is passed
/// over.
fn machine_timezone(sources: &Sources, root: &Path) -> (String, &'static str) {
    let variable = || sources.variable("TZ")?.to_str().map(str::to_owned);
    let file = || fs::read_to_string(root.join("etc/timezone")).ok();
    let link = || Some(fs::read_link(root.join("etc/localtime")).ok()?.to_str()?.to_owned());
    let zone = |text: String| {
        let text = text.trim().trim_start_matches(':');
        let name = text.split_once("zoneinfo/").map_or(text, |(_, name)| name);
        name.parse::<chrono_tz::Tz>().ok().map(|zone| zone.name().to_owned())
    };
    let said = variable().and_then(zone).map(|name| (name, "$TZ"));
    said.or_else(|| file().and_then(zone).map(|name| (name, "/etc/timezone")))
        .or_else(|| link().and_then(zone).map(|name| (name, "/etc/localtime")))
        .unwrap_or_else(|| ("UTC".into(), "nothing: the machine names no time zone"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::{Sources, data_directory, machine_timezone};

    fn sources(variables: &[(&str, &str)]) -> Sources {
        let environment = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Sources { environment, ..Sources::default() }
    }

    #[test]
    fn data_directories() {
        let check = |variables: &[(&str, &str)], expect: Option<&str>| {
            let found = data_directory(&sources(variables)).map(|(path, _)| path);
            assert_eq!(found.as_deref().and_then(|path| path.to_str()), expect, "{variables:?}");
        };
        check(&[], None);
        check(&[("HOME", "/home/ada")], Some("/home/ada/.local/share/jarvis-bridge"));
        check(&[("HOME", "/home/ada"), ("XDG_DATA_HOME", "/xdg")], Some("/xdg/jarvis-bridge"));
        check(&[("HOME", "/home/ada"), ("XDG_DATA_HOME", "")], Some("/home/ada/.local/share/jarvis-bridge"));
        check(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("HOME", "/home/ada")], Some("/var/lib/a"));
    }

    #[test]
    fn time_zones_of_the_machine() {
        let root = tempfile::tempdir().unwrap();
        let check = |variables: &[(&str, &str)], zone: &str, from: &str| {
            assert_eq!(machine_timezone(&sources(variables), root.path()), (zone.into(), from));
        };
        fs::create_dir(root.path().join("etc")).unwrap();
        check(&[], "UTC", "nothing: the machine names no time zone");
        symlink("../usr/share/zoneinfo/Asia/Tokyo", root.path().join("etc/localtime")).unwrap();
        check(&[], "Asia/Tokyo", "/etc/localtime");
        fs::write(root.path().join("etc/timezone"), "Europe/Paris\n").unwrap();
        check(&[], "Europe/Paris", "/etc/timezone");
        check(&[("TZ", ":America/New_York")], "America/New_York", "$TZ");
        check(&[("TZ", "/usr/share/zoneinfo/Europe/Rome")], "Europe/Rome", "$TZ");
        check(&[("TZ", "CET-1CEST")], "Europe/Paris", "/etc/timezone");
        check(&[("TZ", "")], "Europe/Paris", "/etc/timezone");
    }
}
