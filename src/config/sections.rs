//! The sections of a configuration as checked values. Plain data: knows no room that uses it.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Deserializer};

use super::secret;
use crate::model::{self, Filter, Topic};

/// `[paths]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// The directory of the plugins.
    pub plugins: PathBuf,
    /// The directory of all state; never empty.
    pub data: PathBuf,
}

/// `[mqtt]`
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtt://` or `tcp://` with a host, maybe with port, user and password. None: the embedded broker.
    #[serde(deserialize_with = "not_empty")]
    pub url: Option<String>,
    /// The user where the URL names none.
    #[serde(deserialize_with = "not_empty")]
    pub username: Option<String>,
    /// The password where the URL has none.
    #[serde(deserialize_with = "not_empty")]
    pub password: Option<String>,
    /// The first levels of every topic; no level of it is empty.
    pub base_topic: Topic,
    /// None: one is made at the first start and kept.
    #[serde(deserialize_with = "not_empty")]
    pub client_id: Option<String>,
    /// Whole seconds, 5 to 65535.
    #[serde(deserialize_with = "seconds")]
    pub keep_alive: Duration,
    /// Whole seconds that fit into 32 bits.
    #[serde(deserialize_with = "seconds")]
    pub session_expiry: Duration,
    /// Messages in flight, at least 1.
    pub receive_maximum: u16,
    /// Bytes.
    pub max_packet_size: u32,
    /// Where a request may have its answer sent; never empty.
    pub reply_topics: Vec<Filter>,
}

impl fmt::Debug for Mqtt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mqtt")
            .field("url", &self.url.as_deref().map(secret::mask_url))
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| secret::MASK))
            .field("base_topic", &self.base_topic)
            .field("client_id", &self.client_id)
            .field("keep_alive", &self.keep_alive)
            .field("session_expiry", &self.session_expiry)
            .field("receive_maximum", &self.receive_maximum)
            .field("max_packet_size", &self.max_packet_size)
            .field("reply_topics", &self.reply_topics)
            .finish()
    }
}

/// `[broker]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broker {
    /// Where the embedded broker listens: always a loopback address; port 0 is any free one.
    pub listen: SocketAddr,
}

/// `[bridge]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bridge {
    /// What may be asked over MQTT.
    pub admin_over_mqtt: Admin,
    /// Between two health reports.
    #[serde(deserialize_with = "seconds")]
    pub health_interval: Duration,
    /// What running hooks get at shutdown.
    #[serde(deserialize_with = "seconds")]
    pub shutdown_timeout: Duration,
}

/// What may be asked on `<base>/bridge/request/#`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// `Full` where the broker is on this machine, else `Read`.
    Auto,
    /// Everything.
    Full,
    /// What changes nothing.
    Read,
    /// Nothing.
    Off,
}

/// `[delivery]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delivery {
    /// After how long an unfinished message is kept in the data directory and acknowledged.
    #[serde(deserialize_with = "milliseconds")]
    pub park_after: Duration,
}

/// `[chat]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chat {
    /// Who answers what no plugin answered.
    pub assistant: Assistant,
    /// What an external assistant gets.
    #[serde(deserialize_with = "seconds")]
    pub timeout: Duration,
    /// Whether `/name words` runs a command.
    pub slash_commands: bool,
}

/// Who answers a chat message that no plugin answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assistant {
    /// Nobody: the envelope comes at once.
    None,
    /// An assistant core that listens on `<base>/chat/prompt`.
    External,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "LimitKeys")]
pub struct Limits {
    /// What holds for every plugin that says nothing else in its header.
    pub plugin: model::Limits,
    /// Bytes of a request's payload.
    pub payload: usize,
    /// How far a header may raise the wall limit, in milliseconds.
    pub max_timeout_ms: u64,
    /// How far a header may raise the heap, in bytes.
    pub max_memory: usize,
    /// How many plugins may run.
    pub plugins: usize,
}

/// `[limits]` as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitKeys {
    payload: usize,
    hook_cpu_ms: u64,
    hook_wall_ms: u64,
    hook_total_ms: u64,
    max_timeout_ms: u64,
    memory: usize,
    max_memory: usize,
    plugins: usize,
    result: usize,
    depth: usize,
    nodes: usize,
    outputs: usize,
    http: usize,
    requests: usize,
    logs_per_second: u32,
    state: usize,
    handlers: usize,
    timers: usize,
    mailbox: usize,
    backlog: usize,
}

impl From<LimitKeys> for Limits {
    fn from(keys: LimitKeys) -> Self {
        let plugin = model::Limits {
            cpu_ms: keys.hook_cpu_ms,
            wall_ms: keys.hook_wall_ms,
            total_ms: keys.hook_total_ms,
            memory: keys.memory,
            result: keys.result,
            depth: keys.depth,
            nodes: keys.nodes,
            outputs: keys.outputs,
            http: keys.http,
            requests: keys.requests,
            logs_per_second: keys.logs_per_second,
            state: keys.state,
            handlers: keys.handlers,
            timers: keys.timers,
            mailbox: keys.mailbox,
            backlog: keys.backlog,
        };
        let LimitKeys { payload, max_timeout_ms, max_memory, plugins, .. } = keys;
        Self { plugin, payload, max_timeout_ms, max_memory, plugins }
    }
}

/// `[breaker]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// Time-outs, memory failures and deaths of its worker in a row after which a plugin is left alone.
    pub failures: u32,
    /// For how long, before one call is tried.
    #[serde(deserialize_with = "seconds")]
    pub pause: Duration,
    /// Ended workers after which a plugin is switched off.
    pub kills: usize,
    /// Within this time.
    #[serde(deserialize_with = "seconds")]
    pub kills_within: Duration,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// For one request with all its redirects.
    #[serde(rename = "timeout_ms", deserialize_with = "milliseconds")]
    pub timeout: Duration,
    /// The most that a plugin may ask for.
    #[serde(rename = "max_timeout_ms", deserialize_with = "milliseconds")]
    pub max_timeout: Duration,
    /// Bytes of a response's body.
    pub max_body: usize,
    /// How many redirects are followed.
    pub redirects: usize,
}

/// `[reload]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Whether changed plugin files take effect at once.
    pub watch: bool,
}

/// `[location]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The name of an IANA time zone that chrono-tz knows; never empty.
    pub timezone: String,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// What [`crate::telemetry::init`] takes.
    pub level: String,
}

fn not_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((!text.is_empty()).then_some(text))
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_secs)
}

fn milliseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    u64::deserialize(deserializer).map(Duration::from_millis)
}
