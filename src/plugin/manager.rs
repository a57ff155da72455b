//! The life of plugins: what is in the directory is loaded, what changed takes over, what vanished goes. A
//! broken save changes nothing but the message.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Mutex, Notify, broadcast, mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    actor::{Actor, Control},
    blueprint::Blueprint,
    context::Context,
    files::{self, Before, Found, Owner, Running},
    known::{Known, gone},
    looks::Looks,
    mailbox,
    notice::Notice,
    registry::{Broken, Registry},
    runner::{Newborn, Runner, Trouble},
    shared::{LastError, Shared, State, trace_line},
    shelf::Shelf,
};
use crate::model::{ErrorCode, Failure, PluginId};

/// Loads, reloads and unloads. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Manager(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    context: Arc<Context>,
    directory: PathBuf,
    /// Refused files that were reported, so that each fault is said once.
    reported: std::sync::Mutex<BTreeMap<String, Broken>>,
    /// Header warnings that were said.
    warned: std::sync::Mutex<BTreeSet<String>>,
    /// One change of a plugin at a time.
    turns: std::sync::Mutex<BTreeMap<PluginId, Arc<Mutex<()>>>>,
    /// Held while the directory is read and compared.
    known: Mutex<BTreeMap<String, Known>>,
    /// Told whenever a load was put off.
    again: Notify,
    looks: Looks,
}

/// How long a plugin is waited for in unloading: its longest call and a little more.
const ENDS: Duration = Duration::from_secs(65);

/// What a plugin gets beyond the longest that one call may take before the others no longer wait for it.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a scan came to.
#[derive(Debug)]
pub(super) struct Scan {
    /// Files that have vanished and are waited for: scan again in a second.
    pub(super) waiting: bool,
    changes: Vec<JoinHandle<()>>,
}

impl Scan {
    /// Waits until everything that was found is carried out.
    pub(super) async fn settled(self) {
        for change in self.changes {
            // A panic has been printed; there is nothing to carry on with.
            let _ = change.await;
        }
    }
}

impl Manager {
    pub(super) fn new(context: Arc<Context>, directory: PathBuf) -> Self {
        Self(Arc::new(Inner {
            context,
            directory,
            reported: std::sync::Mutex::default(),
            warned: std::sync::Mutex::default(),
            turns: std::sync::Mutex::default(),
            known: Mutex::default(),
            again: Notify::new(),
            looks: Looks::default(),
        }))
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.0.context.registry
    }

    pub(super) fn directory(&self) -> &Path {
        &self.0.directory
    }

    pub(super) fn notices(&self) -> broadcast::Receiver<Notice> {
        self.0.context.notices.subscribe()
    }

    /// What runs, with what belongs to it.
    fn running(&self, known: &BTreeMap<String, Known>) -> Running {
        let owner = |id: &PluginId| {
            let commands =
                self.registry().get(id.as_str()).map(|shared| shared.facts().manifest.commands.clone());
            Owner { id: id.clone(), commands: commands.unwrap_or_default() }
        };
        known.iter().map(|(file, known)| (file.clone(), owner(&known.id))).collect()
    }

    fn reported(&self) -> MutexGuard<'_, BTreeMap<String, Broken>> {
        self.0.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the directory without running anything.
    pub(super) async fn look(&self) -> io::Result<Found> {
        let running = self.running(&*self.0.known.lock().await);
        self.look_beside(running).await
    }

    /// The same for who holds the lock.
    async fn look_beside(&self, running: Running) -> io::Result<Found> {
        let inner = self.0.clone();
        let refused = self.reported().keys().cloned().collect();
        let before = Before { running, refused };
        let look =
            move |shelf: &mut Shelf| files::look(&inner.directory, &inner.context.settings, &before, shelf);
        self.0.looks.run(look).await
    }

    /// Brings what runs in line with what is in the directory.
    pub(super) async fn scan(&self) -> io::Result<Scan> {
        let mut known = self.0.known.lock().await;
        let found = match self.look_beside(self.running(&known)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Found::default(),
            found => found?,
        };
        self.report_broken(&found);
        let present: BTreeSet<String> = found.plugins.keys().chain(found.broken.keys()).cloned().collect();
        let mut changed = Vec::new();
        for (file, blueprint) in found.plugins {
            match known.get_mut(&file) {
                Some(old) if old.id == blueprint.manifest.id => {
                    old.vanished = None;
                    if old.hash != Some(blueprint.source.hash) {
                        changed.push((file, blueprint));
                    }
                }
                _ => changed.push((file, blueprint)),
            }
        }
        let gone = gone(&mut known, &present, &changed);
        let unload: Vec<_> =
            gone.now.iter().filter_map(|file| known.remove(file)).map(|old| old.id).collect();
        for (file, blueprint) in &changed {
            known.insert(file.clone(), Known::of(blueprint));
        }
        drop(known);
        // What goes may leave an id or a command to a file that was refused for it.
        let waiting = gone.waiting || !unload.is_empty();
        let changes = self.carry_out(unload, changed.into_iter().map(|(_, blueprint)| blueprint).collect());
        Ok(Scan { waiting, changes })
    }

    /// Starts every unload and load, all at once: one that is slow keeps nobody else waiting. Those of one
    /// plugin take turns, the unload first.
    fn carry_out(&self, unload: Vec<PluginId>, load: Vec<Blueprint>) -> Vec<JoinHandle<()>> {
        let mut changes = Vec::new();
        for id in unload {
            let manager = self.clone();
            changes.push(tokio::spawn(async move { manager.unload_id(&id).await }));
        }
        for blueprint in load {
            let manager = self.clone();
            changes.push(tokio::spawn(async move {
                // The failure is logged and noticed where it happens.
                let _ = manager.load_known(blueprint).await;
            }));
        }
        changes
    }

    /// Loads what stands among the known. Where the world and not the file is in the way, a later look tries again;
    /// what ran from that file still does, so the file stays known.
    async fn load_known(&self, blueprint: Blueprint) -> Result<(), Failure> {
        let (file, hash) = (blueprint.manifest.file.clone(), blueprint.source.hash);
        let loaded = self.load(blueprint).await;
        if matches!(loaded, Err(Trouble::World(_))) {
            let mut known = self.0.known.lock().await;
            if let Some(known) = known.get_mut(&file).filter(|known| known.hash == Some(hash)) {
                known.hash = None;
                self.0.again.notify_one();
            }
        }
        loaded.map_err(Failure::from)
    }

    /// Waits until a load was put off: a look after a while tries it again. Cancel-safe.
    pub(super) async fn puts_off(&self) {
        self.0.again.notified().await;
    }

    /// Says once what is odd in a header.
    fn report_warnings(&self, found: &Found) {
        let warnings: BTreeSet<String> = found.warnings.iter().map(ToString::to_string).collect();
        let mut warned = self.0.warned.lock().unwrap_or_else(PoisonError::into_inner);
        for warning in warnings.difference(&warned) {
            tracing::warn!(target: "plugin", "{warning}");
        }
        *warned = warnings;
    }

    fn report_broken(&self, found: &Found) {
        self.report_warnings(found);
        let running = self.registry();
        let mut reported = self.reported();
        let before = std::mem::replace(&mut *reported, found.broken.clone());
        drop(reported);
        for (file, broken) in &found.broken {
            if before.get(file) == Some(broken) {
                continue;
            }
            tracing::error!(target: "plugin", file, "{}", broken.fault);
            self.notice(Notice::error(&broken.id, &broken.fault));
            if let Some(shared) = running.by_file(file) {
                shared.facts().last_error = Some(LastError::fault(&broken.fault));
            }
        }
        running.set_broken(found.broken.clone());
    }

    /// Loads a plugin, or lets a new version of it take over.
    async fn load(&self, blueprint: Blueprint) -> Result<(), Trouble> {
        let turn = self.turn(&blueprint.manifest.id);
        let _turn = turn.lock().await;
        let blueprint = Arc::new(blueprint);
        let (id, version) = (blueprint.manifest.id.clone(), blueprint.manifest.version.clone());
        let running = self.registry().get(id.as_str());
        let loaded = match &running {
            Some(shared) => self.replace(shared, blueprint).await,
            None => self.load_first(blueprint).await,
        };
        match &loaded {
            Ok(()) if running.is_some() => {
                tracing::info!(plugin = %id, %version, "plugin reloaded");
                self.notice(Notice::reloaded(&id, &version.to_string()));
            }
            Ok(()) => {
                tracing::info!(plugin = %id, %version, "plugin loaded");
                self.notice(Notice::loaded(&id, &version.to_string()));
            }
            Err(trouble) => {
                let failure = trouble.failure();
                let traceback = trace_line(failure);
                tracing::error!(plugin = %id, traceback = traceback.as_deref(), "{}", failure.message);
                self.notice(Notice::error(id.as_str(), &failure.message));
            }
        }
        self.registry().changed();
        loaded
    }

    async fn load_first(&self, blueprint: Arc<Blueprint>) -> Result<(), Trouble> {
        let (mailbox, mail) =
            mailbox::open(blueprint.limits.mailbox, blueprint.limits.backlog, self.registry().crowd());
        let (control, orders) = mpsc::channel(4);
        let shared = Shared::new(
            blueprint.manifest.clone(),
            blueprint.rights.permissions().to_vec(),
            mailbox,
            control,
            Duration::from_millis(blueprint.limits.total_ms) + PATIENCE,
        );
        self.registry().add(shared.clone());
        let context = &self.0.context;
        let started = match Newborn::start(&blueprint, context).await {
            Ok(newborn) => {
                Actor::start(context.clone(), shared.clone(), blueprint, mail, orders, newborn).await
            }
            Err(trouble) => Err(trouble),
        };
        if let Err(trouble) = &started {
            if matches!(trouble, Trouble::Died(_)) {
                shared.stats().killed();
            }
            shared.failed(trouble.failure());
            shared.facts().state = State::Error;
        }
        started
    }

    async fn replace(&self, shared: &Shared, blueprint: Arc<Blueprint>) -> Result<(), Trouble> {
        if shared.mailbox().is_closed() {
            // It never got as far as taking mail: nothing is there to be replaced.
            self.registry().remove(shared.id());
            return self.load_first(blueprint).await;
        }
        let taken_over = async {
            let newborn = Box::new(Runner::bring_up(&blueprint, &self.0.context).await?);
            let (reply, done) = oneshot::channel();
            let text = "the plugin was being unloaded";
            let gone = |()| Trouble::World(Failure::new(ErrorCode::Unavailable, text));
            shared
                .control()
                .send(Control::Replace { blueprint, newborn, reply })
                .await
                .map_err(|_| gone(()))?;
            done.await.map_err(|_| gone(()))?
        };
        let result = taken_over.await;
        if let Err(trouble) = &result {
            shared.facts().last_error = Some(LastError::of(trouble.failure()));
        }
        result
    }

    /// Reads a plugin's file again and lets it take over, also where nothing changed.
    pub(super) async fn reload(&self, id: &str) -> Result<PluginId, Failure> {
        let registry = self.registry();
        let running = registry.get(id).map(|shared| shared.facts().manifest.file.clone());
        let file = running.or_else(|| registry.refused_file(id)).ok_or_else(|| registry.unknown(id))?;
        self.load_from(&file).await
    }

    /// Ends a plugin: `on_shutdown`, then everything of it goes.
    pub(super) async fn unload_id(&self, id: &PluginId) {
        let turn = self.turn(id);
        let _turn = turn.lock().await;
        let Some(shared) = self.registry().remove(id) else { return };
        end(&shared).await;
        tracing::info!(plugin = %id, "plugin unloaded");
        self.notice(Notice::unloaded(id));
    }

    /// Takes a plugin out of the registry at once and ends it in a task of its own.
    pub(super) fn unload_soon(&self, id: &str) -> Result<(), Failure> {
        let shared = self.registry().get(id).ok_or_else(|| self.registry().unknown(id))?;
        self.registry().remove(shared.id());
        self.notice(Notice::unloaded(shared.id()));
        tokio::spawn(async move { end(&shared).await });
        Ok(())
    }

    /// Ends every plugin, all at once.
    pub(super) async fn stop_all(&self) {
        self.registry().close();
        let ends: Vec<_> = self
            .registry()
            .all()
            .into_iter()
            .map(|shared| tokio::spawn(async move { end(&shared).await }))
            .collect();
        for end in ends {
            let _ = end.await;
        }
    }

    /// Reads the directory here and now. Blocks on the disk.
    pub(super) fn look_now(&self) -> io::Result<Found> {
        files::look(&self.0.directory, &self.0.context.settings, &Before::default(), &mut Shelf::default())
    }

    /// Loads the plugin of one file as it is now.
    pub(super) async fn load_file(&self, path: &Path) -> Result<(), Failure> {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        self.load_from(&file).await.map(drop)
    }

    async fn load_from(&self, file: &str) -> Result<PluginId, Failure> {
        let mut known = self.0.known.lock().await;
        // Who asks for it by name wants it read, whatever its time stamp says.
        self.0.looks.forget(file);
        let mut found = self.look_beside(self.running(&known)).await.map_err(|error| {
            Failure::new(ErrorCode::Unavailable, format!("the plugin directory cannot be read: {error}"))
        })?;
        self.report_broken(&found);
        if let Some(broken) = found.broken.get(file) {
            return Err(Failure::new(ErrorCode::HookError, broken.fault.clone()));
        }
        let gone = || Failure::new(ErrorCode::UnknownPlugin, format!("there is no plugin file `{file}`"));
        let blueprint = found.plugins.remove(file).ok_or_else(gone)?;
        let id = blueprint.manifest.id.clone();
        let before = known.insert(file.to_owned(), Known::of(&blueprint));
        drop(known);
        if let Some(before) = before.filter(|before| before.id != id) {
            self.unload_id(&before.id).await;
        }
        self.load_known(blueprint).await.map(|()| id)
    }

    /// Held while one plugin is loaded or unloaded.
    fn turn(&self, id: &PluginId) -> Arc<Mutex<()>> {
        let mut turns = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(id.clone()).or_default().clone()
    }

    fn notice(&self, notice: Notice) {
        self.0.context.notice(notice);
    }
}

/// Waits until a plugin has ended; one that was never up has nothing to end. One whose publishes the broker
/// does not take is not waited for.
async fn end(shared: &Shared) {
    let (reply, done) = oneshot::channel();
    let stopped = async {
        if shared.control().send(Control::Stop { reply }).await.is_ok() {
            let _ = done.await;
        }
    };
    if tokio::time::timeout(ENDS, stopped).await.is_err() {
        tracing::warn!(plugin = %shared.id(), "a plugin takes long to end; it goes on ending by itself");
    }
}
