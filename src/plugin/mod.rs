//! What a plugin is and how it lives: its header, its registry entry, its mailbox, its worker's turns, its
//! reload. Knows nothing of topics and payloads.
//!
//! Reading order: `files` finds plugins, `manager` loads them, `actor` runs one (`turnover` when its worker
//! changes), `registry` asks them.

mod actor;
mod allowance;
mod ask;
mod blueprint;
mod context;
mod ears;
mod files;
mod filter;
mod folder;
mod info;
mod job;
mod looks;
mod mail;
mod manager;
pub mod manifest;
mod notice;
mod perform;
mod registry;
mod runner;
mod sandbox;
mod shared;
mod shelf;
mod source;
mod stats;
mod turnover;
mod waits;
mod watch;

pub(crate) use self::sandbox::known_hook;
pub use self::{
    ask::response_of,
    blueprint::Settings,
    filter::{Filtered, Stop},
    info::{PluginDetails, PluginInfo},
    mail::{Event, Heard, Step},
    notice::Notice,
    registry::{Asked, Registry},
    sandbox::{Builder, Plugin, PluginManager, Sandbox, SetupError},
    shared::State,
    stats::PluginHealth,
};
