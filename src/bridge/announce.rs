//! What the bridge says about itself: retained, and again after every connect, so that a broker that forgot
//! learns it again.

use std::{collections::BTreeSet, future::Future, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::{broadcast::error::RecvError, oneshot},
    time::Instant,
};

use super::{Admin, Assistant, desk::Desk};
use crate::{
    model::Topic,
    mqtt::{Outgoing, Receipt},
};

/// The version of the topics and payloads.
const PROTOCOL: u32 = 1;
/// The note with the plugins that were announced.
const ANNOUNCED: &str = "announced";
/// Between two announcements of changes: a plugin that fails a thousand times a second is told of ten times.
const QUIET: Duration = Duration::from_millis(100);

impl Desk {
    /// Announces until `stop` is dropped.
    pub async fn announce(self, mut stop: oneshot::Receiver<()>) {
        let mut plugins = self.registry().changes();
        let mut connections = self.outbox().connections();
        let mut subscriptions = self.session().status();
        let mut notices = self.plugins().notices();
        let mut health = tokio::time::interval(self.config().health_interval);
        let mut said = Said::before(&self).await;
        let mut quiet_until = Instant::now();
        plugins.mark_changed();
        connections.mark_changed();
        loop {
            tokio::select! {
                _ = &mut stop => return,
                changed = after(quiet_until, plugins.changed()) => match changed {
                    Ok(()) => {
                        said.plugins(&self, Again::IfChanged).await;
                        quiet_until = Instant::now() + QUIET;
                    }
                    Err(_) => return,
                },
                changed = connections.changed() => match changed {
                    Ok(()) => {
                        publish(&self, "bridge/info", &info(&self), true).await;
                        said.plugins(&self, Again::All).await;
                    }
                    Err(_) => return,
                },
                Ok(()) = subscriptions.changed() => {
                    if !subscriptions.borrow_and_update().refused.is_empty() {
                        publish(&self, "bridge/info", &info(&self), true).await;
                    }
                }
                notice = notices.recv() => match notice {
                    Ok(notice) => publish(&self, "bridge/event", &json!(notice), false).await,
                    Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "plugin notices were missed"),
                    Err(RecvError::Closed) => return,
                },
                _ = health.tick() => publish(&self, "bridge/health", &self::health(&self), true).await,
            }
        }
    }
}

/// Waits for a change, and before that until it may be told.
async fn after<T>(instant: Instant, change: impl Future<Output = T>) -> T {
    tokio::time::sleep_until(instant).await;
    change.await
}

/// Which plugins were announced, each as it was said.
#[derive(Default)]
struct Said {
    list: Option<String>,
    noted: Option<String>,
    plugins: std::collections::BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// The broker may know nothing.
    All,
    IfChanged,
}

impl Said {
    /// What an earlier run has announced and the broker may have kept: these ids, with words unknown.
    async fn before(desk: &Desk) -> Self {
        let ids = desk.store().note(ANNOUNCED).await.ok().flatten().unwrap_or_default();
        let plugins = ids.lines().map(|id| (id.to_owned(), String::new())).collect();
        Self { plugins, ..Self::default() }
    }

    async fn plugins(&mut self, desk: &Desk, again: Again) {
        let list = desk.registry().list();
        let all = again == Again::All;
        let text = json!(list).to_string();
        if all || self.list.as_deref() != Some(&text) {
            publish_text(desk, "bridge/plugins", text.clone(), true).await;
            self.list = Some(text);
        }
        let mut there = BTreeSet::new();
        for info in list {
            let text = json!(info).to_string();
            let id = info.id;
            there.insert(id.clone());
            if all || self.plugins.get(&id) != Some(&text) {
                publish_text(desk, &format!("bridge/plugin/{id}"), text.clone(), true).await;
                self.plugins.insert(id, text);
            }
        }
        let gone: Vec<String> = self.plugins.keys().filter(|id| !there.contains(*id)).cloned().collect();
        for id in gone {
            publish_text(desk, &format!("bridge/plugin/{id}"), String::new(), true).await;
            self.plugins.remove(&id);
        }
        let ids: Vec<&str> = self.plugins.keys().map(String::as_str).collect();
        let ids = ids.join("\n");
        if self.noted.as_ref() != Some(&ids) {
            if let Err(error) = desk.store().keep_note(ANNOUNCED, ids.clone()).await {
                tracing::warn!(%error, "the announced plugins could not be noted");
            }
            self.noted = Some(ids);
        }
    }
}

async fn publish(desk: &Desk, path: &str, value: &Value, retain: bool) {
    publish_text(desk, path, value.to_string(), retain).await;
}

async fn publish_text(desk: &Desk, path: &str, text: String, retain: bool) {
    // Ids of plugins and names of files have passed the door; a file's name that is no topic is not announced.
    let Ok(topic) = Topic::parse(&format!("{}/{path}", desk.config().base)) else { return };
    let mut outgoing = Outgoing::new(topic, text);
    (outgoing.qos, outgoing.retain, outgoing.receipt) = (1, retain, Receipt::default());
    desk.outbox().send(outgoing).await;
}

/// `bridge/info`
pub(super) fn info(desk: &Desk) -> Value {
    let config = desk.config();
    let refused: Vec<Value> = desk
        .session()
        .status()
        .borrow()
        .refused
        .iter()
        .map(|refused| json!({ "filter": refused.filter, "reason": refused.reason }))
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol": PROTOCOL,
        "instance": config.instance,
        "base_topic": config.base,
        "limits": { "payload": config.payload },
        "chat": { "assistant": match config.assistant {
            Assistant::None => "none",
            Assistant::External => "external",
        } },
        "admin_over_mqtt": match config.admin {
            Admin::Full => "full",
            Admin::Read => "read",
            Admin::Off => "off",
        },
        "refused_subscriptions": refused,
        "config": config.shown,
    })
}

/// `bridge/health`
pub(super) fn health(desk: &Desk) -> Value {
    let session = desk.session().counters();
    let outbox = desk.outbox().counters();
    json!({
        "uptime_s": desk.uptime().as_secs(),
        "memory_bytes": memory(),
        "requests": desk.requests(),
        "parked": desk.parking().parked(),
        "mqtt": {
            "received": session.received,
            "acknowledged": session.acknowledged,
            "dropped": session.dropped + desk.dropped(),
            "published": outbox.published,
            "refused": outbox.refused,
        },
        "plugins": desk.registry().health(),
        "timestamp": crate::model::now(),
    })
}

/// Resident memory of the bridge process in bytes; nothing where the system does not tell.
fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
