//! Messages come in, plugins decide, answers go out; the process that holds the house never runs a
//! plugin's code.
//!
//! The map, in reading order:
//! - [`model`]: the words; no input or output.
//! - [`mqtt`]: the broker door, alone in knowing rumqttc and the embedded broker.
//! - [`bridge`]: the main job: a request becomes calls of hooks, and those become one envelope.
//! - [`plugin`]: what a plugin is: its header, its life, its mailbox, its reload.
//! - [`worker`]: the process boundary; its child side runs [`lua`], alone in knowing mlua.
//! - [`effects`]: what plugins may do to the world, checked and limited.
//! - [`store`]: state and configuration that outlive a restart, alone in knowing SQL.
//! - [`config`], [`telemetry`], [`app`], [`cli`]: the edge.
//!
//! Invariants, each kept by a test: no Lua runs in the bridge process; the rooms import only downhill
//! (`tests/tidy/rooms.rs` has the table); everything that comes from outside is bounded; every request gets
//! exactly one envelope.

pub mod app;
pub mod bridge;
pub mod cli;
pub mod config;
pub mod effects;
pub mod lua;
pub mod model;
pub mod mqtt;
pub mod plugin;
pub mod store;
pub mod telemetry;
pub mod worker;
