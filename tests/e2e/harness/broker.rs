//! The brokers that a bridge is tried with.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
    sync::{Arc, Once},
};

use super::program::{Lines, Process, program, say};

/// A broker for one test.
#[derive(Clone)]
pub(crate) enum Broker {
    /// The bridge's own; comes and goes with the bridge.
    Embedded,
    /// A real Mosquitto; stays while a clone of this lives.
    Mosquitto(Arc<Mosquitto>),
}

/// A running Mosquitto.
pub(crate) struct Mosquitto {
    _process: Process,
    _directory: tempfile::TempDir,
    pub(crate) port: u16,
}

impl Broker {
    /// A fresh Mosquitto; nothing where none is installed.
    pub(crate) fn mosquitto() -> Option<Self> {
        Mosquitto::start().map(|mosquitto| Self::Mosquitto(Arc::new(mosquitto)))
    }

    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded)
    }
}

impl Mosquitto {
    /// Starts one on a free port, or says that there is none to start.
    pub(crate) fn start() -> Option<Self> {
        static SAID: Once = Once::new();
        if program("mosquitto").is_none() {
            assert!(std::env::var_os("CI").is_none(), "mosquitto is not installed");
            SAID.call_once(|| say("mosquitto is not installed: the tests against it are skipped"));
            return None;
        }
        // Another process may take the port between our look and Mosquitto's.
        (0..5).find_map(|_| Self::start_on(free_port())).or_else(|| panic!("mosquitto does not start"))
    }

    /// Starts one on this port; nothing where that is taken.
    pub(crate) fn start_on(port: u16) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mosquitto.conf");
        let settings = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nuser root\n\
             max_queued_messages 1000000\n"
        );
        std::fs::write(&file, settings).unwrap();
        let mut command = Command::new(program("mosquitto")?);
        let mut process = Process::start(command.arg("-c").arg(file).stderr(Stdio::piped()));
        let log: Lines = process.stderr();
        log.find(" running")?;
        Some(Self { _process: process, _directory: directory, port })
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
