//! What lies in the plugin directory: which files there are, what each says about itself, and which of them
//! are refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    time::Instant,
};

use super::{
    blueprint::{Blueprint, Settings},
    folder::Folder,
    manifest::{self, Fault, Manifest},
    registry::Broken,
    shelf::{MAX_TOTAL, Reading, Shelf},
};
use crate::model::{PluginId, is_deceptive};

/// Plugin files that are looked at, the refused ones among them; more are refused unseen.
const MAX_FILES: usize = 1_000;
/// How many of those are refused by name. Of the rest only that there are some is said.
const MAX_NAMED: usize = 100;
/// Entries of the directory that are read, plugins or not: somebody may have filled it by mistake.
const MAX_ENTRIES: usize = 100_000;

/// One look at the directory.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Good files, by file name.
    pub(super) plugins: BTreeMap<String, Blueprint>,
    /// Refused files, by file name.
    pub(super) broken: BTreeMap<String, Broken>,
    /// What is odd and does no harm.
    pub(super) warnings: Vec<Fault>,
}

/// What is known from before a look.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Which plugin runs from which file.
    pub(super) running: Running,
    /// The files that were refused.
    pub(super) refused: BTreeSet<String>,
}

/// What runs, by file.
pub(super) type Running = BTreeMap<String, Owner>;

/// What belongs to a plugin that runs.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub(super) id: PluginId,
    pub(super) commands: Vec<String>,
}

/// Reads every `*.lua` of a directory, as far as `shelf` does not have it. Blocks on the disk. What runs comes
/// first: it keeps its id, its commands and its place when there is not enough of them for all.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn look(
    directory: &Path,
    settings: &Settings,
    before: &Before,
    shelf: &mut Shelf,
) -> io::Result<Found> {
    let folder = Folder::open(directory)?;
    let mut found = Found::default();
    let running = &before.running;
    let names = names(&folder, running, &mut found)?;
    let mut room = MAX_TOTAL;
    for name in &names {
        if let Some((reading, size)) = shelf.take(&folder, name, room, Instant::now()) {
            room = room.saturating_sub(size);
            found.take(name, reading, settings);
        }
    }
    shelf.keep_only(&names.iter().map(String::as_str).collect());
    found.refuse_doubles(before);
    found.refuse_surplus(running, settings.max_plugins);
    Ok(found)
}

/// The names to look at, those that run first, else in order. The others are refused here.
fn names(folder: &Folder, running: &Running, found: &mut Found) -> io::Result<Vec<String>> {
    // What runs is looked for by name, wherever the directory tells it; what has vanished tells itself.
    let mut names: Vec<String> = running.keys().cloned().collect();
    let (mut others, mut more) = (BTreeSet::new(), false);
    for (count, entry) in folder.names()?.enumerate() {
        if count == MAX_ENTRIES {
            found.warn(format!(
                "has more than {MAX_ENTRIES} entries; not all were looked at: give plugins a directory of their own"
            ));
            break;
        }
        let entry = entry?;
        match entry.to_str() {
            // Hidden files are an editor's or a system's.
            _ if !entry.as_bytes().ends_with(b".lua") || entry.as_bytes().starts_with(b".") => {}
            Some(name) if running.contains_key(name) => {}
            _ => {
                others.insert(entry);
                // The directory tells them in no order; the first by name are wanted.
                more |= others.len() > MAX_FILES + MAX_NAMED && others.pop_last().is_some();
            }
        }
    }
    if more {
        found.warn(format!("has more than {MAX_FILES} `.lua` files; the rest is not looked at: remove some"));
    }
    for entry in others {
        match readable(entry) {
            Ok(name) if names.len() < MAX_FILES => names.push(name),
            Ok(name) => found.refuse_file(
                &name,
                format!(
                    "{name}: there are {MAX_FILES} `.lua` files here already, the most that are looked at"
                ),
            ),
            Err((name, fault)) => found.refuse_file(&name, format!("{name}: {fault}")),
        }
    }
    Ok(names)
}

/// A file's name as text, or a name that can be shown and what is wrong with it.
fn readable(entry: OsString) -> Result<String, (String, &'static str)> {
    match entry.into_string() {
        Ok(name) if name.chars().any(is_deceptive) => {
            let shown = name
                .chars()
                .flat_map(|c| if is_deceptive(c) { c.escape_unicode().collect() } else { vec![c] });
            Err((shown.collect(), "the file's name has a control character: rename it"))
        }
        Ok(name) => Ok(name),
        Err(entry) => {
            Err((entry.as_bytes().escape_ascii().to_string(), "the file's name is not UTF-8: rename it"))
        }
    }
}

impl Found {
    fn take(&mut self, name: &str, reading: Reading, settings: &Settings) {
        let source = match reading {
            Ok(source) => source,
            Err(fault) => return self.refuse_file(name, fault),
        };
        let parsed = manifest::parse(name, &source.text);
        self.warnings.extend(parsed.warnings);
        let manifest = match parsed.manifest {
            Ok(manifest) => manifest,
            Err(faults) => return self.refuse_file(name, text(&faults)),
        };
        let (id, commands) = (manifest.id.to_string(), manifest.commands.clone());
        match Blueprint::draw(manifest, source, settings) {
            Ok(blueprint) => {
                self.plugins.insert(name.to_owned(), blueprint);
            }
            Err(faults) => self.refuse(name.to_owned(), id, text(&faults), commands),
        }
    }

    /// Says what is odd about the directory itself.
    fn warn(&mut self, message: String) {
        self.warnings.push(Fault { file: "the plugin directory".into(), line: None, message });
    }

    /// Refuses a file whose own id is not known or not its own.
    fn refuse_file(&mut self, name: &str, fault: String) {
        let stem = name.trim_end_matches(".lua").to_owned();
        self.refuse(name.to_owned(), stem, fault, Vec::new());
    }

    fn refuse(&mut self, name: String, id: String, fault: String, commands: Vec<String>) {
        self.broken.insert(name, Broken { id, fault, commands });
    }

    /// An id or a command belongs to the file that it runs from, else to the first, by name, that claims it.
    fn refuse_doubles(&mut self, before: &Before) {
        let mut taken = Taken::default();
        let mut claims: Vec<(String, Blueprint)> = std::mem::take(&mut self.plugins).into_iter().collect();
        // The sort keeps the names' order among equals.
        claims.sort_by_key(|(name, blueprint)| {
            before.running.get(name).is_none_or(|owner| owner.id != blueprint.manifest.id)
        });
        let names: BTreeSet<String> = claims.iter().map(|(name, _)| name.clone()).collect();
        for (file, owner) in &before.running {
            if self.broken.contains_key(file) {
                // What runs from it goes on: a file that is half saved gives up nothing.
                taken.by_all(file, owner);
            } else if !names.contains(file) {
                // An editor may have taken it away for a moment. A file of another name that has just come may be the
                // same under a new name; one that was refused until now waits until it is certain.
                taken.by_old(file, owner);
            }
        }
        for (name, blueprint) in claims {
            let manifest = &blueprint.manifest;
            match taken.fault(&name, manifest, before.refused.contains(&name)) {
                Some(fault) => self.refuse_file(&name, fault),
                None => {
                    let owner = Owner { id: manifest.id.clone(), commands: manifest.commands.clone() };
                    taken.by_all(&name, &owner);
                    self.plugins.insert(name, blueprint);
                }
            }
        }
    }

    /// Each plugin is a process: those that run keep their places, the others get what is left, by name.
    fn refuse_surplus(&mut self, running: &Running, most: usize) {
        // Where a file is refused, the version before it still runs.
        let before = self.broken.keys().filter(|name| running.contains_key(*name)).count();
        let mut names: Vec<String> = self.plugins.keys().cloned().collect();
        names.sort_by_key(|name| !running.contains_key(name));
        for name in names.into_iter().skip(most.saturating_sub(before)) {
            let Some(blueprint) = self.plugins.remove(&name) else { continue };
            let fault = format!(
                "{name}: there are {most} plugins already, the most that may run (`limits.plugins`): remove one or \
                 raise the limit"
            );
            let manifest = &blueprint.manifest;
            self.refuse(name, manifest.id.to_string(), fault, manifest.commands.clone());
        }
    }
}

/// Which ids and commands are taken, and by which file.
#[derive(Debug, Default)]
struct Taken {
    ids: BTreeMap<PluginId, String>,
    commands: BTreeMap<String, String>,
    /// The same, but only against files that were there and refused before.
    old: Option<Box<Taken>>,
}

impl Taken {
    fn by_all(&mut self, file: &str, owner: &Owner) {
        self.ids.insert(owner.id.clone(), file.to_owned());
        self.commands.extend(owner.commands.iter().map(|command| (command.clone(), file.to_owned())));
    }

    fn by_old(&mut self, file: &str, owner: &Owner) {
        self.old.get_or_insert_default().by_all(file, owner);
    }

    /// Why a file may not have what it claims.
    fn fault(&self, name: &str, manifest: &Manifest, is_old: bool) -> Option<String> {
        let id = &manifest.id;
        if let Some(first) = self.ids.get(id) {
            return Some(format!(
                "{name}: `@id {id}` is the id of `{first}` already: give this plugin an id of its own"
            ));
        }
        let mut commands = manifest.commands.iter();
        if let Some((command, first)) =
            commands.find_map(|command| Some((command, self.commands.get(command)?)))
        {
            return Some(format!(
                "{name}: the command `{command}` is declared by `{first}` already: remove it from one of the two"
            ));
        }
        self.old.as_ref().filter(|_| is_old)?.fault(name, manifest, false)
    }
}

fn text(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt as _, path::Path};

    use super::{Before, Found, MAX_FILES, MAX_NAMED, MAX_TOTAL, Owner, Running, Settings, Shelf};
    use crate::model::PluginId;

    fn source(id: &str) -> String {
        format!("-- @id {id}\n-- @name X\n-- @version 1.0.0\n-- @author Ada\n-- @description Tests\n")
    }

    fn write(directory: &Path, ids: &[&str]) {
        for id in ids {
            fs::write(directory.join(format!("{id}.lua")), source(id)).unwrap();
        }
    }

    fn running(ids: &[&str]) -> Running {
        let owner = |id: &str| Owner { id: PluginId::parse(id).unwrap(), commands: Vec::new() };
        ids.iter().map(|id| (format!("{id}.lua"), owner(id))).collect()
    }

    fn look(directory: &Path, running: &Running, max_plugins: usize) -> Found {
        let settings = Settings { max_plugins, ..Settings::default() };
        let before = Before { running: running.clone(), ..Before::default() };
        super::look(directory, &settings, &before, &mut Shelf::default()).unwrap()
    }

    fn good(found: &Found) -> Vec<&str> {
        found.plugins.keys().map(String::as_str).collect()
    }

    #[test]
    fn each_file_that_is_no_plugin_says_why_and_the_others_load() {
        let place = tempfile::tempdir().unwrap();
        let here = place.path();
        write(here, &["good"]);
        let put = |name: &str, content: &[u8]| fs::write(here.join(name), content).unwrap();
        put("hidden.txt", b"no plugin");
        put(".hidden.lua", b"no plugin");
        put("crlf.lua", source("crlf").replace('\n', "\r\n").as_bytes());
        put("bom.lua", format!("\u{feff}{}", source("bom")).as_bytes());
        put("shebang.lua", format!("#!/usr/bin/lua\n{}", source("shebang")).as_bytes());
        put(&format!("{}.lua", "n".repeat(251)), source("longest").as_bytes());
        put("latin.lua", b"-- @name Caf\xe9\n");
        put("nul.lua", b"x = '\0'");
        put("bytes.lua", b"\x1bLua");
        put("empty.lua", b"");
        put("up.lua", source("../x").as_bytes());
        put("alike.lua", source("\u{430}dmin").as_bytes());
        put("CON.lua", source("CON").as_bytes());
        put("turn.lua", source("turn").replace("@name X", "@name a\u{202e}b").as_bytes());
        put("asks.lua", (source("asks") + "-- @subscribe jarvis/+/request/#\n").as_bytes());
        put("a\nb.lua", source("newline").as_bytes());
        put("a\u{202e}b.lua", source("turned").as_bytes());
        fs::create_dir(here.join("folder.lua")).unwrap();
        fs::write(here.join(OsStr::from_bytes(b"caf\xe9.lua")), source("cafe")).unwrap();
        fs::File::create(here.join("sparse.lua")).unwrap().set_len(1 << 40).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", here.join("out.lua")).unwrap();
        let found = look(here, &Running::new(), 100);
        let longest = format!("{}.lua", "n".repeat(251));
        assert_eq!(good(&found), ["bom.lua", "crlf.lua", "good.lua", &longest, "shebang.lua"]);
        for (name, expect) in [
            ("latin.lua", "latin.lua:1: is not UTF-8"),
            ("nul.lua", "nul.lua:1: has a NUL byte"),
            ("bytes.lua", "bytes.lua: is Lua bytecode"),
            ("empty.lua", "empty.lua: missing `@id`"),
            ("up.lua", "up.lua:1: `../x` is not a plugin id"),
            ("alike.lua", "alike.lua:1: `\u{430}dmin` is not a plugin id"),
            ("CON.lua", "CON.lua:1: `CON` is not a plugin id"),
            ("asks.lua", "asks.lua:6: `@subscribe jarvis/+/request/#` lies inside"),
            ("turn.lua", "turn.lua:2: `@name` has a control character"),
            ("a\\u{a}b.lua", "a\\u{a}b.lua: the file's name has a control character"),
            ("a\\u{202e}b.lua", "a\\u{202e}b.lua: the file's name has a control character"),
            ("folder.lua", "folder.lua: is not a regular file"),
            ("caf\\xe9.lua", "caf\\xe9.lua: the file's name is not UTF-8"),
            ("sparse.lua", "sparse.lua: is larger than 1 MiB"),
            ("out.lua", "out.lua: is a symbolic link"),
        ] {
            let broken = found.broken.get(name).unwrap_or_else(|| panic!("{name} was not refused"));
            assert!(broken.fault.starts_with(expect), "{name}: {}", broken.fault);
        }
        assert_eq!(found.broken.len(), 15, "{:#?}", found.broken);
        assert_eq!(found.warnings, []);
    }

    #[test]
    fn what_runs_keeps_its_place_and_the_rest_is_taken_by_name() {
        let place = tempfile::tempdir().unwrap();
        write(place.path(), &["a", "b", "c", "d"]);
        let found = look(place.path(), &running(&["d"]), 2);
        assert_eq!(good(&found), ["a.lua", "d.lua"]);
        for name in ["b.lua", "c.lua"] {
            let expect =
                format!("{name}: there are 2 plugins already, the most that may run (`limits.plugins`)");
            assert!(found.broken[name].fault.starts_with(&expect), "{}", found.broken[name].fault);
        }
        // A file that is refused takes nobody's place, unless the version before it runs.
        fs::write(place.path().join("a.lua"), "").unwrap();
        assert_eq!(good(&look(place.path(), &running(&["d"]), 2)), ["b.lua", "d.lua"]);
        assert_eq!(good(&look(place.path(), &running(&["a", "d"]), 2)), ["d.lua"]);
        assert_eq!(good(&look(place.path(), &running(&["d", "gone"]), 2)), ["b.lua", "d.lua"]);
        assert_eq!(good(&look(place.path(), &Running::new(), 0)), Vec::<&str>::new());
    }

    #[test]
    fn no_more_than_a_thousand_files_are_looked_at() {
        let place = tempfile::tempdir().unwrap();
        let name = |number: usize| format!("f{number:04}.lua");
        for number in 0..MAX_FILES + MAX_NAMED + 5 {
            fs::write(place.path().join(name(number)), "").unwrap();
        }
        write(place.path(), &["zz"]);
        let found = look(place.path(), &running(&["zz"]), 100);
        assert_eq!(good(&found), ["zz.lua"]);
        // The plugin that runs is one of the thousand.
        assert_eq!(found.broken.len(), MAX_FILES + MAX_NAMED);
        let fault = |number| found.broken[&name(number)].fault.as_str();
        assert!(fault(MAX_FILES - 2).contains("missing `@id`"), "{}", fault(MAX_FILES - 2));
        assert!(fault(MAX_FILES - 1).contains("there are 1000 `.lua` files"), "{}", fault(MAX_FILES - 1));
        let warnings: Vec<_> = found.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(
            warnings[0].contains("the plugin directory: has more than 1000 `.lua` files"),
            "{warnings:?}"
        );
    }

    #[test]
    fn all_sources_together_are_bounded() {
        let place = tempfile::tempdir().unwrap();
        let megabyte = 1 << 20;
        let filled = |id: &str| {
            let source = source(id) + "return";
            let filler = " ".repeat(megabyte - source.len());
            fs::write(place.path().join(format!("{id}.lua")), source + &filler).unwrap();
        };
        let count = usize::try_from(MAX_TOTAL).unwrap() / megabyte;
        (0..=count).for_each(|number| filled(&format!("p{number:02}")));
        let last = format!("p{count:02}");
        let check = |running: &Running, refused: &str| {
            let found = look(place.path(), running, 100);
            assert_eq!(found.plugins.len(), count);
            let fault = &found.broken[&format!("{refused}.lua")].fault;
            assert!(fault.contains("more than 64 MiB of source"), "{fault}");
        };
        check(&Running::new(), &last);
        check(&running(&[&last]), &format!("p{:02}", count - 1));
    }
}
