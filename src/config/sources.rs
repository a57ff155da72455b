//! Where a configuration comes from: which file, which environment, which flags. Finds the file, reads no key.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::{fault::Fault, layer::Layer};

/// What `load` looks at. The default is an empty environment: defaults only, but for a file in its usual place.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config`: this file and no other; it must exist.
    pub file: Option<PathBuf>,
    /// The environment: `JARVIS_CONFIG`, `JARVIS__*`, and what the defaults of paths and time zone depend on.
    pub environment: BTreeMap<String, OsString>,
    /// Flags that stand for a key.
    pub flags: Vec<Flag>,
}

/// A flag of the command line that sets a key.
#[derive(Clone)]
pub struct Flag {
    /// The key with its section, as in `mqtt.url`.
    pub key: &'static str,
    /// The value as it was typed; it is read by the key's type, as in the environment.
    pub value: String,
    /// The flag's name for messages, as in `--broker`.
    pub name: &'static str,
}

impl Sources {
    /// Takes the environment of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Self {
        let named = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value));
        Self { file, environment: std::env::vars_os().filter_map(named).collect(), flags }
    }

    /// An environment variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&OsString> {
        self.environment.get(name).filter(|value| !value.is_empty())
    }

    /// An environment variable that holds a directory. A relative one is ignored, as the XDG rules want it.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        self.variable(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// A path made absolute: one in a file starts from the file's directory, any other from the working
    /// directory, and `~` is the home directory.
    pub(super) fn locate(&self, base: &Path, text: &str) -> PathBuf {
        let path = match (text.strip_prefix("~/"), self.directory("HOME")) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => base.join(text),
        };
        // Without a working directory a relative path is as good as any.
        std::path::absolute(&path).unwrap_or(path)
    }

    /// Loads the user's file, if there is one.
    pub(super) fn load_file(&self) -> Option<Layer> {
        let (path, named_by) = self.find_file()?;
        match fs::read_to_string(&path) {
            Ok(text) => Some(Layer::from_file(&path, &text)),
            Err(error) => {
                let shown = path.display().to_string();
                let text = format!("`{shown}` cannot be read: {error}");
                let fault = Fault::new(named_by.map_or(shown, str::to_owned), text);
                Some(Layer { faults: vec![fault], ..Layer::default() })
            }
        }
    }

    /// The file and, where somebody named it, who did.
    fn find_file(&self) -> Option<(PathBuf, Option<&'static str>)> {
        if let Some(path) = &self.file {
            return Some((path.clone(), Some("--config")));
        }
        if let Some(path) = self.variable("JARVIS_CONFIG") {
            return Some((path.into(), Some("JARVIS_CONFIG")));
        }
        // One that exists but cannot be read is an error, not a reason to take the next.
        self.usual_places().into_iter().find(|path| path.exists()).map(|path| (path, None))
    }

    /// Where the file is looked for when nobody names it; the first wins.
    fn usual_places(&self) -> Vec<PathBuf> {
        let home = || self.directory("HOME").map(|home| home.join(".config"));
        let user = self.directory("XDG_CONFIG_HOME").or_else(home);
        let mut places = vec![PathBuf::from("jarvis-bridge.toml")];
        places.extend(user.map(|directory| directory.join("jarvis-bridge/config.toml")));
        places.push(Path::new("/etc/jarvis-bridge/config.toml").into());
        places
    }
}

#[cfg(test)]
mod tests {
    use super::Sources;

    #[test]
    fn usual_places_in_their_order() {
        let check = |variables: &[(&str, &str)], expect: &[&str]| {
            let environment =
                variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
            let places = Sources { environment, ..Sources::default() }.usual_places();
            assert_eq!(places.iter().map(|p| p.to_str().unwrap()).collect::<Vec<_>>(), expect);
        };
        let (here, system) = ("jarvis-bridge.toml", "/etc/jarvis-bridge/config.toml");
        check(&[], &[here, system]);
        check(&[("HOME", "/home/ada")], &[here, "/home/ada/.config/jarvis-bridge/config.toml", system]);
        check(
            &[("HOME", "/home/ada"), ("XDG_CONFIG_HOME", "/xdg")],
            &[here, "/xdg/jarvis-bridge/config.toml", system],
        );
        check(&[("XDG_CONFIG_HOME", "relative")], &[here, system]);
    }
}
