//! The room against real brokers: the embedded one, and Mosquitto where it is installed.

mod harness;
mod outbox;
mod refusals;
mod scripted;
mod session;
mod speed;
