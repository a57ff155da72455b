//! What a broker can say no to, and that it is said in words that help.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    thread,
};

use super::harness::{
    Peer, brokers, config, error, filter, mosquitto, outgoing, receive, session, status, subscription, within,
};
use crate::mqtt::{Config, Outbox, Refused, RefusedSubscription, Session};

const PLUGIN: &str = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so";

#[tokio::test]
async fn a_wrong_password_is_named() {
    let write_password = |directory: &Path| {
        let file = directory.join("passwords");
        let made =
            Command::new("mosquitto_passwd").args(["-b", "-c"]).arg(file).args(["ada", "right"]).status();
        assert!(made.unwrap().success());
    };
    let settings = "allow_anonymous false\npassword_file DIR/passwords\n";
    let Some(broker) = mosquitto(settings, write_password) else { return };
    let sign_in = |password: &str| {
        let login = (Some("ada".to_owned()), Some(password.to_owned()));
        Config { username: login.0, password: login.1, ..broker.config("jarvis") }
    };
    let (wrong, _inbox) = Session::start(&sign_in("wrong"), Vec::new(), Vec::new());
    let sentence = error(&mut wrong.status()).await;
    assert!(sentence.contains("refuses the user `ada`") && !sentence.contains("wrong"), "{sentence}");
    let (nobody, _inbox) = Session::start(&broker.config("jarvis"), Vec::new(), Vec::new());
    let sentence = error(&mut nobody.status()).await;
    assert!(sentence.contains("set `mqtt.username`"), "{sentence}");
    session(&sign_in("right"), Vec::new()).await;
}

#[tokio::test]
async fn a_refused_subscription_is_reported_and_the_others_work() {
    if !Path::new(PLUGIN).exists() {
        eprintln!("not tested: {PLUGIN} is not installed");
        return;
    }
    let rules = r#"{"defaultACLAccess":
        {"publishClientSend": true, "publishClientReceive": true, "subscribe": false, "unsubscribe": true},
        "anonymousGroup": "all", "clients": [],
        "groups": [{"groupname": "all", "roles": [{"rolename": "all", "priority": 1}], "clients": []}],
        "roles": [{"rolename": "all", "acls":
            [{"acltype": "subscribePattern", "topic": "allowed/#", "priority": 1, "allow": true}]}]}"#;
    let settings = format!(
        "per_listener_settings false\nallow_anonymous true\nplugin {PLUGIN}\nplugin_opt_config_file DIR/rules\n"
    );
    let write_rules = |directory: &Path| fs::write(directory.join("rules"), rules).unwrap();
    let Some(broker) = mosquitto(&settings, write_rules) else { return };
    let wanted = vec![subscription("secret/#", 1, 1), subscription("allowed/x", 2, 1)];
    let (session, mut inbox) = session(&broker.config("jarvis"), wanted).await;
    let refused = session.status().borrow().refused.clone();
    let expect = RefusedSubscription { filter: filter("secret/#"), reason: "NotAuthorized".into() };
    assert_eq!(refused, [expect]);
    let mut peer = Peer::connect(broker.address(), "peer").await;
    peer.publish("allowed/x", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, false, "").await;
    assert_eq!(receive(&mut inbox).await.topic, "allowed/x");
    session.unsubscribe(filter("secret/#")).await;
    assert_eq!(session.status().borrow().refused, []);
}

#[tokio::test]
async fn a_refused_publish_is_an_answer_and_the_connection_stays() {
    let settings = "allow_anonymous true\nacl_file DIR/rules\nmax_packet_size 2000\n";
    let write_rules = |directory: &Path| {
        fs::write(directory.join("rules"), "topic readwrite allowed/#\ntopic readwrite jarvis/#\n").unwrap();
    };
    let Some(broker) = mosquitto(settings, write_rules) else { return };
    let outbox = Outbox::start(&broker.config("jarvis"));
    let refused = within(outbox.confirm(outgoing("forbidden", "x"))).await.unwrap_err();
    assert!(matches!(&refused, Refused::Broker { reason, .. } if reason == "NotAuthorized"), "{refused}");
    let refused = within(outbox.confirm(outgoing("allowed/x", &"x".repeat(2000)))).await.unwrap_err();
    assert!(matches!(refused, Refused::TooLarge { max: 2000, .. }), "{refused}");
    // The largest that passes proves that the size is counted as the broker counts it.
    let spare = 2000 - (1 + 2 + 2 + "allowed/x".len() + 2 + 1);
    within(outbox.confirm(outgoing("allowed/x", &"x".repeat(spare)))).await.unwrap();
    let refused = within(outbox.confirm(outgoing("allowed/x", &"x".repeat(spare + 1)))).await.unwrap_err();
    assert!(matches!(refused, Refused::TooLarge { size: 2001, .. }), "{refused}");
    assert_eq!((outbox.status().borrow().connects, outbox.counters().refused), (1, 3));
}

#[tokio::test]
async fn a_second_client_with_the_same_id_is_named() {
    for broker in brokers() {
        let (first, _inbox) = session(&broker.config("jarvis-7"), Vec::new()).await;
        let _thief = Peer::connect(broker.address(), "jarvis-7").await;
        let sentence = error(&mut first.status()).await;
        assert!(sentence.contains("the client id `jarvis-7`"), "{}: {sentence}", broker.name());
    }
}

#[tokio::test]
async fn a_broker_of_the_older_protocol_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // MQTT 3.1.1 §3.2: refused, unacceptable protocol version.
    let answers: [&[u8]; 2] = [&[0x20, 0x02, 0x00, 0x01], &[]];
    thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().unwrap();
            let connect = client.read(&mut [0; 4096]).unwrap();
            assert!(connect > 0);
            client.write_all(answer).unwrap();
        }
    });
    let (session, _inbox) = Session::start(&config(address, "jarvis"), Vec::new(), Vec::new());
    let mut statuses = session.status();
    for _ in 0..2 {
        let sentence = error(&mut statuses).await;
        assert!(sentence.contains("it may speak only MQTT 3.1.1"), "{sentence}");
        within(statuses.changed()).await.unwrap();
    }
}

#[tokio::test]
async fn what_is_no_broker_is_recognised() {
    // A web server, and one that wants TLS (RFC 8446 §6: a fatal alert).
    let page = "HTTP/1.0 400 Bad Request\r\n\r\n".to_owned() + &"sorry ".repeat(20);
    let answers = [page.into_bytes(), vec![0x15, 3, 1, 0, 2, 2, 70]];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            assert!(client.read(&mut [0; 4096]).unwrap() > 0);
            client.write_all(&answer).unwrap();
        });
        let (session, _inbox) = Session::start(&config(address, "jarvis"), Vec::new(), Vec::new());
        let sentence = error(&mut session.status()).await;
        assert!(
            sentence.contains(&format!("at {address} does not speak MQTT: check the port")),
            "{sentence}"
        );
    }
}

#[tokio::test]
async fn an_absent_broker_is_named_and_found_when_it_comes() {
    for broker in brokers() {
        let address = broker.address();
        let (session, _inbox) = session(&broker.config("jarvis"), Vec::new()).await;
        let broker = within(tokio::task::spawn_blocking(move || broker.restart())).await.unwrap();
        status(&mut session.status(), |status| status.connects == 2).await;
        drop(broker);
        let sentence = error(&mut session.status()).await;
        assert!(sentence.contains(&address.to_string()), "{sentence}");
        session.stop().await;
        status(&mut session.status(), |status| status.state == crate::mqtt::State::Stopped).await;
    }
}
