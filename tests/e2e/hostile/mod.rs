//! Hostile plugins, each in the real bridge over MQTT beside a well-behaved one that answers every message.
//! A trick is a row in a table: what it runs, and what must come of it.

mod backlog;
mod cpu;
mod files;
mod floods;
mod force;
mod hooks;
mod latency;
mod memory;
mod network;
mod reach;
mod recovery;
mod results;
mod servers;
mod stage;
mod time;
