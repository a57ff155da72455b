//! Who is there, who has which hook, whose command it is. Finds plugins and asks them; knows nothing of
//! files and workers.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use tokio::sync::{oneshot, watch};

use super::{
    ask::{all, ask, ask_among, drop_in},
    filter::Filtered,
    info::{PluginDetails, PluginInfo, details, info, refused},
    mail::{Event, Heard, Mail, Step},
    mailbox::Crowd,
    shared::{Shared, State},
    stats::PluginHealth,
    waits::{Waiting, Waits},
};
use crate::{
    effects::{Cause, bus::Delivery},
    model::{ErrorCode, Failure, PluginId, frame::Input},
};

/// All plugins that are loaded or on their way. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    plugins: Mutex<BTreeMap<PluginId, Shared>>,
    /// Files that are no plugins, by file name, and why.
    broken: Mutex<BTreeMap<String, Broken>>,
    routes: RwLock<Arc<Routes>>,
    waits: Waits,
    crowd: Crowd,
    version: watch::Sender<u64>,
    /// Whether the bridge is on its way out: what was not done then is not acknowledged.
    closing: AtomicBool,
}

/// A file that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    /// Its own id where it could be read, else the file's name.
    pub(super) id: String,
    pub(super) fault: String,
    /// Commands it would answer, so that they are `unavailable` and not `unknown_command`.
    pub(super) commands: Vec<String>,
}

/// Who to ask, worked out once for each change.
#[derive(Debug, Default)]
struct Routes {
    hooks: BTreeMap<String, Vec<Shared>>,
    commands: BTreeMap<String, Shared>,
    /// Commands of plugins that cannot be asked, each with the reason.
    unavailable: BTreeMap<String, String>,
}

/// What `on_command` gets from another plugin; its arguments stay text, as nobody here needs them read.
#[derive(Serialize)]
struct Command<'call> {
    id: String,
    name: &'call str,
    args: &'call RawValue,
}

/// What asking for a command came to.
#[derive(Debug)]
pub struct Asked {
    /// Each plugin that answered or failed, in the order they were asked.
    pub steps: Vec<(PluginId, Step)>,
    /// Set where nobody could be asked.
    pub refusal: Option<Failure>,
}

impl Registry {
    /// Ticks whenever a plugin comes, goes or changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.version.subscribe()
    }

    /// Every plugin, the refused ones among them, by id.
    #[must_use]
    pub fn list(&self) -> Vec<PluginInfo> {
        let mut list: Vec<PluginInfo> = self.plugins().values().map(info).collect();
        for (file, broken) in self.broken().iter() {
            if !list.iter().any(|info| info.id == broken.id) {
                list.push(refused(file, broken));
            }
        }
        list.sort_by(|one, other| one.id.cmp(&other.id));
        list
    }

    /// All about one plugin.
    #[must_use]
    pub fn details(&self, id: &str) -> Option<PluginDetails> {
        let shared = self.get(id)?;
        Some(details(&shared))
    }

    /// Every plugin's counters.
    #[must_use]
    pub fn health(&self) -> BTreeMap<PluginId, PluginHealth> {
        self.plugins().iter().map(|(id, shared)| (id.clone(), shared.health())).collect()
    }

    /// Whether a plugin declares this command.
    #[must_use]
    pub fn declares(&self, command: &str) -> bool {
        let routes = self.routes();
        routes.commands.contains_key(command) || routes.unavailable.contains_key(command)
    }

    /// Calls one hook of one plugin.
    ///
    /// # Errors
    /// `unknown_plugin`; what the hook itself fails with is in the step.
    pub async fn call(
        &self,
        id: &str,
        hook: &'static str,
        input: Input,
        cause: &Cause,
    ) -> Result<Step, Failure> {
        let shared = self.get(id).ok_or_else(|| self.unknown(id))?;
        Ok(ask(&shared, hook, input, cause).await)
    }

    /// Calls a hook of every plugin that has it, all at once; the steps come in priority order.
    pub async fn call_all(
        &self,
        hook: &'static str,
        input: &RawValue,
        cause: &Cause,
    ) -> Vec<(PluginId, Step)> {
        let routes = self.routes();
        let Some(plugins) = routes.hooks.get(hook) else { return Vec::new() };
        let input = || Input::Value(input.to_owned());
        let asked = plugins.iter().map(|shared| ask_among(shared, hook, input(), cause));
        let answers = all(asked).await;
        plugins.iter().map(|shared| shared.id().clone()).zip(answers).collect()
    }

    /// Runs a command: the plugin that declares it alone, else every plugin with `on_command` in priority
    /// order until one answers.
    pub async fn command(&self, name: &str, input: &RawValue, cause: &Cause) -> Asked {
        let routes = self.routes();
        let input = || Input::Value(input.to_owned());
        if let Some(shared) = routes.commands.get(name) {
            let waiting = match self.wait_for(shared.id(), name, cause) {
                Ok(waiting) => waiting,
                Err(refusal) => return Asked { steps: Vec::new(), refusal: Some(refusal) },
            };
            let step = ask(shared, "on_command", input(), cause).await;
            drop(waiting);
            return Asked { steps: vec![(shared.id().clone(), step)], refusal: None };
        }
        if let Some(reason) = routes.unavailable.get(name) {
            let failure = Failure::new(ErrorCode::Unavailable, reason.clone());
            return Asked { steps: Vec::new(), refusal: Some(failure) };
        }
        let mut steps = Vec::new();
        for shared in routes.hooks.get("on_command").into_iter().flatten() {
            // Who waits for this very call cannot be asked.
            let Ok(waiting) = self.wait_for(shared.id(), name, cause) else { continue };
            let step = ask_among(shared, "on_command", input(), cause).await;
            drop(waiting);
            let answered = matches!(step.outcome, Ok(Some(_)));
            if !matches!(step.outcome, Ok(None)) {
                steps.push((shared.id().clone(), step));
            }
            if answered {
                break;
            }
        }
        Asked { steps, refusal: None }
    }

    /// Notes that a plugin's hook waits for another plugin, where one does.
    fn wait_for(&self, owner: &PluginId, name: &str, cause: &Cause) -> Result<Option<Waiting>, Failure> {
        let Some(caller) = cause.caller() else { return Ok(None) };
        self.0.waits.begin(caller, owner).map(Some).map_err(|chain| {
            let chain: Vec<&str> = chain.iter().map(PluginId::as_str).collect();
            let text = format!(
                "`{caller}` may not run `{name}`: its plugin `{owner}` waits for this very call ({} → {owner})",
                chain.join(" → ")
            );
            Failure::new(ErrorCode::InvalidPayload, text)
        })
    }

    /// `jarvis.command`: a command that a plugin runs from within its own hook.
    pub(super) async fn command_from(
        &self,
        caller: &PluginId,
        name: &str,
        args: &RawValue,
        cause: &Cause,
    ) -> Result<Box<RawValue>, Failure> {
        let cause = cause.called_by(caller).map_err(|why| {
            Failure::new(ErrorCode::RateLimited, format!("`{caller}` may not run `{name}`: {why}"))
        })?;
        let command = Command { id: uuid::Uuid::now_v7().to_string(), name, args };
        let input = to_raw_value(&command)
            .map_err(|error| Failure::new(ErrorCode::InvalidPayload, error.to_string()))?;
        let asked = self.command(name, &input, &cause).await;
        if let Some(refusal) = asked.refusal {
            return Err(refusal);
        }
        let mut failure = None;
        for (_, step) in asked.steps {
            match step.outcome {
                Ok(Some(value)) => return Ok(value),
                Ok(None) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let unknown =
            || Failure::new(ErrorCode::UnknownCommand, format!("nobody answers the command `{name}`"));
        Err(failure.unwrap_or_else(unknown))
    }

    /// Sends an event to every plugin that listens for it; what each makes of it comes later.
    pub fn deliver(&self, event: &Arc<Event>, cause: &Cause) -> Vec<oneshot::Receiver<Heard>> {
        let (name, source) = (event.info.name.as_str(), event.info.plugin.as_deref());
        let listens = |shared: &&Shared| {
            let facts = shared.facts();
            facts.patterns.iter().any(|pattern| crate::model::message::event_matches(pattern, name, source))
        };
        let plugins: Vec<Shared> = self.plugins().values().filter(listens).cloned().collect();
        plugins
            .iter()
            .map(|shared| {
                let (reply, heard) = oneshot::channel();
                drop_in(self, shared, Mail::Event { event: event.clone(), cause: cause.clone(), reply });
                heard
            })
            .collect()
    }

    /// Gives a message of a subscription to the plugins that listen. At QoS 1 it waits in the mailbox and its
    /// receipt with it; at QoS 0 a full mailbox drops it. True where it was dropped.
    pub fn deliver_message(&self, delivery: Delivery, cause: &Cause) -> bool {
        let message = Arc::new(delivery.message);
        let mut dropped = false;
        for id in &delivery.plugins {
            let Some(shared) = self.get(id.as_str()) else { continue };
            let (filter, cause) = (delivery.filter.clone(), cause.clone());
            let mail = Mail::Message { filter, message: message.clone(), cause };
            if message.qos > 0 {
                drop_in(self, &shared, mail);
            } else if shared.mailbox().offer(mail).is_err() {
                shared.stats().dropped();
                dropped = true;
            }
        }
        dropped
    }

    /// The plugins with a subscription that a topic matches.
    #[must_use]
    pub fn listeners(&self, topic: &str) -> Vec<PluginId> {
        let listens = |shared: &Shared| shared.facts().filters.iter().any(|filter| filter.matches(topic));
        self.all().iter().filter(|shared| listens(shared)).map(|shared| shared.id().clone()).collect()
    }

    /// Sends a message through the filters of every plugin, in priority order.
    pub async fn filter(&self, hook: &'static str, message: Map<String, Value>, cause: &Cause) -> Filtered {
        let routes = self.routes();
        let plugins = routes.hooks.get(hook).map(Vec::as_slice).unwrap_or_default();
        let mut filtered = Filtered::of(message);
        for shared in plugins {
            let Ok(input) = to_raw_value(&filtered.message) else { break };
            let step = ask_among(shared, hook, Input::Value(input), cause).await;
            if filtered.take(shared.id(), hook, step) {
                break;
            }
        }
        filtered
    }

    /// Says whether more waits for plugins than the bridge can keep: whoever is far behind is then refused sooner.
    pub fn set_crowded(&self, crowded: bool) {
        self.0.crowd.set(crowded);
    }

    pub(super) fn crowd(&self) -> Crowd {
        self.0.crowd.clone()
    }

    pub(super) fn get(&self, id: &str) -> Option<Shared> {
        self.plugins().get(id).cloned()
    }

    pub(super) fn add(&self, shared: Shared) {
        self.plugins().insert(shared.id().clone(), shared);
        self.changed();
    }

    pub(super) fn remove(&self, id: &PluginId) -> Option<Shared> {
        let removed = self.plugins().remove(id);
        self.changed();
        removed
    }

    /// Says which files are refused now.
    pub(super) fn set_broken(&self, broken: BTreeMap<String, Broken>) {
        if *self.broken() == broken {
            return;
        }
        let before = std::mem::replace(&mut *self.broken(), broken);
        let mended: Vec<String> = {
            let now = self.broken();
            before.into_keys().filter(|file| !now.contains_key(file)).collect()
        };
        for shared in mended.iter().filter_map(|file| self.by_file(file)) {
            let mut facts = shared.facts();
            if facts.state == State::Ready {
                facts.last_error = None;
            }
        }
        self.changed();
    }

    /// The plugin that was loaded from a file.
    pub(super) fn by_file(&self, file: &str) -> Option<Shared> {
        self.plugins().values().find(|shared| shared.facts().manifest.file == file).cloned()
    }

    /// The refused file that bears this id or this name, with or without its ending.
    pub(super) fn refused_file(&self, id: &str) -> Option<String> {
        let broken = self.broken();
        let by_name = |file: &&String| *file == id || file.trim_end_matches(".lua") == id;
        let by_id = || broken.iter().find(|(_, broken)| broken.id == id).map(|(file, _)| file);
        broken.keys().find(by_name).or_else(by_id).cloned()
    }

    /// Says that the bridge is on its way out.
    pub(super) fn close(&self) {
        self.0.closing.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Relaxed)
    }

    pub(super) fn all(&self) -> Vec<Shared> {
        self.plugins().values().cloned().collect()
    }

    /// The failure of asking for a plugin that is not there.
    pub(crate) fn unknown(&self, id: &str) -> Failure {
        let ids: Vec<String> = self.list().into_iter().map(|info| info.id).collect();
        let known = match ids.is_empty() {
            true => "no plugin is loaded".into(),
            false => format!("there are: {}", ids.join(", ")),
        };
        let id: String = id.chars().take(80).collect();
        Failure::new(ErrorCode::UnknownPlugin, format!("there is no plugin `{id}`; {known}"))
    }

    /// Tells who watches that a plugin has something new to tell.
    pub(super) fn touched(&self) {
        self.0.version.send_modify(|version| *version += 1);
    }

    /// Works out the routes anew and tells who watches.
    pub(super) fn changed(&self) {
        let mut routes = Routes::default();
        let mut plugins: Vec<(i64, Shared)> = self
            .plugins()
            .values()
            .map(|shared| (shared.facts().manifest.priority, shared.clone()))
            .collect();
        plugins.sort_by(|one, other| (one.0, one.1.id()).cmp(&(other.0, other.1.id())));
        for (_, shared) in plugins {
            routes.add(&shared);
        }
        for broken in self.broken().values() {
            for command in &broken.commands {
                let reason = format!("the plugin that declares `{command}` was refused: {}", broken.fault);
                routes.unavailable.entry(command.clone()).or_insert(reason);
            }
        }
        *self.0.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
        self.touched();
    }

    fn routes(&self) -> Arc<Routes> {
        self.0.routes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn plugins(&self) -> MutexGuard<'_, BTreeMap<PluginId, Shared>> {
        self.0.plugins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self) -> MutexGuard<'_, BTreeMap<String, Broken>> {
        self.0.broken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Routes {
    fn add(&mut self, shared: &Shared) {
        let facts = shared.facts();
        // One that was up before answers itself why it cannot be asked now.
        let is_up = match facts.state {
            State::Ready | State::Disabled => true,
            State::Loading => !facts.hooks.is_empty(),
            State::Error | State::Unloading => false,
        };
        match is_up {
            true => {
                for hook in &facts.hooks {
                    self.hooks.entry(hook.clone()).or_default().push(shared.clone());
                }
                for command in &facts.manifest.commands {
                    self.commands.entry(command.clone()).or_insert_with(|| shared.clone());
                }
            }
            false => {
                for command in &facts.manifest.commands {
                    let why = facts.last_error.as_ref().map_or("it is not ready", |error| &error.message);
                    let reason = format!("the plugin that declares `{command}` cannot run now: {why}");
                    self.unavailable.entry(command.clone()).or_insert(reason);
                }
            }
        }
    }
}
