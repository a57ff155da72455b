//! What a plugin is and how it lives: its header, its registry entry, its mailbox, its worker's turns, its
//! reload. Knows nothing of topics and payloads.
//!
//! Reading order: `files` finds plugins, `manager` loads them, `actor` runs one (`intake` takes its mail,
//! `turnover` changes its worker, `breaker` says when it is left alone), `registry` asks them.

mod actor;
mod ask;
mod backlog;
mod blueprint;
mod breaker;
mod checkup;
mod context;
mod ears;
mod files;
mod filter;
mod finish;
mod folder;
mod hearing;
mod info;
mod intake;
mod job;
mod known;
mod ledger;
mod looks;
mod mail;
mod mailbox;
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
    breaker::BreakerSettings,
    filter::{Filtered, Stop},
    info::{PluginDetails, PluginInfo},
    mail::{Event, Heard, Step},
    notice::Notice,
    registry::{Asked, Registry},
    sandbox::{Builder, Plugin, PluginManager, Sandbox, SetupError},
    shared::State,
    stats::PluginHealth,
};
