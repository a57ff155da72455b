//! The processes of one round: a broker, the bridge on it with its plugins, and the two echo clients.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    load::{self, Question},
    process::{self, Memory, Running},
};

/// The thread of the bridge's own broker, whose work is no work of the bridge.
const BROKER_THREAD: &str = "mqtt-broker";
/// How long a broker may take to listen.
const START: Duration = Duration::from_secs(10);
/// Plugins beside the one that is asked.
const BYSTANDERS: usize = 4;

/// Which broker carries the messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broker {
    /// The bridge's own, a thread of its process.
    Embedded,
    Mosquitto,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A bare rumqttc client that sends back what it gets.
    Echo,
    /// The same, its payloads going once through another process.
    Pipe,
    Bridge,
}

/// Everything that runs. The order of the fields is the order in which they end.
pub(crate) struct Parts {
    pub(crate) address: String,
    echo: Running,
    pipe: Running,
    bridge: Running,
    _mosquitto: Option<Running>,
    _directory: tempfile::TempDir,
}

impl Parts {
    /// Starts everything and waits until each has answered once. Nothing where the broker is not installed.
    pub(crate) fn start(broker: Broker, executable: &Path) -> anyhow::Result<Option<Self>> {
        // On a disk, since some requests are to be kept: the temporary directory may be memory.
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let (mosquitto, url) = match broker {
            Broker::Embedded => (None, None),
            Broker::Mosquitto => {
                let Some(executable) = find_mosquitto() else { return Ok(None) };
                let (mosquitto, address) = start_mosquitto(&executable, directory.path())?;
                (Some(mosquitto), Some(format!("mqtt://{address}")))
            }
        };
        let (bridge, address) = start_bridge(executable, directory.path(), url.as_deref())?;
        let echo = start_echo("--echo", Subject::Echo, &address)?;
        let pipe = start_echo("--echo-through-pipe", Subject::Pipe, &address)?;
        let parts = Self { address, echo, pipe, bridge, _mosquitto: mosquitto, _directory: directory };
        for subject in [Subject::Echo, Subject::Pipe, Subject::Bridge] {
            load::wait_until_answered(&parts.address, &subject.question("bench"))?;
        }
        Ok(Some(parts))
    }

    /// CPU time so far: of the subject's own process, and of those it has started.
    pub(crate) fn cpu_time(&self, subject: Subject) -> (Duration, Duration) {
        let process = self.process(subject).id();
        let children =
            process::children(process).into_iter().map(|child| process::cpu_time(child, &[])).sum();
        (process::cpu_time(process, &[BROKER_THREAD]), children)
    }

    /// How often threads of the bridge and its workers were woken so far.
    pub(crate) fn wakes(&self) -> u64 {
        let bridge = self.bridge.id();
        let workers: u64 = process::children(bridge).into_iter().map(|id| process::sleeps(id, &[])).sum();
        process::sleeps(bridge, &[BROKER_THREAD]) + workers
    }

    /// Memory of the bridge, and of each of its workers.
    pub(crate) fn bridge_memory(&self) -> (Memory, Vec<Memory>) {
        let bridge = self.bridge.id();
        (process::memory(bridge), process::children(bridge).into_iter().map(process::memory).collect())
    }

    fn process(&self, subject: Subject) -> &Running {
        match subject {
            Subject::Echo => &self.echo,
            Subject::Pipe => &self.pipe,
            Subject::Bridge => &self.bridge,
        }
    }
}

impl Subject {
    /// The same bytes for everybody; only the bridge makes something of them.
    pub(crate) fn question(self, command: &str) -> Question {
        let rest = format!(",\"name\":\"{command}\",\"args\":{{\"room\":\"hall\",\"level\":42}}}}");
        let (name, proof) = match self {
            Self::Echo => ("bench/echo", "\"level\":42"),
            Self::Pipe => ("bench/pipe", "\"level\":42"),
            Self::Bridge => ("jarvis/command", "\"status\":\"ok\""),
        };
        Question { request: format!("{name}/request"), response: format!("{name}/response"), rest, proof }
    }
}

fn find_mosquitto() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    directories.map(|directory| directory.join("mosquitto")).find(|file| file.is_file())
}

/// Set as our own configuration in `docker/` sets it, but in memory and open to this machine.
fn start_mosquitto(executable: &Path, directory: &Path) -> anyhow::Result<(Running, String)> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let settings = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 1000000\n\
         persistence false\nlog_type error\n"
    );
    let file = directory.join("mosquitto.conf");
    fs::write(&file, settings)?;
    let running = Running::start(Command::new(executable).arg("-c").arg(&file))?;
    let address = format!("127.0.0.1:{port}");
    let started = Instant::now();
    while TcpStream::connect(&address).is_err() {
        ensure!(started.elapsed() < START, "mosquitto does not listen at {address}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok((running, address))
}

/// Starts `jarvis-bridge run`; gives the address of the broker that it says it uses.
fn start_bridge(executable: &Path, directory: &Path, url: Option<&str>) -> anyhow::Result<(Running, String)> {
    let (plugins, file) = (directory.join("plugins"), directory.join("settings.toml"));
    fs::create_dir(&plugins)?;
    fs::write(plugins.join("bench.lua"), plugin("bench", "bench, keep"))?;
    for number in 1..=BYSTANDERS {
        let id = format!("bystander{number}");
        fs::write(plugins.join(format!("{id}.lua")), plugin(&id, &id))?;
    }
    fs::write(&file, "[broker]\nlisten = \"127.0.0.1:0\"\n")?;
    let mut command = Command::new(executable);
    command.arg("run").arg("--config").arg(file).arg("--plugins").arg(plugins);
    command.arg("--data-dir").arg(directory.join("data")).args(["--log-level", "warn"]);
    command.args(url.into_iter().flat_map(|url| ["--broker", url]));
    let mut running = Running::start(&mut command)?;
    let line = running.line_with("mqtt://")?;
    let address = line.split("mqtt://").nth(1).and_then(|rest| rest.split_whitespace().next());
    Ok((running, address.context("the bridge does not name its broker")?.to_owned()))
}

/// Answers a small table; the command `keep` also writes to the state.
fn plugin(id: &str, commands: &str) -> String {
    format!(
        "-- @id {id}\n-- @name {id}\n-- @version 1.0.0\n-- @author bench\n-- @description Answers quickly\n\
         -- @commands {commands}\n\
         function on_command(cmd)\n  \
           if cmd.name == \"keep\" then jarvis.state.set(\"last\", cmd.id) end\n  \
           return {{ response = \"The \" .. cmd.args.room .. \" is at \" .. cmd.args.level, level = cmd.args.level }}\n\
         end\n"
    )
}

fn start_echo(flag: &str, subject: Subject, address: &str) -> anyhow::Result<Running> {
    let own = std::env::current_exe()?;
    let name = subject.question("").request;
    let name = name.strip_suffix("/request").unwrap_or(&name);
    Running::start(Command::new(own).args([flag, name, address]))
}
