//! Workers that a plugin has taken over, beside one that serves: a shell script stands in the place of the bridge's
//! worker and becomes a real one for the good plugin, and for the bad one after its first life.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use jarvis_bridge::{
    model::{Failure, Limits},
    plugin::{PluginManager, Settings},
};
use serde_json::{Value, json};

use crate::harness::{PATIENCE, plugin_source};

/// Reads the first frame and keeps it, as the real worker wants it too; `frame` reads one more, `say` writes files.
const SCRIPT: &str = r#"#!/bin/sh
real() { { cat "$0.$$"; exec cat; } | @WORKER@ --serve-one-plugin $$; exit; }
frame() { head -c "$(head -c 4 | od -An -tu4 | tr -d ' ')" > /dev/null; }
say() { for word in "$@"; do cat "$0.$word"; done; }
head -c 4 > "$0.$$"
head -c "$(od -An -tu4 "$0.$$" | tr -d ' ')" >> "$0.$$"
if grep -q '"id":"good"' "$0.$$" || [ -e "$0.second" ]; then real; fi
touch "$0.second"
say loaded
frame
"#;

/// The wall limit of a call: what only stalls is ended by it.
const WALL_MS: u64 = 1_000;

/// A frame as it lies in the pipe.
fn framed(frame: &Value) -> Vec<u8> {
    let text = frame.to_string();
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    [&length, text.as_bytes()].concat()
}

struct House {
    directory: tempfile::TempDir,
    commands: &'static str,
}

impl House {
    /// What the bad worker does once it has a call to answer.
    fn new(commands: &'static str) -> Self {
        let house = Self { directory: tempfile::tempdir().unwrap(), commands };
        std::fs::create_dir(house.plugins()).unwrap();
        let code = "function on_chat(m) return { n = m.n } end";
        for id in ["good", "bad"] {
            std::fs::write(house.plugins().join(format!("{id}.lua")), plugin_source(id, code)).unwrap();
        }
        house.write_script();
        house
            .frame("loaded", &json!({"loaded": {"hooks": ["on_chat"], "result": {"Ok": []}}}))
            .frame("done", &json!({"done": {"call": 1, "outcome": "nothing", "effects": [], "memory": 1}}))
            .frame("ask", &json!({"request": {"call": 1, "number": 1, "operation": {"get": "a"}}}))
            .frame("line", &json!({"log": {"level": "debug", "message": "x"}}))
    }

    fn plugins(&self) -> PathBuf {
        self.directory.path().join("plugins")
    }

    fn script(&self) -> PathBuf {
        self.directory.path().join("worker")
    }

    /// A file that this process had open for writing might still be in a child of another test: another copies it.
    fn write_script(&self) {
        let text = SCRIPT.replace("@WORKER@", env!("CARGO_BIN_EXE_jarvis-bridge"));
        let draft = self.directory.path().join("draft");
        std::fs::write(&draft, format!("{text}{}\n", self.commands)).unwrap();
        let installed = Command::new("install").args(["-m", "755"]).args([&draft, &self.script()]).status();
        assert!(installed.unwrap().success());
    }

    fn frame(self, name: &str, frame: &Value) -> Self {
        self.bytes(name, &framed(frame))
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.script().with_extension(name), bytes).unwrap();
        self
    }

    /// The bad worker is ended for a reason that a person understands, the good plugin answers all the while, and
    /// the bad one answers again with its next worker.
    fn ends_because(self, reason: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let manager = manager(&self.plugins(), self.script()).await;
            let start = Instant::now();
            let (failure, answers) =
                tokio::join!(failure_of_bad(&manager, &start), answers_of_good(&manager, &start));
            let failure = failure.to_string();
            assert!(failure.starts_with("plugin `bad`: on_chat "), "{failure}");
            assert!(failure.contains(reason), "{failure}");
            assert!(answers > 0, "the good plugin answered meanwhile");
            let again = ask(&manager, "bad", 7).await;
            assert_eq!(again, Ok(json!({ "n": 7 })), "a fresh worker serves");
            manager.stop().await;
        });
    }
}

async fn manager(plugins: &Path, worker: PathBuf) -> PluginManager {
    let limits = Limits { wall_ms: WALL_MS, requests: 5, ..Limits::default() };
    let settings = Settings { limits, ..Settings::default() };
    let manager = PluginManager::builder(plugins).settings(settings).worker_executable(worker).build().await;
    let manager = manager.unwrap();
    manager.scan().await.unwrap();
    manager
}

async fn ask(manager: &PluginManager, plugin: &str, number: u64) -> Result<Value, Failure> {
    // More than a pipe holds: whoever does not read leaves some of it to the bridge.
    let message = json!({ "content": "x".repeat(200_000), "n": number });
    let answer = manager.sandbox();
    let answer = answer.call_hook(plugin, "on_chat", message);
    tokio::time::timeout(PATIENCE, answer).await.expect("nobody waits for a worker for ever")
}

async fn failure_of_bad(manager: &PluginManager, start: &Instant) -> Failure {
    let failure = ask(manager, "bad", 1).await.unwrap_err();
    assert!(start.elapsed() < PATIENCE);
    failure
}

/// Asks the good plugin again and again, until the bad one's worker has been replaced.
async fn answers_of_good(manager: &PluginManager, start: &Instant) -> u64 {
    let failed =
        || manager.registry().health().iter().any(|(id, health)| id.as_str() == "bad" && health.errors > 0);
    let (mut number, mut slowest) = (0, Duration::ZERO);
    while !failed() && start.elapsed() < PATIENCE {
        let asked = Instant::now();
        assert_eq!(ask(manager, "good", number).await, Ok(json!({ "n": number })));
        slowest = slowest.max(asked.elapsed());
        number += 1;
    }
    eprintln!("{number} answers of the good plugin, the slowest after {slowest:?}");
    number
}

#[test]
fn one_that_floods() {
    let line = framed(&json!({"log": {"level": "debug", "message": "x"}}));
    House::new("while :; do say lines; done")
        .bytes("lines", &line.repeat(1_000))
        .ends_because("it floods the log");
    House::new("while :; do say ask; frame; done")
        .ends_because("more than 5 things in one call (limits.requests)");
}

#[test]
fn one_that_stalls() {
    House::new("say half; exec sleep 600")
        .bytes("half", b"\xff\0\0\0{")
        .ends_because("did not come back within 1000 ms");
    House::new("exec sleep 600").ends_because("did not come back within 1000 ms");
}

#[test]
fn one_that_sends_garbage() {
    House::new("exec yes").ends_because("it sent a frame of 175704697 bytes");
    House::new("exec head -c 9000000 /dev/zero").ends_because("a frame that is not understood");
    let deep = format!("{}1{}", "[".repeat(2_000), "]".repeat(2_000));
    let text = format!(r#"{{"done":{{"call":1,"outcome":{{"value":{}}},"effects":[],"memory":1}}}}"#, deep);
    let frame = [&u32::try_from(text.len()).unwrap().to_le_bytes(), text.as_bytes()].concat();
    House::new("say deep; exec sleep 600")
        .bytes("deep", &frame)
        .ends_because("it sent a result nested 2000 deep");
    let effects =
        json!([{"publish": {"topic": "jarvis/bridge/state", "payload": "", "qos": 1, "retain": true}}]);
    let done = json!({"done": {"call": 1, "outcome": "nothing", "effects": effects, "memory": 1}});
    House::new("say forged; exec sleep 600")
        .frame("forged", &done)
        .ends_because("only the bridge publishes to");
}

#[test]
fn one_that_answers_what_was_not_asked() {
    let other = json!({"done": {"call": 2, "outcome": "nothing", "effects": [], "memory": 1}});
    House::new("say other; exec sleep 600")
        .frame("other", &other)
        .ends_because("answered a call that was not its oldest");
    House::new("say loaded; exec sleep 600").ends_because("said twice that it was loaded");
    // In one piece, so that the second is there before the first is answered.
    let ask = json!({"request": {"call": 1, "number": 1, "operation": {"get": "a"}}});
    let asks = framed(&ask).repeat(2);
    House::new("say asks; exec sleep 600")
        .bytes("asks", &asks)
        .ends_because("its worker was ended: it went on");
}

#[test]
fn one_that_stops_reading_or_ends() {
    // The answer is read by nobody; as it fits into the pipe, time alone tells.
    House::new("say ask; exec sleep 600").ends_because("did not come back within 1000 ms");
    House::new("exec >&-; exec sleep 600").ends_because("it closed its output and went on");
    House::new("exit 0").ends_because("its worker ended by itself (exit code 0)");
    House::new("yes >&2").ends_because("did not come back within 1000 ms");
}
