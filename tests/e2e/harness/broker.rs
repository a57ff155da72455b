//! The brokers that a bridge is tried with.

use std::{
    net::TcpListener,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Once},
};

use super::program::{Process, program, say};

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
        let settings = "allow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 1000000\n";
        Self::start_with(port, |_| settings.into())
    }

    /// Starts one on this port with a configuration that may have files of its own beside it.
    pub(crate) fn start_with(port: u16, configure: impl FnOnce(&Path) -> String) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("mosquitto.conf");
        let settings = configure(directory.path());
        // Started by root, it would change to an account that may not read this directory.
        std::fs::write(&file, format!("user root\nlistener {port} 127.0.0.1\n{settings}")).unwrap();
        let mut command = Command::new(program("mosquitto")?);
        let mut process = Process::start(command.arg("-c").arg(file).stderr(Stdio::piped()));
        process.stderr().find(" running")?;
        Some(Self { _process: process, _directory: directory, port })
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
