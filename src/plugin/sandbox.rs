//! The names that embedders use: a manager of a directory, and the sandbox that its plugins run in.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, value::to_raw_value};
use tokio::sync::broadcast;

use super::{
    BreakerSettings, Notice, Registry, Settings, context::Context, files::Found, manager::Manager,
    manifest::Manifest, watch,
};
use crate::{
    effects::{Cause, Effects, http},
    model::{
        ErrorCode, Failure, Limits, PluginId, Topic,
        frame::{HOOKS, Input},
        json,
    },
    store::{Store, StoreError},
    worker::{self, Spawner},
};

/// Notices that may wait for a slow listener; it then misses the oldest.
const NOTICES: usize = 64;

/// Finds and manages the plugins of one directory. Cheap to clone.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use jarvis_bridge::plugin::PluginManager;
///
/// let manager = PluginManager::new("./plugins").await?;
/// let sandbox = manager.sandbox();
/// for plugin in manager.list_plugins() {
///     sandbox.load_plugin(&plugin).await?;
/// }
/// let result = sandbox.call_hook("welcome", "on_chat", serde_json::json!({ "content": "Hello" })).await?;
/// manager.unload("welcome")?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PluginManager {
    manager: Manager,
    plugins: Arc<Vec<Plugin>>,
}

/// A plugin that was found, not yet loaded.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Its metadata.
    pub manifest: Arc<Manifest>,
    /// Its file.
    pub path: PathBuf,
}

/// Where plugins run: one worker process for each. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sandbox {
    manager: Manager,
}

/// Why a manager could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// This executable cannot be its own worker.
    #[error(
        "call `jarvis_bridge::worker::enter()` first in `main`: this executable is started again as the \
         worker of each plugin"
    )]
    NotEntered,
    /// The directory cannot be read.
    #[error("the plugin directory `{path}` cannot be read: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No thread for starting workers, or no executable.
    #[error("workers cannot be started: {0}")]
    Workers(io::Error),
    /// The state cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a manager is built from; everything has a default.
#[derive(Debug)]
pub struct Builder {
    directory: PathBuf,
    settings: Option<Settings>,
    effects: Option<Effects>,
    executable: Option<PathBuf>,
}

impl PluginManager {
    /// Reads the plugins of a directory, without running any, with default limits, state in memory and no
    /// broker. Use [`PluginManager::builder`] for anything else.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub async fn new(directory: impl AsRef<Path>) -> Result<Self, SetupError> {
        Self::builder(directory).build().await
    }

    /// Starts to build a manager.
    pub fn builder(directory: impl AsRef<Path>) -> Builder {
        let directory = directory.as_ref().to_owned();
        Builder { directory, settings: None, effects: None, executable: None }
    }

    /// The plugins that were found in the directory, by file name. Refused files are in the registry's list.
    #[must_use]
    pub fn list_plugins(&self) -> Vec<Plugin> {
        self.plugins.to_vec()
    }

    /// Finds a plugin in the directory as it is now.
    ///
    /// # Errors
    /// `unknown_plugin`.
    pub fn get_plugin(&self, id: &str) -> Result<Plugin, Failure> {
        let found = self.manager.look_now();
        let plugins = found.map(|found| plugins(&self.manager, &found)).unwrap_or_default();
        let unknown = || Failure::new(ErrorCode::UnknownPlugin, format!("there is no plugin `{id}` here"));
        plugins.into_iter().find(|plugin| plugin.manifest.id.as_str() == id).ok_or_else(unknown)
    }

    /// Takes a plugin out: it gets no further calls, `on_shutdown` runs, its worker ends.
    ///
    /// # Errors
    /// `unknown_plugin`.
    pub fn unload(&self, id: &str) -> Result<(), Failure> {
        self.manager.unload_soon(id)
    }

    /// Where the plugins of this manager run.
    #[must_use]
    pub fn sandbox(&self) -> Sandbox {
        Sandbox { manager: self.manager.clone() }
    }

    /// Who is loaded, and how to ask them.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.manager.registry()
    }

    /// Where its plugins are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.manager.directory()
    }

    /// What happens to plugins from now on.
    #[must_use]
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.manager.notices()
    }

    /// Loads what is in the directory, reloads what changed, unloads what vanished.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub async fn scan(&self) -> io::Result<()> {
        self.manager.scan().await?.settled().await;
        Ok(())
    }

    /// Does so from now on whenever the directory changes, until `stop` is dropped.
    pub fn watch(&self, stop: tokio::sync::oneshot::Receiver<()>) {
        watch::start(self.manager.clone(), stop);
    }

    /// Reads a plugin's file again and lets it take over; gives the id that it has now. One whose file was
    /// refused is found by its id or by the name of its file.
    ///
    /// # Errors
    /// Why the new version was refused; the old one goes on.
    pub async fn reload(&self, id: &str) -> Result<PluginId, Failure> {
        self.manager.reload(id).await
    }

    /// Ends every plugin with its `on_shutdown`.
    pub async fn stop(&self) {
        self.manager.stop_all().await;
    }
}

impl Sandbox {
    /// Starts a worker for a plugin, runs its file and `on_startup`.
    ///
    /// # Errors
    /// What went wrong in it, with its line.
    pub async fn load_plugin(&self, plugin: &Plugin) -> Result<(), Failure> {
        self.manager.load_file(&plugin.path).await
    }

    /// Calls one hook of a loaded plugin; a hook that returns nil or does not exist gives null.
    ///
    /// # Errors
    /// What the hook failed with, or `unknown_plugin`.
    pub async fn call_hook(&self, id: &str, hook: &str, input: Value) -> Result<Value, Failure> {
        let hook = known_hook(hook)?;
        let input = to_raw_value(&input)
            .map_err(|error| Failure::new(ErrorCode::InvalidPayload, error.to_string()))?;
        let step = self.manager.registry().call(id, hook, Input::Value(input), &Cause::none()).await?;
        let result = step.outcome?;
        result.map_or(Ok(Value::Null), |result| json::parse(result.get())).map_err(|error| {
            Failure::new(ErrorCode::InvalidResult, format!("plugin `{id}`: {hook} returned {error}"))
        })
    }
}

/// The hook of this name.
///
/// # Errors
/// When there is none; the message names the nearest.
pub(crate) fn known_hook(name: &str) -> Result<&'static str, Failure> {
    if let Some(hook) = HOOKS.iter().find(|hook| **hook == name) {
        return Ok(hook);
    }
    let nearest = HOOKS.iter().min_by_key(|hook| strsim::damerau_levenshtein(hook, name));
    let hint = nearest.map(|hook| format!(", did you mean `{hook}`?")).unwrap_or_default();
    let name: String = name.chars().take(80).collect();
    Err(Failure::new(ErrorCode::InvalidPayload, format!("there is no hook `{name}`{hint}")))
}

impl Builder {
    /// Limits, time zone and operator's values.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// The doors to the world.
    #[must_use]
    pub fn effects(mut self, effects: Effects) -> Self {
        self.effects = Some(effects);
        self
    }

    /// An executable that calls [`worker::enter`], where this process's own does not.
    #[must_use]
    pub fn worker_executable(mut self, executable: impl Into<PathBuf>) -> Self {
        self.executable = Some(executable.into());
        self
    }

    /// Reads the directory. Nothing is run yet. A directory that does not exist holds no plugins.
    ///
    /// # Errors
    /// See [`SetupError`].
    pub async fn build(self) -> Result<PluginManager, SetupError> {
        if self.executable.is_none() && !worker::entered() {
            return Err(SetupError::NotEntered);
        }
        let settings = self.settings.unwrap_or_default();
        let effects = match self.effects {
            Some(effects) => effects,
            None => Effects::without_bus(Store::in_memory()?, http::Config::default(), settings.base.clone()),
        };
        let spawner = Spawner::start(self.executable).map_err(SetupError::Workers)?;
        let (registry, notices) = (Registry::default(), broadcast::Sender::new(NOTICES));
        let context = Arc::new(Context { spawner, effects, registry, settings, notices });
        let manager = Manager::new(context, self.directory);
        let found = match manager.look().await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            Err(error) => {
                return Err(SetupError::Directory { path: manager.directory().to_owned(), error });
            }
            Ok(found) => found,
        };
        let plugins = Arc::new(plugins(&manager, &found));
        manager.registry().set_broken(found.broken);
        Ok(PluginManager { manager, plugins })
    }
}

fn plugins(manager: &Manager, found: &Found) -> Vec<Plugin> {
    let plugin = |(file, blueprint): (&String, &super::blueprint::Blueprint)| Plugin {
        manifest: blueprint.manifest.clone(),
        path: manager.directory().join(file),
    };
    found.plugins.iter().map(plugin).collect()
}

/// The shipped defaults' own figures, for embedders that bring no configuration.
impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            max_timeout_ms: 30_000,
            max_memory: 64 << 20,
            max_plugins: 100,
            timezone: "UTC".into(),
            base: Topic::default(),
            values: BTreeMap::new(),
            breaker: BreakerSettings::default(),
            health_interval: Duration::from_secs(60),
        }
    }
}
