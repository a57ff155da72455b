//! Workers that a plugin has taken over: shell scripts that say what no worker of ours would. Knows nothing of Lua.

use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Death, Event, Link, Overrun, Spawner, frames};
use crate::model::{
    Limits,
    frame::{About, Answer, Call, Input, Load, Snapshot, Target},
};

/// What every script begins with: `frame` reads one frame, `say` writes a file that lies beside the script.
const PRELUDE: &str = r#"#!/bin/sh
frame() { head -c "$(head -c 4 | od -An -tu4 | tr -d ' ')" > /dev/null; }
say() { for word in "$@"; do cat "$0.$word"; done; }
"#;

/// A script and the frames it can say.
struct Script {
    directory: tempfile::TempDir,
    limits: Limits,
}

impl Script {
    fn new(commands: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let text = directory.path().join("text");
        std::fs::write(&text, format!("{PRELUDE}{commands}\n")).unwrap();
        // A file that this process had open for writing might still be in a child of another test.
        let installed = Command::new("install")
            .args(["-m", "755"])
            .arg(&text)
            .arg(directory.path().join("worker"))
            .status();
        assert!(installed.unwrap().success());
        let limits = Limits { wall_ms: 300, ..Limits::default() };
        let script = Self { directory, limits };
        script
            .frame("loaded", &json!({"loaded": {"hooks": ["on_chat"], "result": {"Ok": []}}}))
            .frame("log", &json!({"log": {"level": "info", "message": "x"}}))
            .frame("done", &json!({"done": {"call": 1, "outcome": "nothing", "effects": [], "memory": 1}}))
            .frame("ask", &json!({"request": {"call": 1, "number": 1, "operation": {"get": "a"}}}))
    }

    fn frame(self, name: &str, frame: &Value) -> Self {
        let mut bytes = Vec::new();
        frames::encode(frame, &mut bytes).unwrap();
        self.bytes(name, &bytes)
    }

    fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.path().with_extension(name), bytes).unwrap();
        self
    }

    fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("worker")
    }

    async fn start(&self) -> Link {
        let spawner = Spawner::start(Some(self.path())).unwrap();
        let about = || "x".to_owned();
        let load = Load {
            about: About {
                id: about(),
                name: about(),
                version: about(),
                author: about(),
                description: about(),
            },
            chunk: "x.lua".into(),
            source: String::new(),
            permissions: Vec::new(),
            limits: self.limits.clone(),
            timezone: "UTC".into(),
            base_topic: "jarvis".into(),
            snapshot: Snapshot::default(),
        };
        Link::start(&spawner, load).await.unwrap()
    }

    /// How it ends: loaded, called once and, where it asks, answered.
    async fn death(&self) -> Death {
        let mut link = self.start().await;
        let end = async {
            loop {
                match link.event().await {
                    Ok(Event::Loaded(_)) => link.call(&call(1)).unwrap(),
                    Ok(Event::Request(request)) => {
                        let answer = Answer { number: request.number, result: Ok(raw(&"x".repeat(100_000))) };
                        link.answer(answer).unwrap();
                    }
                    Ok(Event::Done(_) | Event::Log(_)) => {}
                    Err(death) => return death,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), end).await.expect("nothing may wait for it for ever")
    }
}

fn raw(text: &str) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(text).unwrap()
}

fn call(number: u64) -> Call {
    Call { number, target: Target::Hook("on_chat".into()), input: Input::Nothing, cut: None, left: None }
}

/// Each is killed for what it did, and the reason says what that was.
async fn killed_for(script: Script, reason: &str) {
    let death = script.death().await;
    assert!(matches!(&death, Death::Garbage(_)), "{death:?}");
    assert!(death.to_string().contains(reason), "{death}");
}

#[tokio::test]
async fn garbage() {
    let after_load = |bytes: &[u8]| {
        Script::new("frame; say loaded; frame; say bytes; exec sleep 600").bytes("bytes", bytes)
    };
    let framed = |text: &[u8]| {
        let length = u32::try_from(text.len()).unwrap().to_le_bytes();
        after_load(&[&length, text].concat())
    };
    killed_for(Script::new("exec yes"), "a frame of 175704697 bytes").await;
    killed_for(framed(b"{}"), "a frame that is not understood").await;
    killed_for(framed(b"{\"done\":{\"call\":1"), "a frame that is not understood").await;
    killed_for(framed(b"\xff\xfe"), "a frame that is not understood").await;
    killed_for(framed(&[b'['; 100_000]), "a frame that is not understood").await;
    for text in [
        r#"{"done":{"call":"1","outcome":"nothing","effects":[],"memory":1}}"#,
        r#"{"done":{"call":1,"call":1,"outcome":"nothing","effects":[],"memory":1}}"#,
        r#"{"done":{"call":18446744073709551616,"outcome":"nothing","effects":[],"memory":1}}"#,
        r#"{"done":{"call":-1,"outcome":"nothing","effects":[],"memory":1}}"#,
        r#"{"done":{"call":1,"outcome":"nothing","effects":[{"publish":{"topic":"a/#","payload":"","qos":0,"retain":false}}],"memory":1}}"#,
        r#"{"done":{"call":1,"outcome":"nothing","effects":[{"publish":{"topic":"a\u0000","payload":"","qos":0,"retain":false}}],"memory":1}}"#,
        r#"{"shutdown":{}}"#,
    ] {
        killed_for(framed(text.as_bytes()), "a frame that is not understood").await;
    }
}

#[tokio::test]
async fn a_value_as_deep_as_a_frame_is_long_needs_no_stack() {
    let mut text = br#"{"done":{"call":1,"outcome":{"value":"#.to_vec();
    text.resize(text.len() + 2_000_000, b'[');
    text.resize(text.len() + 2_000_000, b']');
    text.extend(br#"},"effects":[],"memory":1}}"#);
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    let script = Script::new("frame; say loaded; frame; say deep; exec sleep 600")
        .bytes("deep", &[&length, text.as_slice()].concat());
    let mut link = script.start().await;
    assert!(matches!(link.event().await, Ok(Event::Loaded(_))));
    link.call(&call(1)).unwrap();
    // It is JSON; what a value may be is not the pipe's to judge.
    assert!(matches!(link.event().await, Ok(Event::Done(_))));
}

#[tokio::test]
async fn what_was_not_asked() {
    killed_for(Script::new("frame; say done; exec sleep 600"), "answered a call that was not its oldest")
        .await;
    // Number 0 stands for running the source, which is answered in another way.
    let zero = json!({"done": {"call": 0, "outcome": "nothing", "effects": [], "memory": 1}});
    let script = Script::new("frame; say zero; exec sleep 600").frame("zero", &zero);
    killed_for(script, "answered a call that was not its oldest").await;
    killed_for(Script::new("frame; say loaded loaded; exec sleep 600"), "said twice that it was loaded")
        .await;
    let after =
        |what: &str| Script::new(&format!("frame; say loaded; frame; say done {what}; exec sleep 600"));
    killed_for(after("done"), "answered a call that nobody made").await;
    killed_for(after("loaded"), "said twice that it was loaded").await;
    killed_for(after("ask"), "asked for something while no call of it ran").await;
    killed_for(after("log"), "wrote to the log while no call of it ran").await;
    let asks = |what: &str| Script::new(&format!("frame; say loaded; frame; say {what}; exec sleep 600"));
    for again in ["ask", "done"] {
        // In one piece, so that the second is there before the first is answered.
        let script = asks("both");
        let both = ["ask", again].map(|name| std::fs::read(script.path().with_extension(name)).unwrap());
        killed_for(script.bytes("both", &both.concat()), "went on").await;
    }
    let other = json!({"request": {"call": 9, "number": 1, "operation": {"get": "a"}}});
    killed_for(asks("other").frame("other", &other), "on behalf of a call that does not run").await;
}

#[tokio::test]
async fn floods() {
    let mut lines = Vec::new();
    for _ in 0..500 {
        frames::encode(&json!({"log": {"level": "info", "message": "x"}}), &mut lines).unwrap();
    }
    let flood = Script::new("frame; say loaded; frame; while :; do say lines; done").bytes("lines", &lines);
    killed_for(flood.limits(Limits::default()), "floods the log").await;
    let long = json!({"log": {"level": "info", "message": "x".repeat(20_000)}});
    killed_for(
        Script::new("frame; say log; exec sleep 600").frame("log", &long),
        "a log line of 20000 bytes",
    )
    .await;
    let asks = "frame; say loaded; frame; while :; do say ask; frame; done";
    let limits = |requests, http| Limits { requests, http, ..Limits::default() };
    killed_for(Script::new(asks).limits(limits(7, 7)), "more than 7 things in one call (limits.requests)")
        .await;
    let http = json!({"request": {"call": 1, "number": 1, "operation": {"http":
        {"method": "GET", "url": "", "headers": [], "body": null, "timeout_ms": null}}}});
    let script = Script::new(asks).frame("ask", &http).limits(limits(7, 3));
    killed_for(script, "more than 3 HTTP requests in one call (limits.http)").await;
}

#[tokio::test]
async fn stalls() {
    let half =
        |bytes: &[u8]| Script::new("frame; say loaded; frame; say half; exec sleep 600").bytes("half", bytes);
    for bytes in [&b""[..], b"\x05", b"\x05\0\0\0", b"\x05\0\0\0{}"] {
        assert_eq!(half(bytes).death().await, Death::Overran(Overrun::Wall(300)));
    }
    // Running the source is a call like any other.
    assert_eq!(Script::new("exec sleep 600").death().await, Death::Overran(Overrun::Wall(300)));
}

#[tokio::test]
async fn a_frame_that_is_promised_takes_no_room_before_it_comes() {
    let length = u32::try_from(Limits::default().frame()).unwrap().to_le_bytes();
    let script = Script::new("say head; exec sleep 600").bytes("head", &length);
    let mut link = script.start().await;
    assert_eq!(link.event().await.unwrap_err(), Death::Overran(Overrun::Wall(300)));
    assert!(link.reserved() < 1 << 20, "{}", link.reserved());
    let length = u32::try_from(Limits::default().frame() + 1).unwrap().to_le_bytes();
    killed_for(Script::new("say head; exec sleep 600").bytes("head", &length), "bytes, at most").await;
}

#[tokio::test]
async fn one_that_does_not_read_is_killed_and_what_it_left_unread_is_bounded() {
    // The answer does not fit into the pipe, and the next question comes before it was read.
    let deaf = "frame; say loaded; frame; say ask; sleep 0.1; say ask; exec sleep 600";
    killed_for(Script::new(deaf).limits(Limits::default()), "went on before it had read").await;

    let script = Script::new("frame; say loaded; exec sleep 600");
    let mut link = script.start().await;
    assert!(matches!(link.event().await, Ok(Event::Loaded(_))));
    let mut number = 0;
    while link.has_room() {
        number += 1;
        let input = Input::Value(raw(&"x".repeat(100_000)));
        link.call(&Call { number, target: Target::Hook("on_chat".into()), input, cut: None, left: None })
            .unwrap();
    }
    assert!(number <= 16, "{number}");
    assert_eq!(link.event().await.unwrap_err(), Death::Overran(Overrun::Wall(300)));
}

#[tokio::test]
async fn closed_pipes() {
    let limits = || Limits { wall_ms: 60_000, ..Limits::default() };
    let script = |commands: &str| Script::new(commands).limits(limits());
    killed_for(script("exec sleep 600 >&-"), "it closed its output and went on").await;
    // The call is written once nobody is there to read it.
    killed_for(
        script("frame; exec 0<&-; say loaded; exec sleep 600").limits(limits()),
        "it closed its input and went on",
    )
    .await;
    let ended = |how: &str| Death::Ended(how.into());
    assert_eq!(script("exit 0").death().await, ended("exit code 0"));
    assert_eq!(script("kill -ABRT $$").death().await, ended("SIGABRT: it gave itself up"));
    assert_eq!(script("echo 'a word' >&2; exit 3").death().await, ended("exit code 3: a word"));
}

#[tokio::test]
async fn nothing_waits_for_what_a_worker_leaves_behind() {
    let limits = || Limits { wall_ms: 60_000, ..Limits::default() };
    // Its child holds standard error and would let a reader of that wait for ten minutes.
    let parent =
        Script::new("sleep 600 >&- & echo $! > \"$0.child\"; echo gone >&2; exit 4").limits(limits());
    assert_eq!(parent.death().await, Death::Ended("exit code 4: gone".into()));
    let child = std::fs::read_to_string(parent.path().with_extension("child")).unwrap();
    let start = Instant::now();
    while lives(child.trim()) {
        assert!(start.elapsed() < Duration::from_secs(10), "what a worker starts ends with it");
        tokio::task::yield_now().await;
    }
    // A full standard error stops the worker, not the bridge.
    let loud = Script::new("yes >&2");
    assert_eq!(loud.death().await, Death::Overran(Overrun::Wall(300)));
}

/// Whether a process runs; one that has ended and waits for its parent does not.
fn lives(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
