//! What lies in the plugin directory: which files there are, what each says about itself, and which of them
//! are refused.

use std::{collections::BTreeMap, io, path::Path};

use super::{
    blueprint::{Blueprint, Settings},
    manifest::{self, Fault},
    registry::Broken,
    source::{self, Source, SourceError},
};
use crate::model::PluginId;

/// Plugin files that are looked at; more are refused.
const MAX_FILES: usize = 1_000;

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

/// Which plugin runs from which file.
pub(super) type Running = BTreeMap<String, PluginId>;

/// Reads every `*.lua` of a directory. Blocks on the disk. What runs keeps its id and commands when another
/// file claims them.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn look(directory: &Path, settings: &Settings, running: &Running) -> io::Result<Found> {
    let mut found = Found::default();
    for name in names(directory)? {
        if name.chars().any(char::is_control) {
            let name: String = name.chars().flat_map(char::escape_debug).collect();
            let fault = format!("{name}: the file's name has a control character: rename it");
            found.refuse(name.clone(), name, fault, Vec::new());
            continue;
        }
        if let Some(read) = read(directory, &name) {
            found.take(name, read, settings);
        }
    }
    found.refuse_doubles(running);
    Ok(found)
}

/// The names of all `*.lua` in order; hidden files are an editor's or a system's.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(".lua") && !name.starts_with('.') {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// One file; nothing where it vanished in the meantime.
fn read(directory: &Path, name: &str) -> Option<Result<Source, SourceError>> {
    match source::read(&directory.join(name), directory) {
        Err(SourceError::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read),
    }
}

impl Found {
    fn take(&mut self, name: String, read: Result<Source, SourceError>, settings: &Settings) {
        let stem = name.trim_end_matches(".lua").to_owned();
        if self.plugins.len() >= MAX_FILES {
            self.refuse(name, stem, format!("there are more than {MAX_FILES} plugins"), Vec::new());
            return;
        }
        let source = match read {
            Ok(source) => source,
            Err(error) => return self.refuse(name, stem, error.to_string(), Vec::new()),
        };
        let parsed = manifest::parse(&name, &source.text);
        self.warnings.extend(parsed.warnings);
        let manifest = match parsed.manifest {
            Ok(manifest) => manifest,
            Err(faults) => return self.refuse(name, stem, text(&faults), Vec::new()),
        };
        let (id, commands) = (manifest.id.to_string(), manifest.commands.clone());
        match Blueprint::draw(manifest, source, settings) {
            Ok(blueprint) => {
                self.plugins.insert(name, blueprint);
            }
            Err(faults) => self.refuse(name, id, text(&faults), commands),
        }
    }

    fn refuse(&mut self, name: String, id: String, fault: String, commands: Vec<String>) {
        self.broken.insert(name, Broken { id, fault, commands });
    }

    /// An id or a command belongs to the file that it runs from, else to the first, by name, that claims it.
    fn refuse_doubles(&mut self, running: &Running) {
        let (mut ids, mut commands) = (BTreeMap::new(), BTreeMap::new());
        let mut claims: Vec<(String, Blueprint)> = std::mem::take(&mut self.plugins).into_iter().collect();
        // The sort keeps the names' order among equals.
        claims.sort_by_key(|(name, blueprint)| running.get(name) != Some(&blueprint.manifest.id));
        for (name, blueprint) in claims {
            let manifest = &blueprint.manifest;
            let id = manifest.id.to_string();
            let taken = manifest.commands.iter().find_map(|command| Some((command, commands.get(command)?)));
            let fault = match (ids.get(&id), taken) {
                (Some(first), _) => format!(
                    "{name}: `@id {id}` is the id of `{first}` already: give this plugin an id of its own"
                ),
                (None, Some((command, first))) => format!(
                    "{name}: the command `{command}` is declared by `{first}` already: remove it from one \
                     of the two"
                ),
                (None, None) => {
                    ids.insert(id, name.clone());
                    commands.extend(manifest.commands.iter().map(|command| (command.clone(), name.clone())));
                    self.plugins.insert(name, blueprint);
                    continue;
                }
            };
            let stem = name.trim_end_matches(".lua").to_owned();
            self.refuse(name, stem, fault, Vec::new());
        }
    }
}

fn text(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
