//! What no good broker does on demand: a broker that follows a script, to see each packet and its order.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::{
    Error, QoS,
    v5::{
        ConnAck, ConnAckProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, PingResp,
        PubAck, Publish, PublishProperties,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::harness::{config, outgoing, receive, subscription, within};
use crate::mqtt::{Config, Outbox, Session};

/// One connection, seen from the broker.
struct Wire {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    /// Waits for a client and lets it in.
    async fn accept(listener: &TcpListener, receive_maximum: u16, keep_alive: Option<u16>) -> Self {
        let (stream, _) = within(listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Self { stream, buffer: BytesMut::new() };
        assert!(matches!(wire.read().await, Packet::Connect(connect, ..) if !connect.clean_start));
        let properties = Some(properties(receive_maximum, keep_alive));
        let code = ConnectReturnCode::Success;
        wire.write(Packet::ConnAck(ConnAck { session_present: false, code, properties })).await;
        wire
    }

    async fn read(&mut self) -> Packet {
        loop {
            if self.buffer.starts_with(&[0xE0, 0x00]) {
                // rumqttc writes the short form and cannot read it.
                return Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection));
            }
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return packet,
                Err(Error::InsufficientBytes(_)) => {
                    let read = within(self.stream.read_buf(&mut self.buffer)).await.unwrap();
                    assert!(read > 0, "the client closed the connection");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn read_publish(&mut self) -> (u16, Bytes) {
        match self.read().await {
            Packet::Publish(publish) => (publish.pkid, publish.payload),
            packet => panic!("{packet:?}"),
        }
    }

    async fn write(&mut self, packet: Packet) {
        let mut bytes = BytesMut::new();
        packet.write(&mut bytes, None).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn acknowledge(&mut self, packet_id: u16) {
        self.write(Packet::PubAck(PubAck::new(packet_id, None))).await;
    }

    /// An outbox first says that it is online.
    async fn accept_outbox(listener: &TcpListener, receive_maximum: u16) -> Self {
        let mut wire = Self::accept(listener, receive_maximum, None).await;
        let (packet_id, state) = wire.read_publish().await;
        assert_eq!(state, r#"{"state":"online"}"#);
        wire.acknowledge(packet_id).await;
        wire
    }
}

fn properties(receive_maximum: u16, keep_alive: Option<u16>) -> ConnAckProperties {
    ConnAckProperties {
        session_expiry_interval: None,
        receive_max: Some(receive_maximum),
        max_qos: None,
        retain_available: None,
        max_packet_size: None,
        assigned_client_identifier: None,
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        subscription_identifiers_available: Some(0),
        shared_subscription_available: None,
        server_keep_alive: keep_alive,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    }
}

async fn listen() -> (TcpListener, Config) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = config(listener.local_addr().unwrap(), "jarvis");
    (listener, config)
}

#[tokio::test]
async fn what_is_unconfirmed_is_sent_again_in_order_also_into_a_smaller_window() {
    let (listener, config) = listen().await;
    let outbox = Outbox::start(&config);
    for number in 0..8 {
        outbox.send(outgoing("n", &number.to_string())).await;
    }
    let mut wire = Wire::accept_outbox(&listener, 5).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let (packet_id, payload) = wire.read_publish().await;
        assert_eq!(payload, number.to_string());
        ids.push(packet_id);
    }
    wire.acknowledge(ids[0]).await;
    assert_eq!(wire.read_publish().await.1, "5");
    drop(wire);

    let mut wire = Wire::accept_outbox(&listener, 2).await;
    for pair in [["1", "2"], ["3", "4"], ["5", "6"]] {
        let (first, payload) = wire.read_publish().await;
        assert_eq!(payload, pair[0]);
        let (second, payload) = wire.read_publish().await;
        assert_eq!(payload, pair[1]);
        wire.acknowledge(first).await;
        wire.acknowledge(second).await;
    }
    let (last, payload) = wire.read_publish().await;
    assert_eq!(payload, "7");
    wire.acknowledge(last).await;
    let stopped = tokio::spawn(async move { outbox.stop(Duration::from_secs(10)).await });
    let (packet_id, state) = wire.read_publish().await;
    assert_eq!(state, r#"{"state":"offline"}"#);
    wire.acknowledge(packet_id).await;
    assert!(matches!(wire.read().await, Packet::Disconnect(_)));
    within(stopped).await.unwrap();
}

#[tokio::test]
async fn confirmations_that_arrive_with_the_end_of_the_connection_count() {
    let (listener, config) = listen().await;
    let outbox = Outbox::start(&config);
    let mut wire = Wire::accept_outbox(&listener, 10).await;
    let confirmed = tokio::spawn({
        let outbox = outbox.clone();
        async move { outbox.confirm(outgoing("n", "0")).await }
    });
    let (packet_id, _) = wire.read_publish().await;
    // The acknowledgement and what ends the connection are read together.
    let mut bytes = BytesMut::new();
    Packet::PubAck(PubAck::new(packet_id, None)).write(&mut bytes, None).unwrap();
    bytes.extend_from_slice(&[0xE0, 0x02, 0x8B, 0x00]);
    wire.stream.write_all(&bytes).await.unwrap();
    assert_eq!(within(confirmed).await.unwrap(), Ok(()));
    let mut wire = Wire::accept_outbox(&listener, 10).await;
    outbox.send(outgoing("n", "1")).await;
    assert_eq!(wire.read_publish().await.1, "1");
}

#[tokio::test]
async fn acknowledgements_go_out_in_the_order_of_arrival_and_before_the_disconnect() {
    let (listener, config) = listen().await;
    let (session, mut inbox) = Session::start(&config, vec![subscription("in", 7, 1)], Vec::new());
    let mut wire = Wire::accept(&listener, 10, None).await;
    match wire.read().await {
        // This broker knows no identifiers.
        Packet::Subscribe(subscribe) => assert_eq!(subscribe.properties, None),
        packet => panic!("{packet:?}"),
    }
    let mut received = Vec::new();
    for packet_id in [31, 7, 9, 8] {
        let mut publish = Publish::new("in", QoS::AtLeastOnce, "x", Some(PublishProperties::default()));
        publish.pkid = packet_id;
        wire.write(Packet::Publish(publish)).await;
        received.push(receive(&mut inbox).await);
    }
    // The last one is never settled.
    let unsettled = received.pop();
    received.into_iter().rev().for_each(drop);
    let stopped = tokio::spawn(async move { session.stop().await });
    for expected in [31, 7, 9] {
        match wire.read().await {
            Packet::PubAck(ack) => assert_eq!(ack.pkid, expected),
            packet => panic!("{packet:?}"),
        }
    }
    assert!(matches!(wire.read().await, Packet::Disconnect(_)));
    within(stopped).await.unwrap();
    drop(unsettled);
}

#[tokio::test]
async fn a_broker_that_wants_no_keep_alive_is_not_flooded_with_pings() {
    let (listener, config) = listen().await;
    let outbox = Outbox::start(&config);
    let mut wire = Wire::accept(&listener, 10, Some(0)).await;
    let mut pings = 0;
    let packet_id = loop {
        match wire.read().await {
            Packet::PingReq(_) => {
                pings += 1;
                wire.write(Packet::PingResp(PingResp)).await;
            }
            Packet::Publish(publish) => break publish.pkid,
            packet => panic!("{packet:?}"),
        }
    };
    wire.acknowledge(packet_id).await;
    for number in 0..20 {
        outbox.send(outgoing("n", &number.to_string())).await;
        let packet_id = loop {
            match wire.read().await {
                Packet::PingReq(_) => pings += 1,
                Packet::Publish(publish) => break publish.pkid,
                packet => panic!("{packet:?}"),
            }
        };
        wire.acknowledge(packet_id).await;
    }
    assert!(pings <= 1, "{pings}");
}

#[tokio::test]
async fn a_broker_that_reads_no_more_is_left_and_misses_nothing() {
    let (listener, config) = listen().await;
    let outbox = Outbox::start(&Config { keep_alive: Duration::from_secs(5), ..config });
    let frozen = Wire::accept_outbox(&listener, 10).await;
    // More than the sockets hold: the write blocks, and with it rumqttc's own pings.
    let large = "x".repeat(4 * 1024 * 1024);
    for _ in 0..6 {
        outbox.send(outgoing("n", &large)).await;
    }
    let mut wire = Wire::accept_outbox(&listener, 10).await;
    for _ in 0..6 {
        let (packet_id, payload) = wire.read_publish().await;
        assert_eq!(payload.len(), large.len());
        wire.acknowledge(packet_id).await;
    }
    drop(frozen);
}
