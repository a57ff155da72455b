//! Starts bridges and brokers and speaks MQTT to them, as anybody's client would: publish this, expect that.

mod bridge;
mod broker;
mod client;
mod directory;
mod json;
mod program;
mod web;

pub(crate) use bridge::{Bridge, Setup, workers_of};
pub(crate) use broker::{Broker, Mosquitto, free_port};
pub(crate) use client::{Client, Publish};
pub(crate) use directory::plugin_source;
pub(crate) use json::{assert_json, difference};
pub(crate) use program::{Lines, say};
pub(crate) use web::{Gate, WebAnswer, WebRequest, serve, serve_raw};

use std::time::Duration;

/// Far more than anything here takes: whoever waits that long waits for something that never comes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Makes two tests of each function that takes a `&Broker`: one with the embedded broker, one with Mosquitto.
/// A function cannot do that, and a loop inside one test would not say in its name which broker failed.
macro_rules! on_each_broker {
    ($($test:ident),+ $(,)?) => {
        $(
            mod $test {
                #[test]
                fn embedded() {
                    super::$test(&$crate::harness::Broker::Embedded);
                }

                #[test]
                fn mosquitto() {
                    if let Some(broker) = $crate::harness::Broker::mosquitto() {
                        super::$test(&broker);
                    }
                }
            }
        )+
    };
}
pub(crate) use on_each_broker;
