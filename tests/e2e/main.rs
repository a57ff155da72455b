//! What a user can see of the bridge, end to end: the real program, real brokers, real MQTT clients. Knows
//! nothing of the code behind them.
//!
//! Each test runs against the embedded broker and against a real Mosquitto; `harness` starts both, and the
//! areas below say what is expected. Where Mosquitto is missing its half is skipped and said so; with `CI`
//! set that fails.
#![expect(clippy::unwrap_used, reason = "all of this is a test, also what stands outside its functions")]
#![expect(clippy::too_many_lines, reason = "a table of cases is one function, however long it is")]
#![expect(clippy::needless_pass_by_value, reason = "`json!` makes what is expected where it is said")]

mod api;
mod bad_input;
mod chat;
mod cli;
mod clients;
mod containment;
mod diagnosis;
mod docker_acl;
mod doctor;
mod envelope;
mod events;
mod harness;
mod hostile;
mod http;
mod jarvis;
mod kept;
mod lifecycle;
#[cfg(target_os = "linux")]
mod lockdown;
mod neighbours;
mod parking;
mod pipe;
mod put_off;
mod reload;
mod replies;
mod revival;
mod sandbox;
mod subscriptions;
mod topics;
mod traffic;
mod undone;
