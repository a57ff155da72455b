//! Whether the bridge's broker is there, speaks MQTT 5, answers without stalls and keeps what waits.

use std::time::Duration;

use super::report::Report;
use crate::{
    app,
    config::Config,
    model::Topic,
    mqtt::{
        self,
        checkup::{Checkup, Kept, QUEUED},
    },
};

const BROKER: &str = "broker";
const NAGLE: &str = "one connection";
const QUEUE: &str = "queue";
/// Half of the 40 ms for which a kernel holds an acknowledgement back.
const STALL: Duration = Duration::from_millis(20);

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
    if let Err(error) = examine(&patient, &config.mqtt.base_topic, report).await {
        report.fail(BROKER, error.to_string(), "the bridge cannot work before this is right");
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

async fn examine(
    patient: &Patient,
    base: &Topic,
    report: &mut Report,
) -> Result<(), mqtt::checkup::CheckupError> {
    let mut checkup = Checkup::open(&patient.connection, base).await?;
    let echo = checkup.echo().await?;
    let version = checkup.version.as_deref().map(|version| format!(": {version}")).unwrap_or_default();
    report.ok(
        BROKER,
        format!("mqtt://{} ({}) speaks MQTT 5{version}", patient.connection.address(), patient.whose),
    );
    limits(checkup.limits, report);
    nagle(echo, report);
    queue(checkup.queue().await?, report);
    Ok(())
}

fn limits(limits: mqtt::BrokerLimits, report: &mut Report) {
    const LIMITS: &str = "broker limits";
    let mqtt::BrokerLimits { receive_maximum, max_packet_size, max_qos, retain, .. } = limits;
    let message = format!(
        "QoS {max_qos}, retained messages {}, {receive_maximum} unacknowledged, packets of {max_packet_size} bytes",
        if retain { "yes" } else { "no" },
    );
    match (max_qos, retain) {
        (0, _) => report.fail(LIMITS, message, "let it take QoS 1: without, requests and answers are lost"),
        (_, false) => {
            report.warn(LIMITS, message, "let it keep retained messages: the bridge's state is one");
        }
        _ => report.ok(LIMITS, message),
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
