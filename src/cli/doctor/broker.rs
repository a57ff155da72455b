//! Whether the bridge's broker is there, speaks MQTT 5, answers without stalls and keeps what waits.

use std::time::Duration;

use super::report::Report;
use crate::{
    app,
    config::Config,
    mqtt::{
        self,
        checkup::{Checkup, CheckupError, Kept, QUEUED},
    },
};

const BROKER: &str = "broker";
const LIMITS: &str = "broker limits";
const NAGLE: &str = "one connection";
const QUEUE: &str = "queue";
/// Half of the 40 ms for which a kernel holds an acknowledgement back.
const STALL: Duration = Duration::from_millis(20);

/// What an envelope and its packet have besides a plugin's result.
const WRAPPING: usize = 4 * 1024;

/// The broker to look at.
struct Patient {
    connection: mqtt::Config,
    whose: &'static str,
    #[cfg(feature = "embedded-broker")]
    _own: Option<mqtt::broker::Broker>,
}

pub(super) async fn check(config: &Config, report: &mut Report) {
    let patient = match find(config) {
        Ok(patient) => patient,
        Err(error) => {
            return report.fail(BROKER, format!("{error:#}"), "correct `mqtt.url` or `broker.listen`");
        }
    };
    match Checkup::open(&patient.connection, &config.mqtt.base_topic).await {
        Ok(checkup) => examine(&patient, checkup, config, report).await,
        Err(error) => report.fail(BROKER, error.to_string(), "the bridge cannot work before this is right"),
    }
}

/// The configured broker; where none is, the one that a running bridge has started, else one started for this.
#[cfg(feature = "embedded-broker")]
fn find(config: &Config) -> anyhow::Result<Patient> {
    if config.mqtt.url.is_some() {
        return Ok(Patient { connection: app::client_connection(config)?, whose: "yours", _own: None });
    }
    match mqtt::broker::start(config.broker.listen) {
        Ok(own) => {
            let mut config = config.clone();
            config.broker.listen = own.address();
            let connection = app::client_connection(&config)?;
            Ok(Patient { connection, whose: "embedded, started for this check", _own: Some(own) })
        }
        Err(mqtt::broker::BrokerError::PortTaken(_)) => {
            let connection = app::client_connection(config)?;
            Ok(Patient { connection, whose: "where the embedded one would listen", _own: None })
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(feature = "embedded-broker"))]
fn find(config: &Config) -> anyhow::Result<Patient> {
    anyhow::ensure!(config.mqtt.url.is_some(), "no broker is set, and this build has none of its own");
    Ok(Patient { connection: app::client_connection(config)?, whose: "yours" })
}

async fn examine(patient: &Patient, mut checkup: Checkup, config: &Config, report: &mut Report) {
    let echo = checkup.echo().await;
    let version = checkup.version.as_deref().map(|version| format!(": {version}")).unwrap_or_default();
    report.ok(
        BROKER,
        format!("mqtt://{} ({}) speaks MQTT 5{version}", patient.connection.address(), patient.whose),
    );
    limits(checkup.limits, config, report);
    match echo {
        Ok(echo) => nagle(echo, report),
        Err(error) => return unexamined(NAGLE, &error, report),
    }
    match checkup.queue().await {
        Ok(kept) => queue(kept, report),
        Err(error) => unexamined(QUEUE, &error, report),
    }
}

fn limits(limits: mqtt::BrokerLimits, config: &Config, report: &mut Report) {
    let mqtt::BrokerLimits { receive_maximum, max_packet_size, max_qos, retain, .. } = limits;
    let message = format!(
        "QoS {max_qos}, retained messages {}, {receive_maximum} unacknowledged, packets of {max_packet_size} bytes",
        if retain { "yes" } else { "no" },
    );
    let size = usize::try_from(max_packet_size).unwrap_or(usize::MAX);
    let wanted = config.limits.payload.max(config.limits.plugin.result) + WRAPPING;
    match (max_qos, retain) {
        (0, _) => report.fail(LIMITS, message, "let it take QoS 1: without, requests and answers are lost"),
        _ if size < WRAPPING => report.fail(LIMITS, message, raise(wanted, "hardly any answer passes")),
        _ if size < wanted => report.warn(LIMITS, message, raise(wanted, "what is larger is lost")),
        (_, false) => {
            report.warn(LIMITS, message, "let it keep retained messages: the bridge's state is one");
        }
        _ => report.ok(LIMITS, message),
    }
}

fn raise(wanted: usize, why: &str) -> String {
    format!(
        "in mosquitto.conf: no `max_packet_size`, or at least {wanted}, for what the bridge's limits allow: {why}"
    )
}

/// What could not be looked at. An access list may well keep the check-up out and let the bridge in.
fn unexamined(check: &'static str, error: &CheckupError, report: &mut Report) {
    match error {
        CheckupError::Refused { .. } | CheckupError::Unheard(_) => report.warn(
            check,
            format!("not examined: {error}"),
            "allow this user to read and write there, or examine the broker as another; the bridge itself does without",
        ),
        CheckupError::Lost(_) | CheckupError::Silent => {
            report.fail(check, error.to_string(), "the bridge cannot work before this is right");
        }
    }
}

fn nagle(echo: mqtt::checkup::Echo, report: &mut Report) {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
    let (bare, echoed) = (milliseconds(echo.acknowledged), milliseconds(echo.echoed));
    let message =
        format!("{echoed:.2} ms for a QoS 1 message and its echo, {bare:.2} ms for the message alone");
    match echo.echoed.saturating_sub(echo.acknowledged) >= STALL {
        false => report.ok(NAGLE, message),
        true => report.warn(
            NAGLE,
            message + ": the broker waits to gather bytes (Nagle's algorithm)",
            "in mosquitto.conf: `set_tcp_nodelay true`; the bridge uses two connections and is not stalled, \
             your other clients are",
        ),
    }
}

fn queue(kept: Kept, report: &mut Report) {
    match kept {
        Kept::All => report.ok(QUEUE, format!("keeps at least {QUEUED} messages for a client that is away")),
        Kept::Some(kept) => report.warn(
            QUEUE,
            format!("of {QUEUED} messages for a client that is away it dropped {}", QUEUED - kept),
            "in mosquitto.conf: `max_queued_messages 1000000`; else requests are lost while the bridge is away",
        ),
        Kept::Nothing => report.warn(
            QUEUE,
            "it keeps no session for a client that is away",
            "allow persistent sessions: requests are lost while the bridge is away",
        ),
    }
}
