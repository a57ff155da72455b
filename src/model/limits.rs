//! What one plugin may use. The configuration sets it, the worker and the bridge both enforce it.

use serde::{Deserialize, Serialize};

/// The most bytes that the effects of one call may take. It bounds what a call can pile up outside of the Lua heap, and
/// how long the bridge, which reads them in one piece, is busy with one plugin; who wants more is refused the effect.
///
/// What a worker holds at most besides its Lua heap, with the shipped limits, in MiB: state and `config.set` 2 × 2.5
/// (1 of text, and what 10,000 keys take), configuration 1, timers' data 1, the effects 4 and their way back 4 (the old
/// values of what was written; while no call has run, the writes of the top level instead), the frame that takes them
/// out 8 (a buffer doubles), the largest frame that came in 8 and what was read from it 4, one value on its way to
/// JSON 1: 36 in all, which with 16 of heap stays below the 56 at which the system refuses a worker more.
pub const MAX_EFFECTS: usize = 4 << 20;
/// What an effect takes at most besides its texts: in the list, on the way back, in the index of writes, as JSON.
pub const EFFECT_OVERHEAD: usize = 512;

/// The limits of one plugin, as they hold for it after its header and the configuration were read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU time of one hook call, in milliseconds.
    pub cpu_ms: u64,
    /// Wall time of one hook call without its waits in `http`, `sleep` and the like, in milliseconds.
    pub wall_ms: u64,
    /// Wall time of one hook call with all its waits, in milliseconds.
    pub total_ms: u64,
    /// The Lua heap, in bytes.
    pub memory: usize,
    /// A result, a payload to publish or an event's data as JSON, in bytes.
    pub result: usize,
    /// How deep a result may be nested.
    pub depth: usize,
    /// How many values a result may have in all.
    pub nodes: usize,
    /// Emits and publishes in one hook call.
    pub outputs: usize,
    /// HTTP requests in one hook call.
    pub http: usize,
    /// All that one hook call waits for in all: `http`, `sleep`, `command`, `mqtt.get` and the like.
    pub requests: usize,
    /// Log lines a second.
    pub logs_per_second: u32,
    /// All state keys and values together, in bytes.
    pub state: usize,
    /// Event handlers and MQTT subscriptions together.
    pub handlers: usize,
    /// Timers.
    pub timers: usize,
    /// Messages that wait for the plugin.
    pub mailbox: usize,
    /// Those at QoS 1 and what they caused in all: they wait beyond the mailbox, up to this.
    pub backlog: usize,
}

impl Limits {
    /// The longest frame that a worker has a reason to send: the effects of a call and its result. What names and
    /// escapes add, and a request with a body, fit into the rest.
    #[must_use]
    pub fn frame(&self) -> usize {
        MAX_EFFECTS + self.result + (1 << 20)
    }
}

/// The figures of the shipped `config/default.toml`, for embedders that bring no configuration; a test of the
/// configuration holds the two together.
impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_ms: 250,
            wall_ms: 5_000,
            total_ms: 60_000,
            memory: 16 << 20,
            result: 256 << 10,
            depth: 32,
            nodes: 20_000,
            outputs: 64,
            http: 32,
            requests: 1_000,
            logs_per_second: 50,
            state: 1 << 20,
            handlers: 64,
            timers: 64,
            mailbox: 256,
            backlog: 10_000,
        }
    }
}
