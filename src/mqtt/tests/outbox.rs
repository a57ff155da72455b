//! Publishing: nothing is lost over a restart, the state topic tells the truth, receipts are kept.

use std::{collections::HashSet, sync::mpsc, thread, time::Duration};

use super::harness::{
    Peer, brokers, config, eventually, outgoing, receive, session, status, subscription, within,
};
use crate::mqtt::{Config, Outbox, Outgoing, Refused};

#[tokio::test]
async fn nothing_is_lost_when_the_broker_restarts() {
    for broker in brokers() {
        let outbox = Outbox::start(&broker.config("jarvis"));
        let publish = |number: usize| {
            let outbox = outbox.clone();
            async move {
                // Retained, so that it can be seen later that the broker has it.
                let message = Outgoing { retain: true, ..outgoing(&format!("kept/{number:03}"), "x") };
                outbox.confirm(message).await
            }
        };
        let mut waiting: Vec<_> = (0..150).map(|number| tokio::spawn(publish(number))).collect();
        status(&mut outbox.status(), |status| status.is_connected()).await;
        // Some are confirmed, some in flight, some queued.
        eventually(|| outbox.counters().published >= 20).await;
        let broker = tokio::task::spawn_blocking(move || broker.restart()).await.unwrap();
        waiting.extend((150..300).map(|number| tokio::spawn(publish(number))));
        for confirmed in waiting {
            within(confirmed).await.unwrap().unwrap();
        }
        status(&mut outbox.status(), |status| status.connects == 2).await;
        // What the first life of the broker confirmed is gone with it; all else must be in the second.
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.subscribe("kept/+").await;
        let mut expected: HashSet<_> = (150..300).map(|number| format!("kept/{number:03}")).collect();
        while !expected.is_empty() {
            let kept = peer.receive().await;
            expected.remove(std::str::from_utf8(&kept.topic).unwrap());
        }
    }
}

#[tokio::test]
async fn order_is_kept() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (_session, mut inbox) = session(&config, vec![subscription("n", 1, 1)]).await;
        let outbox = Outbox::start(&config);
        for number in 0..500 {
            outbox.send(outgoing("n", &number.to_string())).await;
        }
        for number in 0..500 {
            assert_eq!(receive(&mut inbox).await.payload, number.to_string(), "{}", broker.name());
        }
        eventually(|| outbox.counters().published == 500).await;
    }
}

#[tokio::test]
async fn the_state_topic_says_online_and_offline() {
    for broker in brokers() {
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.subscribe("jarvis/bridge/state").await;
        for connects in 1..=2 {
            let outbox = Outbox::start(&broker.config("jarvis"));
            assert_eq!(peer.receive().await.payload, r#"{"state":"online"}"#, "{}", broker.name());
            status(&mut outbox.status(), |status| status.is_connected()).await;
            assert_eq!(*outbox.connections().borrow(), 1);
            let number = connects.to_string();
            outbox.send(outgoing("elsewhere", &number)).await;
            within(outbox.stop(Duration::from_secs(10))).await;
            assert_eq!(peer.receive().await.payload, r#"{"state":"offline"}"#, "{}", broker.name());
            assert_eq!(outbox.counters().published, 1, "what is queued is flushed before");
        }
        let mut late = Peer::connect(broker.address(), "late").await;
        late.subscribe("jarvis/bridge/state").await;
        let kept = late.receive().await;
        assert!(kept.retain && kept.payload == r#"{"state":"offline"}"#, "{kept:?}");
    }
}

#[tokio::test]
async fn the_last_will_speaks_for_a_bridge_that_died() {
    for broker in brokers() {
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.subscribe("jarvis/bridge/state").await;
        let (config, (end_tx, end_rx)) = (broker.config("jarvis"), mpsc::channel::<()>());
        // A runtime that is dropped cuts its connections as a crash would.
        let dying = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let outbox = Outbox::start(&config);
                status(&mut outbox.status(), |status| status.is_connected()).await;
                tokio::task::spawn_blocking(move || end_rx.recv()).await.unwrap().unwrap();
            });
        });
        assert_eq!(peer.receive().await.payload, r#"{"state":"online"}"#);
        end_tx.send(()).unwrap();
        dying.join().unwrap();
        let will = peer.receive().await;
        assert_eq!(will.payload, r#"{"state":"offline"}"#, "{}", broker.name());
    }
}

#[tokio::test]
async fn a_message_that_was_not_published_is_not_acknowledged() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (first_session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.publish("in", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, false, "question").await;
        let question = receive(&mut inbox).await;
        // An outbox that never gets a connection.
        let nowhere = Outbox::start(&Config { port: 1, ..config.clone() });
        nowhere.send(Outgoing { receipt: question.receipt, ..outgoing("out", "answer") }).await;
        within(nowhere.stop(Duration::ZERO)).await;
        first_session.stop().await;
        let (second_session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        let again = receive(&mut inbox).await;
        assert!(again.dup, "{}", broker.name());

        let outbox = Outbox::start(&config);
        outbox.send(Outgoing { receipt: again.receipt, ..outgoing("out", "answer") }).await;
        eventually(|| second_session.counters().acknowledged == 1).await;
        assert_eq!(outbox.counters().published, 1);
    }
}

#[tokio::test]
async fn without_a_connection_qos_0_is_dropped_and_a_stop_ends_the_wait() {
    let nowhere = Outbox::start(&config("127.0.0.1:1".parse().unwrap(), "jarvis"));
    assert!(!nowhere.try_send(outgoing("log", "x")));
    assert_eq!(nowhere.counters().dropped, 1);
    let waiting = tokio::spawn({
        let nowhere = nowhere.clone();
        async move { nowhere.confirm(outgoing("a", "x")).await }
    });
    within(nowhere.stop(Duration::ZERO)).await;
    assert_eq!(within(waiting).await.unwrap(), Err(Refused::Stopped));
    assert_eq!(within(nowhere.confirm(outgoing("a", "x"))).await, Err(Refused::Stopped));
}

#[tokio::test]
async fn qos_0_is_sent_when_there_is_a_connection() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (_session, mut inbox) = session(&config, vec![subscription("log", 1, 1)]).await;
        let outbox = Outbox::start(&config);
        status(&mut outbox.status(), |status| status.is_connected()).await;
        assert!(outbox.try_send(outgoing("log", "x")));
        let inbound = receive(&mut inbox).await;
        assert_eq!((inbound.qos, inbound.receipt.is_empty()), (0, true), "{}", broker.name());
        eventually(|| outbox.counters().published == 1).await;
    }
}
