//! Whether two connections keep a stock Mosquitto's 40 ms stall away; the figures are printed.

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;

use super::harness::{Peer, brokers, receive, session, status, subscription, topic};
use crate::mqtt::{Outbox, Outgoing};

#[tokio::test]
async fn an_echo_over_both_connections_does_not_stall() {
    for broker in brokers() {
        let started = Instant::now();
        let config = broker.config("jarvis");
        let (_session, mut inbox) = session(&config, vec![subscription("ping", 1, 1)]).await;
        let outbox = Outbox::start(&config);
        status(&mut outbox.status(), |status| status.is_connected()).await;
        let connected = started.elapsed();
        let echo = tokio::spawn(async move {
            for _ in 0..200 {
                let ping = receive(&mut inbox).await;
                outbox
                    .send(Outgoing { receipt: ping.receipt, ..Outgoing::new(topic("pong"), ping.payload) })
                    .await;
            }
            outbox
        });
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.subscribe("pong").await;
        let mut times = Vec::new();
        for _ in 0..200 {
            let sent = Instant::now();
            // Its own connection is at QoS 0, so that only ours can stall.
            peer.publish("ping", QoS::AtMostOnce, false, "x").await;
            assert_eq!(peer.receive().await.payload, "x");
            times.push(sent.elapsed());
        }
        echo.await.unwrap();
        times.sort();
        let median = times[times.len() / 2];
        eprintln!(
            "{}: both connected in {connected:?}, echo p50 {median:?}, p99 {:?}",
            broker.name(),
            times[197]
        );
        assert!(median < Duration::from_millis(20), "{}: {median:?}", broker.name());
    }
}
