//! What follows a call that wants something done: its commit, then its publishes and events, then its answer;
//! for the calls of one plugin in the order they ran.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{json, value::RawValue};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    context::Context,
    mail::{Event, Step},
    shared::Shared,
};
use crate::{
    effects::{Cause, Hush, effect_bytes},
    model::{
        ErrorCode, Failure, Topic,
        frame::{Effect, Say},
        message::EventInfo,
    },
    store::{Commit, Sequence, StoreError},
};

/// Calls that may wait for their commit or the outbox. When full, the plugin takes no further message.
const QUEUE: usize = 64;
/// What these calls may want done together, in KiB. When full, the plugin waits with the call that has just ended;
/// one may always wait, however much it wants.
const QUEUE_KIB: u32 = 16 * 1024;

/// One call that ended well and wants something done.
pub(super) struct Performance {
    pub(super) commit: Result<Option<Commit>, StoreError>,
    /// What its writes build on: the calls of the same worker before it.
    pub(super) sequence: Sequence,
    pub(super) outputs: Vec<Effect>,
    pub(super) cause: Cause,
    pub(super) value: Option<Box<RawValue>>,
    pub(super) ran: Duration,
    pub(super) reply: Option<oneshot::Sender<Step>>,
    /// Its part of [`QUEUE_KIB`].
    pub(super) place: Place,
}

/// Room for a call's effects, given back when they are done.
pub(super) type Place = Option<OwnedSemaphorePermit>;

/// The way to a plugin's performer, which lives as long as this.
pub(super) struct Performer {
    queue: mpsc::Sender<Performance>,
    kib: Arc<Semaphore>,
}

impl Performer {
    /// Starts a plugin's performer. `undone` is notified when a commit failed: the worker then believes what
    /// never happened.
    pub(super) fn start(shared: Shared, context: Arc<Context>, undone: Arc<Notify>) -> Self {
        let (queue, mut performances) = mpsc::channel::<Performance>(QUEUE);
        let mut stage = Stage { shared, context, undone, hush: Hush::default() };
        tokio::spawn(async move {
            while let Some(performance) = performances.recv().await {
                stage.perform(performance).await;
            }
        });
        Self { queue, kib: Arc::new(Semaphore::new(QUEUE_KIB as usize)) }
    }

    /// How many further calls there is room for.
    pub(super) fn capacity(&self) -> usize {
        self.queue.capacity()
    }

    /// Waits until there is room for one.
    pub(super) async fn has_capacity(&self) {
        // Only to wake up; the place itself is not needed yet.
        let _ = self.queue.reserve().await;
    }

    /// Waits for room for these effects. The performer waits for the store and the outbox, never for a plugin, so this
    /// ends when they do.
    pub(super) async fn place(&self, effects: &[Effect]) -> Place {
        let bytes: usize = effects.iter().map(effect_bytes).sum();
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(QUEUE_KIB).min(QUEUE_KIB);
        self.kib.clone().acquire_many_owned(kib).await.ok()
    }

    /// Hands a call over.
    pub(super) async fn send(&self, performance: Performance) {
        // It lives as long as this sender.
        let _ = self.queue.send(performance).await;
    }
}

/// What a performer works with.
struct Stage {
    shared: Shared,
    context: Arc<Context>,
    undone: Arc<Notify>,
    hush: Hush,
}

impl Stage {
    async fn perform(&mut self, performance: Performance) {
        let Performance { commit, sequence, outputs, cause, value, ran, reply, place } = performance;
        let durable = match commit {
            Ok(Some(commit)) => commit.durable().await,
            Ok(None) if sequence.is_broken() => Err(StoreError::Failed(Sequence::BROKEN.into())),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let outcome = match durable {
            Ok(()) => {
                for output in outputs {
                    put_out(&self.shared, &self.context, &cause, output).await;
                }
                Ok(value)
            }
            Err(error) => {
                self.undone.notify_one();
                Err(self.failed(&error))
            }
        };
        drop(place);
        if let Some(reply) = reply {
            // Who asked may be gone: a time-out, a shutdown.
            let _ = reply.send(Step { outcome, ran });
        }
    }

    fn failed(&mut self, error: &StoreError) -> Failure {
        let id = self.shared.id();
        if self.hush.lets("", Instant::now()) {
            let more = self.hush.take();
            tracing::error!(plugin = %id, %error, more, "a plugin's changes could not be kept");
        }
        let text = format!("plugin `{id}`: nothing was changed: {error}");
        let failure = Failure::new(ErrorCode::Unavailable, text);
        self.shared.failed(&failure);
        failure
    }
}

async fn put_out(shared: &Shared, context: &Arc<Context>, cause: &Cause, output: Effect) {
    match output {
        Effect::Publish(publish) => context.effects.bus().publish(publish, cause).await,
        Effect::Emit { name, data } => emit(shared, context, cause, name, data).await,
        Effect::Say(say) => {
            // The filters it goes through may be this plugin's own, which waits for this task.
            // It counts among what is on its way, so there are only so many.
            let held = shared.backlog().hold(say.text.len());
            let (shared, context, cause) = (shared.clone(), context.clone(), cause.clone());
            tokio::spawn(async move {
                speak(&shared, &context, &cause, say).await;
                drop(held);
            });
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

/// What an event looks like on MQTT; its data stays text, as nobody here needs it read.
#[derive(Serialize)]
struct Broadcast<'event> {
    event_type: &'event str,
    plugin: Option<&'event str>,
    data: &'event RawValue,
    id: &'event str,
    timestamp: &'event str,
}

/// To MQTT and to every plugin that listens.
async fn emit(shared: &Shared, context: &Arc<Context>, cause: &Cause, name: String, data: Box<RawValue>) {
    let id = shared.id();
    let Ok(cause_of_hearing) = cause.next(id) else {
        // Its worker was told so with the call and has refused the plugin this event.
        return;
    };
    let info = EventInfo {
        name,
        plugin: Some(id.to_string()),
        id: uuid::Uuid::now_v7().to_string(),
        timestamp: crate::model::now(),
    };
    let broadcast = Broadcast {
        event_type: &info.name,
        plugin: info.plugin.as_deref(),
        data: &data,
        id: &info.id,
        timestamp: &info.timestamp,
    };
    let topic = format!("{}/event/{id}/{}", context.effects.base(), info.name);
    if let (Ok(topic), Ok(text)) = (Topic::parse(&topic), serde_json::to_string(&broadcast)) {
        context.effects.bus().publish_json(topic, text, cause).await;
    }
    let held = shared.backlog().hold(data.get().len());
    // Whoever listens holds the cause, so the message stays unacknowledged until they have heard it.
    context.registry.deliver(&Arc::new(Event::held(info, data, held)), &cause_of_hearing);
}

/// `jarvis.say`: through the response filters to `chat/notification`.
async fn speak(shared: &Shared, context: &Arc<Context>, cause: &Cause, say: Say) {
    let id = shared.id();
    // As for an event.
    let Ok(deeper) = cause.next(id) else { return };
    let mut message = json!({
        "id": uuid::Uuid::now_v7().to_string(), "role": "assistant", "content": say.text, "plugin": id.as_str(),
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
