//! What the bridge and a worker say to each other over the pipe: one JSON text per frame, externally tagged.
//! Everything from a worker is hostile until it was read into these types.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    failure::Failure,
    limits::Limits,
    lockdown::Piece,
    message::{EventInfo, MqttMessage, Payload},
    permission::Permission,
    topic::{Filter, Topic},
};

/// The global functions of a plugin that the bridge calls.
pub const HOOKS: [&str; 10] = [
    "on_chat",
    "on_command",
    "on_automation",
    "on_mqtt",
    "on_startup",
    "on_shutdown",
    "filter_message",
    "filter_response",
    "health",
    "migrate_config",
];

/// From the bridge to a worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// The first frame: run this source. Answered by `FromWorker::Loaded`.
    Load(Box<Load>),
    /// State and configuration as they are now; sent when a worker takes over from another.
    Snapshot(Snapshot),
    /// Call a hook or callback. Answered by `FromWorker::Done` with the same number, in order.
    Call(Call),
    /// The answer to the worker's `FromWorker::Request`.
    Answer(Answer),
}

/// From a worker to the bridge.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// What of the lock-down does not hold here; at most one, before anything of the plugin has run.
    Lacks(Vec<Piece>),
    /// The source ran to its end, or failed.
    Loaded(Loaded),
    /// The running call wants something from the world and waits for `ToWorker::Answer`.
    Request(Request),
    /// A call ended.
    Done(Done),
    /// A log line; nothing answers it.
    Log(LogLine),
}

/// What a fresh worker needs to know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Load {
    /// What `jarvis.plugin` shows.
    pub about: About,
    /// The file's name for error messages, as in `weather.lua`.
    pub chunk: String,
    /// The Lua source.
    pub source: String,
    /// What it may reach, operator's values filled in.
    pub permissions: Vec<Permission>,
    /// What it may use.
    pub limits: Limits,
    /// `location.timezone`, an IANA name.
    pub timezone: String,
    /// Topic prefix of the bridge, to refuse what no plugin may touch.
    pub base_topic: String,
    /// State and configuration.
    pub snapshot: Snapshot,
}

/// A plugin's own metadata.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// `@id`
    pub id: String,
    /// `@name`
    pub name: String,
    /// `@version`
    pub version: String,
    /// `@author`
    pub author: String,
    /// `@description`
    pub description: String,
}

/// State and configuration of one plugin.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Snapshot {
    /// `jarvis.state`
    pub state: BTreeMap<String, Box<RawValue>>,
    /// Defaults of the header with the operator's values over them.
    pub config: BTreeMap<String, Box<RawValue>>,
    /// What `jarvis.config.set` has set: it wins until it is unset.
    pub overrides: BTreeMap<String, Box<RawValue>>,
}

/// One call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    /// Grows by one with each call of a worker.
    pub number: u64,
    /// What to call.
    pub target: Target,
    /// With what.
    pub input: Input,
    /// Why no event may follow from it, where the chain that it is part of has become too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<String>,
    /// How many emits and publishes may still follow from what this call goes back to; nothing where nobody counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u32>,
}

/// What to call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A global function of this name; a missing one is `Outcome::Missing`.
    Hook(String),
    /// The function behind `Effect::On` or `Effect::Subscribe`; one that is gone is `Outcome::Missing`.
    Handler(u64),
    /// The function behind `Effect::Timer`; one that is gone is `Outcome::Missing`.
    Timer(u64),
}

/// A call's arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// None: `on_startup`, `on_shutdown`, `health`, timers (whose data the worker keeps).
    Nothing,
    /// One JSON value: chat messages, commands, automations, filters.
    Value(Box<RawValue>),
    /// An event: `fn(data, event)`.
    Event {
        /// What was emitted; one event is for many handlers.
        data: Arc<RawValue>,
        /// Which and whence.
        event: EventInfo,
    },
    /// A message of an MQTT subscription.
    Message(Arc<MqttMessage>),
}

/// What the running call asks of the bridge.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The call that asks; 0 while the source runs.
    pub call: u64,
    /// Grows by one with each request of a worker.
    pub number: u64,
    /// What.
    pub operation: Operation,
}

/// What a worker can ask for and waits for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `jarvis.http.*`; answered with an [`HttpResponse`].
    Http(HttpRequest),
    /// `jarvis.sleep`, in milliseconds; answered with null.
    Sleep(u64),
    /// `jarvis.command`; answered with that command's result.
    Command {
        /// Its name.
        name: String,
        /// Its arguments.
        args: Box<RawValue>,
    },
    /// `jarvis.mqtt.publish` with `{now = true}`; answered with null.
    Publish(Publish),
    /// `jarvis.mqtt.get`; answered with a payload (a JSON string, or an array of bytes) or null.
    Get(String),
}

/// The bridge's answer to a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The request's number.
    pub number: u64,
    /// What came of it.
    pub result: Result<Box<RawValue>, Refusal>,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The plugin's mistake: raises an error in Lua.
    Mistake(String),
    /// The world's failure: `nil, message` in Lua.
    Failure(String),
}

/// An HTTP request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HttpRequest {
    /// `GET`, `POST`, …, upper case.
    pub method: String,
    /// With the query in it.
    pub url: String,
    /// Name and value, in order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Option<Payload>,
    /// In milliseconds, for everything, redirects too.
    pub timeout_ms: Option<u64>,
}

/// An HTTP response.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Lower-case name and value; repeated ones joined with `, `.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Payload,
}

/// The source ran.
#[derive(Debug, Serialize, Deserialize)]
pub struct Loaded {
    /// Which hooks are global functions now.
    pub hooks: Vec<String>,
    /// What the source's top level wants done, or why it failed.
    pub result: Result<Vec<Effect>, Failure>,
}

/// A call ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// The call's number.
    pub call: u64,
    /// How.
    pub outcome: Outcome,
    /// What it wants done; empty unless it ended well.
    pub effects: Vec<Effect>,
    /// The Lua heap after it, in bytes.
    pub memory: usize,
}

/// How a call ended.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// There is no such function.
    Missing,
    /// It returned nil.
    Nothing,
    /// It returned a value (for hooks a table, for filters a table or false).
    Value(Box<RawValue>),
    /// It failed.
    Failed(Failure),
}

/// What a hook wants done when it has returned.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// `jarvis.state.set`; nothing deletes.
    State {
        /// 1 to 256 bytes.
        key: String,
        /// The value.
        value: Option<Box<RawValue>>,
    },
    /// `jarvis.config.set`; nothing unsets.
    Config {
        /// 1 to 256 bytes.
        key: String,
        /// The value.
        value: Option<Box<RawValue>>,
    },
    /// `jarvis.events.emit`.
    Emit {
        /// The event's name.
        name: String,
        /// Its data.
        data: Box<RawValue>,
    },
    /// `jarvis.mqtt.publish`.
    Publish(Publish),
    /// `jarvis.say`.
    Say(Say),
    /// `jarvis.events.on`.
    On {
        /// Names the function for `Target::Handler`.
        handler: u64,
        /// See [`super::message::event_matches`].
        pattern: String,
        /// Lower first.
        priority: i64,
        /// Gone after its first call.
        once: bool,
    },
    /// `jarvis.mqtt.subscribe`.
    Subscribe {
        /// Names the function for `Target::Handler`.
        handler: u64,
        /// The filter.
        filter: Filter,
        /// 0 or 1.
        qos: u8,
        /// Whether retained values are wanted.
        retained: bool,
    },
    /// `jarvis.events.off` and `jarvis.mqtt.unsubscribe`.
    Off {
        /// The function's number.
        handler: u64,
    },
    /// `jarvis.timer.after` and `.every`.
    Timer {
        /// Names the function for `Target::Timer`.
        timer: u64,
        /// Until it fires, in milliseconds.
        delay_ms: u64,
        /// Whether it fires again after each such delay.
        repeat: bool,
    },
    /// `jarvis.timer.cancel`, or a timer of the same name took its place.
    CancelTimer {
        /// The timer's number.
        timer: u64,
    },
}

/// A publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publish {
    /// Where.
    pub topic: Topic,
    /// What.
    pub payload: Payload,
    /// 0 or 1.
    pub qos: u8,
    /// Whether the broker keeps it.
    pub retain: bool,
}

/// Something said unasked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Say {
    /// The text.
    pub text: String,
    /// Whom it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// Whom it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Where it shall be heard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// How loud a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// For the author.
    Debug,
    /// Life goes on.
    Info,
    /// Something is odd.
    Warn,
    /// Something is lost.
    Error,
}

/// A log line of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogLine {
    /// How loud.
    pub level: Level,
    /// The text, control characters replaced, at most 4 KiB.
    pub message: String,
    /// A JSON object of at most 4 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Box<RawValue>>,
}
