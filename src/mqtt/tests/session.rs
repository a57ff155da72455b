//! Receiving: acknowledgements, redelivery, subscriptions, sizes, and other clients' versions.

use rumqttc::v5::mqttbytes::QoS;

use super::harness::{
    Peer, brokers, eventually, filter, receive, session, status, subscription, topic, within,
};
use crate::mqtt::{Config, Inbound, Inbox, Outbox, Outgoing, OutgoingProperties, Session};

/// Publishes `mark` at QoS 0, which no window holds back: it must be the next to arrive. Proves that the
/// broker holds back what was published before it.
async fn expect_nothing_before_a_mark(peer: &mut Peer, inbox: &mut Inbox) {
    peer.publish("mark", QoS::AtMostOnce, false, "").await;
    assert_eq!(receive(inbox).await.topic, "mark");
}

async fn publish_numbers(peer: &mut Peer, range: std::ops::Range<u8>) {
    for number in range {
        peer.publish("in", QoS::AtLeastOnce, false, [number]).await;
    }
}

async fn numbered(inbox: &mut Inbox, number: u8) -> Inbound {
    let inbound = receive(inbox).await;
    assert_eq!((inbound.topic.as_str(), inbound.payload.as_ref()), ("in", [number].as_ref()));
    inbound
}

#[tokio::test]
async fn a_message_is_acknowledged_when_its_last_receipt_is_gone_and_not_before() {
    for broker in brokers() {
        let config = Config { receive_maximum: 2, ..broker.config("jarvis") };
        let wanted = vec![subscription("in", 1, 1), subscription("mark", 2, 0)];
        let (session, mut inbox) = session(&config, wanted).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        publish_numbers(&mut peer, 0..3).await;
        let first = numbered(&mut inbox, 0).await;
        let second = numbered(&mut inbox, 1).await;
        expect_nothing_before_a_mark(&mut peer, &mut inbox).await;
        let work = first.receipt.clone();
        drop(first);
        expect_nothing_before_a_mark(&mut peer, &mut inbox).await;
        assert_eq!(session.counters().acknowledged, 0, "{}", broker.name());
        drop(work);
        numbered(&mut inbox, 2).await;
        drop(second);
        eventually(|| session.counters().acknowledged == 3).await;
    }
}

#[tokio::test]
async fn acknowledgements_go_out_in_the_order_of_arrival() {
    for broker in brokers() {
        let config = Config { receive_maximum: 2, ..broker.config("jarvis") };
        let wanted = vec![subscription("in", 1, 1), subscription("mark", 2, 0)];
        let (_session, mut inbox) = session(&config, wanted).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        publish_numbers(&mut peer, 0..4).await;
        let first = numbered(&mut inbox, 0).await;
        drop(numbered(&mut inbox, 1).await);
        expect_nothing_before_a_mark(&mut peer, &mut inbox).await;
        drop(first);
        let third = numbered(&mut inbox, 2).await;
        numbered(&mut inbox, 3).await;
        drop(third);
    }
}

#[tokio::test]
async fn what_was_not_settled_comes_again_and_what_was_does_not() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let wanted = || vec![subscription("in", 1, 1)];
        let (first_session, mut inbox) = session(&config, wanted()).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        publish_numbers(&mut peer, 0..3).await;
        drop(numbered(&mut inbox, 0).await);
        let held = numbered(&mut inbox, 1).await;
        assert!(!held.dup);
        first_session.stop().await;
        // Too late for that connection, and the third was never taken.
        drop((held, inbox));

        let (second_session, mut inbox) = session(&config, wanted()).await;
        let again = numbered(&mut inbox, 1).await;
        assert!(again.dup, "{}", broker.name());
        drop(again);
        assert!(numbered(&mut inbox, 2).await.dup, "{}", broker.name());
        second_session.stop().await;

        let (_session, mut inbox) = session(&config, wanted()).await;
        publish_numbers(&mut peer, 3..4).await;
        assert!(!numbered(&mut inbox, 3).await.dup);
    }
}

#[tokio::test]
async fn an_abandoned_receipt_is_not_acknowledged_by_a_clean_stop() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (first_session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        publish_numbers(&mut peer, 0..1).await;
        numbered(&mut inbox, 0).await.receipt.abandon();
        first_session.stop().await;
        let (_session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        assert!(numbered(&mut inbox, 0).await.dup, "{}", broker.name());
    }
}

#[tokio::test]
async fn a_reconnect_makes_old_receipts_void() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        publish_numbers(&mut peer, 0..1).await;
        let old = numbered(&mut inbox, 0).await;
        // The broker forgets everything; the first message of its new life has the same packet identifier.
        let broker = broker.restart();
        status(&mut session.status(), |status| status.connects == 2 && status.pending == 0).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        publish_numbers(&mut peer, 1..2).await;
        let new = numbered(&mut inbox, 1).await;
        assert_eq!(old.packet_id, new.packet_id, "{}", broker.name());
        drop(old);
        publish_numbers(&mut peer, 2..3).await;
        let next = numbered(&mut inbox, 2).await;
        assert_eq!(session.counters().acknowledged, 0);
        drop((new, next));
        eventually(|| session.counters().acknowledged == 2).await;
    }
}

#[tokio::test]
async fn filters_of_an_earlier_run_stay_until_what_is_wanted_is_known() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (first, _) = session(&config, vec![subscription("old/#", 1, 1)]).await;
        assert_eq!(*first.filters().borrow(), [filter("old/#")]);
        first.stop().await;
        let known = vec![filter("old/#")];
        let (second, mut inbox) = Session::start(&config, vec![subscription("new", 2, 1)], known);
        status(&mut second.status(), |status| status.is_connected() && status.pending == 0).await;
        assert_eq!(*second.filters().borrow(), [filter("new"), filter("old/#")]);
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.publish("old/x", QoS::AtLeastOnce, false, "").await;
        assert_eq!(receive(&mut inbox).await.topic, "old/x", "{}", broker.name());
        second.forget_unwanted().await;
        status(&mut second.status(), |status| status.pending == 0).await;
        assert_eq!(*second.filters().borrow(), [filter("new")]);
        peer.publish("old/x", QoS::AtLeastOnce, false, "").await;
        peer.publish("new", QoS::AtLeastOnce, false, "").await;
        assert_eq!(receive(&mut inbox).await.topic, "new", "{}", broker.name());
    }
}

#[tokio::test]
async fn filters_come_and_go_while_it_runs() {
    for broker in brokers() {
        let (session, mut inbox) = session(&broker.config("jarvis"), Vec::new()).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        session.subscribe(subscription("a", 1, 1)).await;
        session.subscribe(subscription("b", 2, 1)).await;
        status(&mut session.status(), |status| status.pending == 0).await;
        peer.publish("a", QoS::AtLeastOnce, false, "").await;
        assert_eq!(receive(&mut inbox).await.topic, "a");
        session.unsubscribe(filter("a")).await;
        status(&mut session.status(), |status| status.pending == 0).await;
        peer.publish("a", QoS::AtLeastOnce, false, "").await;
        peer.publish("b", QoS::AtLeastOnce, false, "").await;
        assert_eq!(receive(&mut inbox).await.topic, "b", "{}", broker.name());
        assert_eq!(*session.filters().borrow(), [filter("b")]);
    }
}

#[tokio::test]
async fn overlapping_filters_give_one_copy_each_with_its_identifier() {
    for broker in brokers() {
        let wanted =
            vec![subscription("x/#", 1, 1), subscription("x/+", 200, 1), subscription("x/y", 70_000, 1)];
        let (_session, mut inbox) = session(&broker.config("jarvis"), wanted).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.publish("x/y", QoS::AtLeastOnce, false, "{}").await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let inbound = receive(&mut inbox).await;
            assert_eq!(inbound.payload, "{}");
            ids.push(inbound.properties.subscription_ids);
        }
        ids.sort();
        assert_eq!(ids, [vec![1], vec![200], vec![70_000]], "{}", broker.name());
    }
}

#[tokio::test]
async fn a_publish_at_qos_2_arrives_at_qos_1() {
    for broker in brokers() {
        let (_session, mut inbox) = session(&broker.config("jarvis"), vec![subscription("in", 1, 1)]).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.publish("in", QoS::ExactlyOnce, false, [0]).await;
        assert_eq!(numbered(&mut inbox, 0).await.qos, 1, "{}", broker.name());
    }
}

#[tokio::test]
async fn a_client_of_the_older_protocol_is_heard() {
    for broker in brokers() {
        let (_session, mut inbox) = session(&broker.config("jarvis"), vec![subscription("in", 1, 1)]).await;
        let address = broker.address();
        let options = rumqttc::MqttOptions::new("old", address.ip().to_string(), address.port());
        let (client, mut events) = rumqttc::AsyncClient::new(options, 10);
        client.try_publish("in", rumqttc::QoS::AtLeastOnce, true, [0]).unwrap();
        let acknowledged = async {
            while !matches!(
                events.poll().await.unwrap(),
                rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_))
            ) {}
        };
        within(acknowledged).await;
        let inbound = numbered(&mut inbox, 0).await;
        assert!(inbound.retain, "{}: retain as published", broker.name());
    }
}

#[tokio::test]
async fn large_payloads_and_long_topics_pass_both_ways() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (_session, mut inbox) = session(&config, vec![subscription("big/#", 1, 1)]).await;
        let outbox = Outbox::start(&config);
        let long = format!("big/{}", "x".repeat(60_000));
        let large = vec![b'y'; 2 * 1024 * 1024];
        within(outbox.confirm(Outgoing::new(topic("big/payload"), large.clone()))).await.unwrap();
        within(outbox.confirm(Outgoing::new(topic(&long), "z"))).await.unwrap();
        assert_eq!(receive(&mut inbox).await.payload, large, "{}", broker.name());
        assert_eq!(receive(&mut inbox).await.topic, long, "{}", broker.name());
    }
}

#[tokio::test]
async fn a_message_larger_than_we_take_holds_nothing_up() {
    for broker in brokers() {
        let config = Config { max_packet_size: 10_000, ..broker.config("jarvis") };
        let (session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        peer.publish("in", QoS::AtLeastOnce, true, vec![0; 20_000]).await;
        publish_numbers(&mut peer, 1..2).await;
        numbered(&mut inbox, 1).await;
        assert_eq!(session.status().borrow().connects, 1, "{}", broker.name());
    }
}

#[tokio::test]
async fn properties_survive_the_way() {
    for broker in brokers() {
        let config = broker.config("jarvis");
        let (_session, mut inbox) = session(&config, vec![subscription("in", 1, 1)]).await;
        let outbox = Outbox::start(&config);
        let properties = OutgoingProperties {
            response_topic: Some(topic("reply/here")),
            correlation_data: Some(vec![0, 255].into()),
            content_type: Some("application/json".into()),
            user: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            message_expiry: Some(1000),
        };
        let outgoing = Outgoing { properties: properties.clone(), ..Outgoing::new(topic("in"), "") };
        within(outbox.confirm(outgoing)).await.unwrap();
        let got = receive(&mut inbox).await.properties;
        assert_eq!(got.response_topic.as_deref(), Some("reply/here"));
        assert_eq!(got.correlation_data, properties.correlation_data);
        assert_eq!(got.content_type, properties.content_type);
        assert!(got.message_expiry.is_some_and(|left| (900..=1000).contains(&left)));
        // The embedded broker adds one of its own.
        let ours: Vec<_> = got.user.into_iter().filter(|(name, _)| name == "a").collect();
        assert_eq!(ours, properties.user, "{}", broker.name());
    }
}

#[tokio::test]
async fn qos_0_is_dropped_before_qos_1_has_no_room() {
    for broker in brokers() {
        let config = Config { receive_maximum: 1, ..broker.config("jarvis") };
        let wanted = vec![subscription("in", 1, 1), subscription("noise", 2, 0)];
        let (session, mut inbox) = session(&config, wanted).await;
        let mut peer = Peer::connect(broker.address(), "peer").await;
        for _ in 0..300 {
            peer.publish("noise", QoS::AtMostOnce, false, "").await;
        }
        publish_numbers(&mut peer, 0..1).await;
        eventually(|| session.counters().received == 301).await;
        // The inbox has 257 places, and one is for what must not be lost.
        assert_eq!(session.counters().dropped, 300 - 256, "{}", broker.name());
        for _ in 0..256 {
            assert_eq!(receive(&mut inbox).await.topic, "noise");
        }
        numbered(&mut inbox, 0).await;
    }
}
