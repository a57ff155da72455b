//! What a plugin has: state, configuration, handlers, timers. A call's changes are kept together with the way
//! back, so that it commits or leaves no trace. Knows nothing of how the effects are carried out.

mod journal;

use std::collections::BTreeMap;

use mlua::Function;
use serde_json::value::RawValue;

use super::host::Problem;
use crate::model::{
    Limits,
    frame::{Effect, Snapshot},
};
use journal::{Journal, Undo};

pub(super) use journal::Shelf;

/// The most keys of `jarvis.state`, and of what `jarvis.config.set` keeps: a short key takes more outside of its text
/// than in it.
const MAX_KEYS: usize = 10_000;
/// The most bytes of all timers' data together.
const MAX_TIMER_DATA: usize = 1024 * 1024;

/// What one event handler or subscription is.
#[derive(Debug, Clone)]
pub(super) struct Handler {
    pub(super) function: Function,
    pub(super) kind: HandlerKind,
    /// The beginning of the pattern or filter, for errors.
    pub(super) name: String,
    /// Gone after its first call.
    pub(super) once: bool,
}

/// Whom a handler hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandlerKind {
    Event,
    Subscription,
}

/// What one timer is.
#[derive(Debug, Clone)]
pub(super) struct Timer {
    pub(super) function: Function,
    pub(super) name: Option<String>,
    /// JSON text for its function.
    pub(super) data: Option<Box<RawValue>>,
    pub(super) repeat: bool,
}

impl Timer {
    fn data_bytes(&self) -> usize {
        self.data.as_ref().map_or(0, |data| data.get().len())
    }
}

/// State, configuration, handlers and timers of one plugin, and what the running call changed.
pub(super) struct Books {
    limits: Limits,
    state: BTreeMap<String, Box<RawValue>>,
    state_bytes: usize,
    defaults: BTreeMap<String, Box<RawValue>>,
    overrides: BTreeMap<String, Box<RawValue>>,
    overrides_bytes: usize,
    handlers: BTreeMap<u64, Handler>,
    timers: BTreeMap<u64, Timer>,
    last_number: u64,
    journal: Journal,
    /// What may still be put out in all, as the bridge has counted it when it made the call.
    left: u32,
    /// What the source's top level wrote, until a first call shows that the bridge has it.
    loaded: Vec<Written>,
}

/// One written key: where, which, what.
type Written = (Shelf, String, Option<Box<RawValue>>);

impl Books {
    /// Opens the books on a snapshot.
    pub(super) fn build(limits: Limits, snapshot: Snapshot) -> Self {
        let mut books = Self {
            limits,
            state: BTreeMap::new(),
            state_bytes: 0,
            defaults: BTreeMap::new(),
            overrides: BTreeMap::new(),
            overrides_bytes: 0,
            handlers: BTreeMap::new(),
            timers: BTreeMap::new(),
            last_number: 0,
            journal: Journal::default(),
            left: u32::MAX,
            loaded: Vec::new(),
        };
        books.restore(snapshot);
        books
    }

    /// Takes a snapshot as the truth, under what the source's top level wrote.
    pub(super) fn restore(&mut self, snapshot: Snapshot) {
        self.state_bytes = bytes_of(&snapshot.state);
        self.state = snapshot.state;
        self.defaults = snapshot.config;
        self.overrides_bytes = bytes_of(&snapshot.overrides);
        self.overrides = snapshot.overrides;
        for (shelf, key, value) in std::mem::take(&mut self.loaded) {
            self.put(shelf, &key, value.clone());
            self.loaded.push((shelf, key, value));
        }
    }

    /// Remembers what the effects of the source's top level wrote, for a snapshot that does not have it yet.
    pub(super) fn keep_loaded(&mut self, effects: &[Effect]) {
        self.loaded = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::State { key, value } => Some((Shelf::State, key.clone(), value.clone())),
                Effect::Config { key, value } => Some((Shelf::Config, key.clone(), value.clone())),
                _ => None,
            })
            .collect();
    }

    /// Forgets the top level's writes: the bridge has them now.
    pub(super) fn forget_loaded(&mut self) {
        self.loaded.clear();
    }

    /// Ends a call well: its effects, in order.
    pub(super) fn commit(&mut self) -> Vec<Effect> {
        self.journal.take_effects()
    }

    /// Ends a call badly: everything is as it was before it.
    pub(super) fn roll_back(&mut self) {
        for undo in self.journal.take_undo().into_iter().rev() {
            match undo {
                Undo::Write { shelf, key, old } => _ = self.put(shelf, &key, old),
                Undo::HandlerAdded(number) => _ = self.handlers.remove(&number),
                Undo::HandlerRemoved(number, handler) => _ = self.handlers.insert(number, handler),
                Undo::TimerAdded(number) => _ = self.timers.remove(&number),
                Undo::TimerRemoved(number, timer) => _ = self.timers.insert(number, timer),
            }
        }
    }

    /// A value of `jarvis.state`.
    pub(super) fn state(&self, key: &str) -> Option<&RawValue> {
        self.state.get(key).map(AsRef::as_ref)
    }

    /// The keys of `jarvis.state` that begin with a prefix, in order.
    pub(super) fn state_keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from =
            self.state.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        from.map(|(key, _)| key.as_str()).take_while(move |key| key.starts_with(prefix))
    }

    /// A value of `jarvis.config`: what was set wins over the default.
    pub(super) fn config(&self, key: &str) -> Option<&RawValue> {
        self.overrides.get(key).or_else(|| self.defaults.get(key)).map(AsRef::as_ref)
    }

    /// Writes or, with nothing, deletes a key.
    pub(super) fn write(
        &mut self,
        shelf: Shelf,
        key: String,
        value: Option<Box<RawValue>>,
    ) -> Result<(), Problem> {
        self.check_quota(shelf, &key, value.as_deref())?;
        self.check_keys(shelf, &key, value.as_deref())?;
        self.journal.check_write(&key, value.as_deref())?;
        let old = self.put(shelf, &key, value.clone());
        self.journal.write(shelf, key, value, old);
        Ok(())
    }

    /// Adds an effect that changes nothing here.
    pub(super) fn push(&mut self, effect: Effect, bytes: usize) -> Result<(), Problem> {
        self.journal.push(effect, bytes)
    }

    /// Begins a call that may put out so much.
    pub(super) fn begin(&mut self, left: Option<u32>) {
        self.left = left.unwrap_or(u32::MAX);
    }

    /// Counts an emit or publish.
    pub(super) fn count_output(&mut self) -> Result<(), Problem> {
        self.journal.count_output(self.limits.outputs, self.left)
    }

    /// The handler of a number.
    pub(super) fn handler(&self, number: u64) -> Option<&Handler> {
        self.handlers.get(&number)
    }

    /// The timer of a number.
    pub(super) fn timer(&self, number: u64) -> Option<&Timer> {
        self.timers.get(&number)
    }

    /// Registers a handler; `effect` of so many bytes gets its number.
    pub(super) fn add_handler(
        &mut self,
        handler: Handler,
        bytes: usize,
        effect: impl FnOnce(u64) -> Effect,
    ) -> Result<u64, Problem> {
        if self.handlers.len() >= self.limits.handlers {
            return Err(Problem::quota(format!(
                "at most {} event handlers and subscriptions of one plugin (limits.handlers): end one with \
                 jarvis.events.off or jarvis.mqtt.unsubscribe",
                self.limits.handlers
            )));
        }
        self.last_number += 1;
        let number = self.last_number;
        self.journal.push(effect(number), bytes)?;
        self.journal.undo(Undo::HandlerAdded(number));
        self.handlers.insert(number, handler);
        Ok(number)
    }

    /// Drops a handler of this kind; false where there is none.
    pub(super) fn remove_handler(&mut self, number: u64, kind: HandlerKind) -> Result<bool, Problem> {
        if self.handlers.get(&number).is_none_or(|handler| handler.kind != kind) {
            return Ok(false);
        }
        self.journal.push(Effect::Off { handler: number }, 0)?;
        if let Some(handler) = self.handlers.remove(&number) {
            self.journal.undo(Undo::HandlerRemoved(number, handler));
        }
        Ok(true)
    }

    /// Registers a timer in the place of one with the same name.
    pub(super) fn add_timer(&mut self, timer: Timer, delay_ms: u64) -> Result<u64, Problem> {
        let replaced = timer.name.as_deref().and_then(|name| self.timer_named(name));
        if self.timers.len() - usize::from(replaced.is_some()) >= self.limits.timers {
            return Err(Problem::quota(format!(
                "at most {} timers of one plugin (limits.timers): end one with jarvis.timer.cancel, or give it a \
                 name so that the next one takes its place",
                self.limits.timers
            )));
        }
        let bytes = timer.data_bytes();
        let kept = self.timers.iter().filter(|(number, _)| Some(**number) != replaced);
        if bytes + kept.map(|(_, timer)| timer.data_bytes()).sum::<usize>() > MAX_TIMER_DATA {
            return Err(Problem::quota(
                "the data of all timers of one plugin would take more than 1 MiB: keep it in jarvis.state, and give \
                 the timer its key",
            ));
        }
        self.journal.check_two(bytes)?;
        if let Some(number) = replaced {
            self.cancel_timer(number)?;
        }
        self.last_number += 1;
        let number = self.last_number;
        self.journal.push(Effect::Timer { timer: number, delay_ms, repeat: timer.repeat }, bytes)?;
        self.journal.undo(Undo::TimerAdded(number));
        self.timers.insert(number, timer);
        Ok(number)
    }

    /// The number of the timer of a name.
    pub(super) fn timer_named(&self, name: &str) -> Option<u64> {
        self.timers.iter().find(|(_, timer)| timer.name.as_deref() == Some(name)).map(|(number, _)| *number)
    }

    /// Drops a timer; false where there is none.
    pub(super) fn cancel_timer(&mut self, number: u64) -> Result<bool, Problem> {
        if !self.timers.contains_key(&number) {
            return Ok(false);
        }
        self.journal.push(Effect::CancelTimer { timer: number }, 0)?;
        if let Some(timer) = self.timers.remove(&number) {
            self.journal.undo(Undo::TimerRemoved(number, timer));
        }
        Ok(true)
    }

    /// Drops a handler that is called for the last time, whatever comes of it: so does the bridge.
    pub(super) fn expend_handler(&mut self, number: u64) {
        if self.handlers.get(&number).is_some_and(|handler| handler.once) {
            self.handlers.remove(&number);
        }
    }

    /// Drops a timer that is called for the last time, whatever comes of it: so does the bridge.
    pub(super) fn expend_timer(&mut self, number: u64) {
        if self.timers.get(&number).is_some_and(|timer| !timer.repeat) {
            self.timers.remove(&number);
        }
    }

    /// Puts a value, or its absence, on a shelf; gives what was there.
    fn put(&mut self, shelf: Shelf, key: &str, value: Option<Box<RawValue>>) -> Option<Box<RawValue>> {
        let (entries, bytes) = match shelf {
            Shelf::State => (&mut self.state, &mut self.state_bytes),
            Shelf::Config => (&mut self.overrides, &mut self.overrides_bytes),
        };
        let added = value.as_deref().map_or(0, |value| weight(key, value));
        let old = match value {
            Some(value) => entries.insert(key.to_owned(), value),
            None => entries.remove(key),
        };
        let removed = old.as_deref().map_or(0, |old| weight(key, old));
        *bytes = bytes.saturating_add(added).saturating_sub(removed);
        old
    }

    fn check_keys(&self, shelf: Shelf, key: &str, value: Option<&RawValue>) -> Result<(), Problem> {
        let entries = match shelf {
            Shelf::State => &self.state,
            Shelf::Config => &self.overrides,
        };
        if value.is_none() || entries.len() < MAX_KEYS || entries.contains_key(key) {
            return Ok(());
        }
        Err(Problem::quota(format!(
            "{} has {MAX_KEYS} keys, and may have no more: keep several values in one table",
            shelf.name()
        )))
    }

    fn check_quota(&self, shelf: Shelf, key: &str, value: Option<&RawValue>) -> Result<(), Problem> {
        let Some(value) = value else { return Ok(()) };
        let (entries, bytes) = match shelf {
            Shelf::State => (&self.state, self.state_bytes),
            Shelf::Config => (&self.overrides, self.overrides_bytes),
        };
        let what = shelf.name();
        let old = entries.get(key).map_or(0, |old| weight(key, old));
        let wanted = bytes.saturating_sub(old) + weight(key, value);
        if wanted <= self.limits.state {
            return Ok(());
        }
        Err(Problem::quota(format!(
            "with `{key}` {what} would have {wanted} bytes, at most {} are allowed (limits.state): delete what is \
             no longer needed",
            self.limits.state
        )))
    }
}

fn bytes_of(entries: &BTreeMap<String, Box<RawValue>>) -> usize {
    entries.iter().map(|(key, value)| weight(key, value)).sum()
}

fn weight(key: &str, value: &RawValue) -> usize {
    key.len() + value.get().len()
}
