//! Runs a real Mosquitto with the configuration and the ACL of `docker/`, and tries each account's doors: the open
//! ones and the closed ones.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

const DOCKER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker");
/// The accounts of `mosquitto.acl`; here each has its own name for a password.
const ACCOUNTS: [&str; 5] = ["bridge", "phone", "core", "caller", "admin"];
/// Far more than anything here takes: whoever waits that long waits for something that never comes.
const PATIENCE: Duration = Duration::from_secs(20);

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
    let Some(broker) = Broker::start() else { return };
    for account in ACCOUNTS {
        assert_eq!(broker.topics_read_by(account), expected(|door| door.read, account), "{account} reads");
        assert_eq!(
            broker.topics_written_by(account),
            expected(|door| door.write, account),
            "{account} writes"
        );
    }
}

#[test]
fn nobody_gets_in_without_an_account() {
    let Some(broker) = Broker::start() else { return };
    let publish = ["-t", "jarvis/chat/request", "-m", "x", "-q", "1"];
    let accounts: [&[&str]; 3] =
        [&[], &["-u", "phone", "-P", "wrong"], &["-u", "stranger", "-P", "stranger"]];
    for account in accounts {
        let tried = broker.client("mosquitto_pub").args(account).args(publish).output().unwrap();
        assert!(!tried.status.success(), "{account:?} got in");
        assert!(String::from_utf8_lossy(&tried.stderr).contains("authori"), "{account:?}: {tried:?}");
    }
}

/// The topics whose door is open for an account.
fn expected(side: impl Fn(&Door) -> &'static [&'static str], account: &str) -> BTreeSet<String> {
    DOORS.iter().filter(|door| side(door).contains(&account)).map(|door| door.topic.to_owned()).collect()
}

/// A running Mosquitto; ends with this value.
struct Broker {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Broker {
    /// Starts one, or says that there is none to start.
    fn start() -> Option<Self> {
        let Some(program) = find_mosquitto() else {
            assert!(std::env::var_os("CI").is_none(), "mosquitto is not installed");
            eprintln!("skipped: mosquitto is not installed");
            return None;
        };
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = write_config(directory.path(), port);
        let mut process = Command::new(program).arg("-c").arg(config).stderr(Stdio::piped()).spawn().unwrap();
        let log = lines_of(process.stderr.take().unwrap());
        let broker = Self { process, port, _directory: directory };
        wait_for(&log, |line| line.ends_with(" running"));
        Some(broker)
    }

    /// A client program with the address of this broker. MQTT 5, so that a refusal is told.
    fn client(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-V", "5", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command
    }

    /// Publishes and waits for the broker's acknowledgement, which says yes or no; we look at what arrives.
    fn publish(&self, account: &str, topic: &str, more: &[&str]) {
        let mut client = self.client("mosquitto_pub");
        client.args(["-u", account, "-P", account, "-q", "1", "-t", topic, "-m", topic]).args(more);
        client.stderr(Stdio::null()).status().unwrap();
    }

    /// Subscribes an account to everything it may read. Comes back when the subscription is in force.
    fn subscribe(&self, account: &str) -> Subscriber {
        let ready = format!("jarvis/reply/{account}/ready");
        self.publish("bridge", &ready, &["-r"]);
        let mut client = self.client("mosquitto_sub");
        client.args(["-u", account, "-P", account, "-q", "1", "-t", "#", "-F", "%t"]);
        let mut process = client.stdout(Stdio::piped()).spawn().unwrap();
        let topics = lines_of(process.stdout.take().unwrap());
        let subscriber = Subscriber { process, topics };
        wait_for(&subscriber.topics, |line| line == ready);
        subscriber
    }

    /// Which topics of all doors reach an account when the bridge publishes there.
    fn topics_read_by(&self, account: &str) -> BTreeSet<String> {
        let subscriber = self.subscribe(account);
        DOORS.iter().for_each(|door| self.publish("bridge", door.topic, &[]));
        self.received(&subscriber, account)
    }

    /// Which topics of all doors let through what an account publishes.
    fn topics_written_by(&self, account: &str) -> BTreeSet<String> {
        let subscriber = self.subscribe("bridge");
        DOORS.iter().for_each(|door| self.publish(account, door.topic, &[]));
        self.received(&subscriber, "bridge")
    }

    /// What came in before a last message that surely comes in: the broker keeps the order.
    fn received(&self, subscriber: &Subscriber, account: &str) -> BTreeSet<String> {
        let end = format!("jarvis/reply/{account}/end");
        self.publish("bridge", &end, &[]);
        let topics = wait_for(&subscriber.topics, |line| line == end);
        topics.into_iter().filter(|topic| !topic.ends_with("/ready")).collect()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// A running `mosquitto_sub` and the topics it has printed; ends with this value.
struct Subscriber {
    process: Child,
    topics: mpsc::Receiver<String>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

fn end(process: &mut Child) {
    // Both fail only where the process has ended by itself.
    let _ = process.kill();
    let _ = process.wait();
}

/// Debian puts it where an ordinary user's PATH does not lead.
fn find_mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join("mosquitto")).find(|program| program.is_file())
}

/// The shipped files with the paths and the port of this test, and a password for every account.
fn write_config(directory: &Path, port: u16) -> PathBuf {
    let read = |name: &str| fs::read_to_string(Path::new(DOCKER).join(name)).unwrap();
    let place = |name: &str| directory.join(name).display().to_string();
    let mut config = read("mosquitto.conf");
    for (shipped, ours) in [
        ("listener 1883", format!("listener {port} 127.0.0.1")),
        ("/mosquitto/data/passwords", place("passwords")),
        ("/mosquitto/config/mosquitto.acl", place("mosquitto.acl")),
        ("/mosquitto/data/", format!("{}/", directory.display())),
    ] {
        assert!(config.contains(shipped), "docker/mosquitto.conf no longer has `{shipped}`");
        config = config.replace(shipped, &ours);
    }
    // Started by root, it would change to an account that may not read this directory.
    config.push_str("user root\n");
    fs::write(directory.join("mosquitto.conf"), config).unwrap();
    fs::write(directory.join("mosquitto.acl"), read("mosquitto.acl")).unwrap();
    let accounts: String = ACCOUNTS.iter().map(|account| format!("{account}:{account}\n")).collect();
    fs::write(directory.join("passwords"), accounts).unwrap();
    let hashed =
        Command::new("mosquitto_passwd").arg("-U").arg(directory.join("passwords")).status().unwrap();
    assert!(hashed.success());
    directory.join("mosquitto.conf")
}

/// What a process prints, line by line, read by a thread of its own until it ends.
fn lines_of(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let output = BufReader::new(output);
    let (sender, receiver) = mpsc::channel();
    // Goes on reading when nobody listens any more, or the process would stall on a full pipe.
    thread::spawn(move || output.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    receiver
}

/// The lines before the one that is waited for.
fn wait_for(lines: &mpsc::Receiver<String>, is_it: impl Fn(&str) -> bool) -> Vec<String> {
    let mut before = Vec::new();
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) if is_it(&line) => return before,
            Ok(line) => before.push(line),
            Err(error) => panic!("{error}, after {before:?}"),
        }
    }
}
