//! The configuration and the ACL of `docker/` on a real Mosquitto: each account's doors, the open ones and the
//! closed ones, and a bridge that works behind them.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Broker, Client, Mosquitto, Setup, assert_json, free_port};

const DOCKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker");
/// The accounts of `mosquitto.acl`; here each has its own name for a password.
const ACCOUNTS: [&str; 5] = ["bridge", "phone", "core", "caller", "admin"];

/// One topic, and the accounts that may write to it and read from it.
struct Door {
    topic: &'static str,
    write: &'static [&'static str],
    read: &'static [&'static str],
}

const DOORS: &[Door] = &[
    door("jarvis/chat/request", &["bridge", "phone", "caller", "admin"], &["bridge", "admin"]),
    door("jarvis/chat/response", &["bridge", "admin"], &["bridge", "phone", "caller", "admin"]),
    door("jarvis/chat/prompt", &["bridge", "admin"], &["bridge", "core", "admin"]),
    door("jarvis/chat/request/assistant", &["bridge", "core", "caller", "admin"], &["bridge", "admin"]),
    door("jarvis/command/request", &["bridge", "caller", "admin"], &["bridge", "admin"]),
    door("jarvis/command/request/lights/off", &["bridge", "caller", "admin"], &["bridge", "admin"]),
    door("jarvis/command/response/lights/off", &["bridge", "admin"], &["bridge", "caller", "admin"]),
    door("jarvis/event/request/rain", &["bridge", "caller", "admin"], &["bridge", "admin"]),
    door("jarvis/bridge/request", &["bridge", "admin"], &["bridge", "admin"]),
    door("jarvis/bridge/request/plugin/set", &["bridge", "admin"], &["bridge", "admin"]),
    door("jarvis/bridge/response/plugin/set", &["bridge", "admin"], &["bridge", "caller", "admin"]),
    door("jarvis/bridge/state", &["bridge", "admin"], &["bridge", "admin"]),
    door("jarvis/reply/caller/1", &["bridge", "admin"], &["bridge", "caller", "admin"]),
    door("jarvis/reply/phone/1", &["bridge", "admin"], &["bridge", "phone", "admin"]),
    door("zigbee2mqtt/hall_light/set", &["bridge"], &["bridge"]),
];

const fn door(topic: &'static str, write: &'static [&'static str], read: &'static [&'static str]) -> Door {
    Door { topic, write, read }
}

#[test]
fn each_account_may_do_what_the_shipped_acl_says_and_nothing_else() {
    let Some(broker) = start() else { return };
    let account = |name: &str| Client::account(broker.port, name);
    let bridge = account("bridge");
    for name in ACCOUNTS {
        let read = heard(&bridge, (&account(name), name), &bridge);
        assert_eq!(read, expected(|door| door.read, name), "{name} reads");
        let written = heard(&account(name), (&account("bridge"), "bridge"), &bridge);
        assert_eq!(written, expected(|door| door.write, name), "{name} writes");
    }
}

#[test]
fn nobody_gets_in_without_an_account() {
    let Some(broker) = start() else { return };
    let accounts: [&[&str]; 3] =
        [&[], &["-u", "phone", "-P", "wrong"], &["-u", "stranger", "-P", "stranger"]];
    for account in accounts {
        let mut client = Command::new("mosquitto_pub");
        client.args(["-V", "5", "-h", "127.0.0.1", "-p", &broker.port.to_string(), "-q", "1"]);
        let tried = client.args(["-t", "jarvis/chat/request", "-m", "x"]).args(account).output().unwrap();
        assert!(!tried.status.success(), "{account:?} got in");
        assert!(String::from_utf8_lossy(&tried.stderr).contains("authori"), "{account:?}: {tried:?}");
    }
}

#[test]
fn a_phone_talks_to_an_assistant_through_a_bridge_with_an_account() {
    let Some(broker) = start() else { return };
    let setup = Setup::beside(&broker)
        .plugin("help", "-- @commands help\nfunction on_command(cmd) return { response = 'Ask me' } end")
        .set("MQTT__USERNAME", "bridge")
        .set("MQTT__PASSWORD", "bridge")
        .set("CHAT__ASSISTANT", "external");
    let bridge = setup.launch(&["run"]);
    let account = |name: &str| Client::account(broker.port, name);
    let (phone, core, caller, admin) =
        (account("phone"), account("core"), account("caller"), account("admin"));
    let ask = || admin.publish("jarvis/bridge/request/health", "");
    admin.answered(ask, "jarvis/bridge/response/health");
    admin.expect("jarvis/bridge/info", json!({ "refused_subscriptions": [] }));

    phone.publish("jarvis/chat/request", json!({ "id": "m1", "content": "How late is it?" }));
    let prompt = core.next("jarvis/chat/prompt").json();
    assert_json(&prompt, &json!({ "id": "m1", "content": "How late is it?" }));
    core.publish("jarvis/chat/request/assistant", json!({ "in_reply_to": "m1", "content": "Half past" }));
    assert_json(&phone.next("jarvis/chat/response").json(), &json!({ "id": "m1", "response": "Half past" }));

    // Whoever asks below a name of his own is answered there; administration is not for him.
    caller.publish("jarvis/command/request", json!({ "name": "help", "reply_to": "jarvis/reply/caller/1" }));
    assert_json(&caller.next("jarvis/reply/caller/1").json(), &json!({ "response": "Ask me" }));
    let forbidden = json!({ "id": "help", "reply_to": "jarvis/reply/caller/2" });
    caller.publish("jarvis/bridge/request/plugin/reload", forbidden);
    caller.publish("jarvis/command/request", json!({ "name": "help", "reply_to": "jarvis/reply/caller/3" }));
    caller.next("jarvis/reply/caller/3");
    assert!(caller.waiting("jarvis/reply/caller/2").is_empty());
    assert_eq!(bridge.end(Signal::TERM).code(), Some(0));
    admin.expect("jarvis/bridge/state", json!({ "state": "offline" }));
}

#[test]
fn a_wrong_password_is_told_and_no_reason_to_give_up() {
    let Some(broker) = start() else { return };
    let url = format!("mqtt://bridge:wrong@127.0.0.1:{}", broker.port);
    let setup = Setup::new(&Broker::Embedded).set("MQTT__URL", &url);
    let bridge = setup.launch(&["run"]);
    let line = bridge.log.expect("no connection to the broker");
    assert!(!line.contains("wrong@") && !bridge.output.text().contains("wrong"), "{line}");
    assert_eq!(bridge.end(Signal::TERM).code(), Some(0));
}

/// The topics whose door is open for an account.
fn expected(side: impl Fn(&Door) -> &'static [&'static str], account: &str) -> BTreeSet<String> {
    DOORS.iter().filter(|door| side(door).contains(&account)).map(|door| door.topic.to_owned()).collect()
}

/// Which topics of all doors reach a listener when a speaker publishes there.
fn heard(speaker: &Client, listener: (&Client, &str), bridge: &Client) -> BTreeSet<String> {
    DOORS.iter().for_each(|door| speaker.publish(door.topic, "x"));
    speaker.confirmed();
    // The broker keeps the order, so this comes behind all that comes.
    let (listener, name) = listener;
    let end = format!("jarvis/reply/{name}/end");
    bridge.publish(&end, "x");
    listener.next(&end);
    let heard = DOORS.iter().filter(|door| !listener.waiting(door.topic).is_empty());
    heard.map(|door| door.topic.to_owned()).collect()
}

/// A Mosquitto with the shipped files, and a password for every account; nothing where none is installed.
fn start() -> Option<Mosquitto> {
    // One that says that it is missing, or fails where it must not be.
    drop(Mosquitto::start()?);
    let started = (0..5).find_map(|_| Mosquitto::start_with(free_port(), configure));
    Some(started.expect("mosquitto does not start with the shipped files"))
}

/// The shipped files with the paths of this test; the port is another line's.
fn configure(directory: &Path) -> String {
    let read = |name: &str| fs::read_to_string(Path::new(DOCKER).join(name)).unwrap();
    let place = |name: &str| directory.join(name).display().to_string();
    let mut config = read("mosquitto.conf");
    for (shipped, ours) in [
        ("listener 1883", String::new()),
        ("/mosquitto/data/passwords", place("passwords")),
        ("/mosquitto/config/mosquitto.acl", place("mosquitto.acl")),
        ("/mosquitto/data/", format!("{}/", directory.display())),
    ] {
        assert!(config.contains(shipped), "docker/mosquitto.conf no longer has `{shipped}`");
        config = config.replace(shipped, &ours);
    }
    fs::write(directory.join("mosquitto.acl"), read("mosquitto.acl")).unwrap();
    let accounts: String = ACCOUNTS.iter().map(|account| format!("{account}:{account}\n")).collect();
    fs::write(directory.join("passwords"), accounts).unwrap();
    let hashed =
        Command::new("mosquitto_passwd").arg("-U").arg(directory.join("passwords")).status().unwrap();
    assert!(hashed.success());
    config
}
