//! What plugins may do to the world: permission and quota first, then the deed. Knows no Lua and no process.

mod budget;
pub mod bus;
mod cause;
mod check;
pub mod http;
mod log;
mod shape;
mod subscriptions;

use std::{sync::Arc, time::Duration};

use serde_json::value::{RawValue, to_raw_value};

pub use self::{
    budget::Budget,
    bus::Bus,
    cause::{Cause, MAX_HOPS},
    check::{check, check_outcome, check_request, effect_bytes, is_output},
    http::HttpClient,
    log::{Hush, LogGate},
};
use crate::{
    model::{
        Permission, PluginId, Rights, Topic,
        frame::{Effect, HttpRequest, Publish, Refusal},
    },
    store::{Commit, Sequence, Space, Store, StoreError, Write},
};

/// The doors to the world that plugins share. Cheap to clone.
#[derive(Clone)]
pub struct Effects {
    http: HttpClient,
    store: Store,
    bus: Bus,
    base: Topic,
}

/// What a request of a running call comes to.
pub type Granted = Result<Box<RawValue>, Refusal>;

impl Effects {
    /// Puts the doors together. `base` is the bridge's own first topic levels.
    #[must_use]
    pub fn new(http: HttpClient, store: Store, bus: Bus, base: Topic) -> Self {
        Self { http, store, bus, base }
    }

    /// The same for embedders: state in the given store, and nothing is published.
    #[must_use]
    pub fn without_bus(store: Store, http: http::Config, base: Topic) -> Self {
        Self::new(HttpClient::new(http), store, Bus::nowhere(), base)
    }

    /// Where events, publishes and subscriptions go.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// What outlives a restart.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The first levels of the bridge's own topics.
    #[must_use]
    pub fn base(&self) -> &Topic {
        &self.base
    }

    /// Hands the state and configuration writes among some effects to the store, to be kept only where all
    /// that came before in this sequence was; nothing where there are none.
    ///
    /// # Errors
    /// When the store is closed.
    pub async fn commit(
        &self,
        plugin: &PluginId,
        effects: &[Effect],
        sequence: &Sequence,
    ) -> Result<Option<Commit>, StoreError> {
        let writes: Vec<Write> = effects.iter().filter_map(|effect| write(plugin, effect)).collect();
        if writes.is_empty() {
            return Ok(None);
        }
        self.store.commit_in(writes, sequence).await.map(Some)
    }

    /// `jarvis.http.*`
    ///
    /// # Errors
    /// As [`HttpClient::run`] says.
    pub async fn fetch(&self, plugin: &PluginId, may: &[Permission], request: HttpRequest) -> Granted {
        let response = self.http.run(plugin, may, request).await?;
        to_raw_value(&response).map_err(|error| Refusal::Failure(error.to_string()))
    }

    /// `jarvis.sleep`; the worker has checked the length, here it is only bounded.
    pub async fn sleep(&self, milliseconds: u64) -> Box<RawValue> {
        tokio::time::sleep(Duration::from_millis(milliseconds.min(5_000))).await;
        null()
    }

    /// `jarvis.mqtt.publish` with `{now = true}`.
    ///
    /// # Errors
    /// When the plugin may not.
    pub async fn publish_now(&self, rights: &Rights, publish: Publish, cause: &Cause) -> Granted {
        rights.check_publish(&publish.topic).map_err(Refusal::Mistake)?;
        if let Some(budget) = cause.budget() {
            budget.spend(1).map_err(Refusal::Mistake)?;
        }
        self.bus.publish(publish, cause).await;
        Ok(null())
    }

    /// `jarvis.mqtt.get`: the last value seen on a topic within one of the plugin's own subscriptions, else
    /// null.
    #[must_use]
    pub fn last_value(&self, plugin: &PluginId, topic: &str) -> Box<RawValue> {
        let value = self.bus.last_value(plugin, topic);
        value.and_then(|payload| to_raw_value(&payload).ok()).unwrap_or_else(null)
    }
}

impl std::fmt::Debug for Effects {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Effects").field("base", &self.base).finish_non_exhaustive()
    }
}

/// JSON null.
fn null() -> Box<RawValue> {
    RawValue::NULL.to_owned()
}

fn write(plugin: &PluginId, effect: &Effect) -> Option<Write> {
    let (space, key, value) = match effect {
        Effect::State { key, value } => (Space::State, key, value),
        Effect::Config { key, value } => (Space::Config, key, value),
        Effect::Emit { .. }
        | Effect::Publish(_)
        | Effect::Say(_)
        | Effect::On { .. }
        | Effect::Subscribe { .. }
        | Effect::Off { .. }
        | Effect::Timer { .. }
        | Effect::CancelTimer { .. } => return None,
    };
    Some(Write { plugin: plugin.clone(), space, key: key.clone(), value: value.clone() })
}

/// Shared by the modules of this room.
type Shared<T> = Arc<std::sync::Mutex<T>>;

/// Locks a mutex whose sections are short and do not panic; a poisoned one is taken as it is.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
