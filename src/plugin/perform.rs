//! What follows a call that wants something done: its commit, then its publishes and events, then its answer;
//! for the calls of one plugin in the order they ran.

use std::{sync::Arc, time::Duration};

use serde_json::{json, value::RawValue};
use tokio::sync::{Notify, mpsc, oneshot};

use super::{
    context::Context,
    mail::{Event, Step},
};
use crate::{
    effects::Cause,
    model::{
        ErrorCode, Failure, PluginId, Topic,
        frame::{Effect, Say},
        message::EventInfo,
    },
    store::{Commit, StoreError},
};

/// Calls that may wait for their commit or the outbox. When full, the plugin takes no further message.
const QUEUE: usize = 64;

/// One call that ended well and wants something done.
pub(super) struct Performance {
    pub(super) commit: Result<Option<Commit>, StoreError>,
    pub(super) outputs: Vec<Effect>,
    pub(super) cause: Cause,
    pub(super) value: Option<Box<RawValue>>,
    pub(super) ran: Duration,
    pub(super) reply: Option<oneshot::Sender<Step>>,
}

/// Starts a plugin's performer. `undone` is notified when a commit failed: the worker then believes what
/// never happened.
pub(super) fn start(id: PluginId, context: Arc<Context>, undone: Arc<Notify>) -> mpsc::Sender<Performance> {
    let (queue, mut performances) = mpsc::channel::<Performance>(QUEUE);
    tokio::spawn(async move {
        while let Some(performance) = performances.recv().await {
            perform(&id, &context, &undone, performance).await;
        }
    });
    queue
}

async fn perform(id: &PluginId, context: &Arc<Context>, undone: &Notify, performance: Performance) {
    let Performance { commit, outputs, cause, value, ran, reply } = performance;
    let durable = match commit {
        Ok(Some(commit)) => commit.durable().await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let outcome = match durable {
        Ok(()) => {
            for output in outputs {
                put_out(id, context, &cause, output).await;
            }
            Ok(value)
        }
        Err(error) => {
            undone.notify_one();
            tracing::error!(plugin = %id, %error, "a plugin's changes could not be kept");
            Err(Failure::new(ErrorCode::Unavailable, format!("plugin `{id}`: nothing was changed: {error}")))
        }
    };
    if let Some(reply) = reply {
        // Who asked may be gone: a time-out, a shutdown.
        let _ = reply.send(Step { outcome, ran });
    }
}

async fn put_out(id: &PluginId, context: &Arc<Context>, cause: &Cause, output: Effect) {
    match output {
        Effect::Publish(publish) => context.effects.bus().publish(publish, cause).await,
        Effect::Emit { name, data } => emit(id, context, cause, name, data).await,
        Effect::Say(say) => {
            // The filters it goes through may be this plugin's own, which waits for this task.
            let (id, context, cause) = (id.clone(), context.clone(), cause.clone());
            tokio::spawn(async move { speak(&id, &context, &cause, say).await });
        }
        Effect::State { .. }
        | Effect::Config { .. }
        | Effect::On { .. }
        | Effect::Subscribe { .. }
        | Effect::Off { .. }
        | Effect::Timer { .. }
        | Effect::CancelTimer { .. } => {}
    }
}

/// To MQTT and to every plugin that listens.
async fn emit(id: &PluginId, context: &Arc<Context>, cause: &Cause, name: String, data: Box<RawValue>) {
    let info = EventInfo {
        name,
        plugin: Some(id.to_string()),
        id: uuid::Uuid::now_v7().to_string(),
        timestamp: crate::model::now(),
    };
    let broadcast = json!({
        "event_type": info.name, "plugin": info.plugin, "data": data, "id": info.id, "timestamp": info.timestamp,
    });
    let topic = format!("{}/event/{id}/{}", context.effects.base(), info.name);
    if let Ok(topic) = Topic::parse(&topic) {
        context.effects.bus().publish_json(topic, broadcast.to_string(), cause).await;
    }
    let Some(cause) = cause.next() else {
        tracing::error!(plugin = %id, event = info.name, "a chain of events is cut: it went over 8 plugins");
        return;
    };
    // Whoever listens holds the cause, so the message stays unacknowledged until they have heard it.
    context.registry.deliver(&Arc::new(Event { info, data }), &cause);
}

/// `jarvis.say`: through the response filters to `chat/notification`.
async fn speak(id: &PluginId, context: &Arc<Context>, cause: &Cause, say: Say) {
    let Some(deeper) = cause.next() else {
        tracing::error!(plugin = %id, "a chain of notifications is cut: it went over 8 plugins");
        return;
    };
    let mut message = json!({
        "id": uuid::Uuid::now_v7().to_string(), "role": "assistant", "content": say.text, "plugin": id,
        "timestamp": crate::model::now(),
    });
    for (key, value) in [("conversation_id", say.conversation_id), ("user", say.user), ("site", say.site)] {
        if let (Some(value), Some(object)) = (value, message.as_object_mut()) {
            object.insert(key.into(), value.into());
        }
    }
    let serde_json::Value::Object(message) = message else { return };
    let filtered = context.registry.filter("filter_response", message, &deeper).await;
    if let Some(stop) = filtered.stopped {
        tracing::info!(plugin = %id, by = %stop.plugin, reason = stop.reason, "a notification was stopped");
        return;
    }
    if let Ok(topic) = Topic::parse(&format!("{}/chat/notification", context.effects.base())) {
        let text = serde_json::Value::Object(filtered.message).to_string();
        context.effects.bus().publish_json(topic, text, cause).await;
    }
}
