//! The program under test: its directories, its settings, its life.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output, Stdio},
    thread,
};

use rustix::process::Signal;

use super::{
    Broker, Client, Lines, Mosquitto, Publish, directory,
    program::{self, Process},
};

/// Everything that a bridge is started with; stays when the bridge goes.
pub(crate) struct Setup {
    directory: tempfile::TempDir,
    broker: Broker,
    environment: Vec<(String, String)>,
    configuration: String,
}

/// A program, running; killed with this value.
pub(crate) struct Launched {
    process: Process,
    /// What it prints.
    pub(crate) output: Lines,
    /// What it logs.
    pub(crate) log: Lines,
}

impl Launched {
    fn start(command: &mut Command) -> Self {
        let mut process = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let (output, log) = (process.stdout(), process.stderr());
        Self { process, output, log }
    }

    /// Asks it to end with a signal, and waits for that.
    pub(crate) fn end(self, signal: Signal) -> ExitStatus {
        self.process.signal(signal);
        self.ended()
    }

    /// A client of the broker that the banner names.
    pub(crate) fn client(&self) -> Client {
        Client::v5(port(&self.output).unwrap())
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        self.process.ended()
    }
}

/// The port that the banner of a bridge names; nothing where it ends without one.
fn port(output: &Lines) -> Option<u16> {
    let line = output.find("mqtt://")?;
    let address = line.split_whitespace().find_map(|word| word.strip_prefix("mqtt://"))?;
    address.rsplit_once(':')?.1.parse().ok()
}

/// A running bridge; killed with this value. Stands for an MQTT 5 client that listens to everything.
pub(crate) struct Bridge {
    setup: Setup,
    process: Process,
    client: Client,
    /// Where its broker listens.
    pub(crate) port: u16,
    /// What it logs.
    pub(crate) log: Lines,
    /// What it prints.
    pub(crate) output: Lines,
    _report: Report,
}

/// Shows the log where a test fails.
struct Report(Lines);

impl Drop for Report {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the bridge's log ---\n{}", self.0.text());
        }
    }
}

impl Setup {
    /// No plugins, the shipped configuration.
    pub(crate) fn new(broker: &Broker) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("plugins")).unwrap();
        let (environment, configuration) = (Vec::new(), String::new());
        Self { directory, broker: broker.clone(), environment, configuration }
    }

    /// The same on a Mosquitto that the test ends itself.
    pub(crate) fn beside(mosquitto: &Mosquitto) -> Self {
        Self::new(&Broker::Embedded).set("MQTT__URL", &format!("mqtt://127.0.0.1:{}", mosquitto.port))
    }

    /// With one more plugin; see [`super::plugin_source`].
    pub(crate) fn plugin(self, id: &str, code: &str) -> Self {
        let source = super::plugin_source(id, code);
        self.file(&format!("{id}.lua"), &source)
    }

    /// With one more file in the plugin directory, as it is.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        directory::write(&self.plugins(), name, text);
        self
    }

    /// With a setting from the environment: `CHAT__ASSISTANT` and `external`.
    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.environment.push((format!("JARVIS__{key}"), value.into()));
        self
    }

    /// With more lines in its configuration file.
    pub(crate) fn configuration(mut self, text: &str) -> Self {
        self.configuration.push_str(text);
        self
    }

    /// The plugin directory.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// The directory that holds everything of this bridge, also its data.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The program in this bridge's directory, with nothing of the user's own.
    pub(crate) fn bare_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jarvis-bridge"));
        command.env_clear().env("HOME", self.path()).current_dir(self.path()).args(arguments);
        command
    }

    /// The program with the settings of this bridge.
    fn command(&self, arguments: &[&str]) -> Command {
        std::fs::write(self.path().join("jarvis.toml"), &self.configuration).unwrap();
        let mut command = self.bare_command(arguments);
        command.env("JARVIS__BROKER__LISTEN", "127.0.0.1:0");
        if let Broker::Mosquitto(mosquitto) = &self.broker {
            command.env("JARVIS__MQTT__URL", format!("mqtt://127.0.0.1:{}", mosquitto.port));
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.arg("--config").arg(self.path().join("jarvis.toml"));
        command.arg("--plugins").arg(self.plugins()).arg("--data-dir").arg(self.path().join("data"));
        command
    }

    /// Runs the program to its end.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        program::run(&mut self.command(arguments))
    }

    /// Starts the program, whatever comes of it.
    pub(crate) fn launch(&self, arguments: &[&str]) -> Launched {
        Launched::start(&mut self.command(arguments))
    }

    /// Starts the bridge; comes back when it answers requests.
    pub(crate) fn start(self) -> Bridge {
        let Launched { process, output, log } = self.launch(&["run"]);
        let report = Report(log.clone());
        let Some(port) = port(&output) else {
            panic!("the bridge does not start:\n{}\n{}", output.text(), log.text());
        };
        let client = Client::v5(port);
        let mut question = Publish::new("jarvis/bridge/request/health", "");
        question.properties.response_topic = Some("jarvis/reply/ready".into());
        client.answered(|| client.send(question.clone()), "jarvis/reply/ready");
        Bridge { setup: self, process, client, port, log, output, _report: report }
    }
}

impl Bridge {
    /// A bridge with these plugins, each an id and its code.
    pub(crate) fn start(broker: &Broker, plugins: &[(&str, &str)]) -> Self {
        let setup = Setup::new(broker);
        plugins.iter().fold(setup, |setup, (id, code)| setup.plugin(id, code)).start()
    }

    /// The setup, for looking into its directories.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Runs the program beside it to its end, with the same settings and the same broker.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        let url = format!("mqtt://127.0.0.1:{}", self.port);
        self.setup.call(&[arguments, &["--broker", &url]].concat())
    }

    /// The id of its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// One more client, of MQTT 3.1.1.
    pub(crate) fn client_v3(&self) -> Client {
        Client::v3(self.port)
    }

    /// One of Mosquitto's clients with the address of the broker; nothing where it is not installed.
    pub(crate) fn mosquitto_client(&self, name: &str, arguments: &[&str]) -> Option<Command> {
        let found = program::program(name);
        if found.is_none() {
            assert!(std::env::var_os("CI").is_none(), "{name} is not installed");
            program::say(&format!("{name} is not installed: what needs it is skipped"));
        }
        let mut command = Command::new(found?);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]).args(arguments);
        Some(command)
    }

    /// Starts one of Mosquitto's clients.
    pub(crate) fn start_mosquitto_client(&self, name: &str, arguments: &[&str]) -> Option<Launched> {
        Some(Launched::start(&mut self.mosquitto_client(name, arguments)?))
    }

    /// Writes a plugin as an editor that writes in place.
    pub(crate) fn write_plugin(&self, id: &str, code: &str) {
        let source = super::plugin_source(id, code);
        directory::write(&self.setup.plugins(), &format!("{id}.lua"), &source);
    }

    /// Asks it to end with a signal, and waits for that.
    pub(crate) fn end(mut self, signal: Signal) -> (ExitStatus, Setup, Client) {
        self.process.signal(signal);
        let status = self.process.ended();
        let Self { setup, client, .. } = self;
        (status, setup, client)
    }

    /// Ends it as a power cut does.
    pub(crate) fn kill(mut self) -> (Setup, Client) {
        self.process.signal(Signal::KILL);
        self.process.ended();
        let Self { setup, client, .. } = self;
        (setup, client)
    }

    /// Ends it in good order and starts it again with the same directories.
    pub(crate) fn restart(self) -> Self {
        let (status, setup, _) = self.end(Signal::TERM);
        assert_eq!(status.code(), Some(0));
        setup.start()
    }
}

impl Deref for Bridge {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The ids of a bridge's worker processes.
pub(crate) fn workers_of(jarvis: &Bridge) -> Vec<u32> {
    let id = jarvis.process_id();
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let children =
        tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("children")).ok());
    let children: Vec<String> = children.collect();
    children.iter().flat_map(|text| text.split_whitespace()).map(|id| id.parse().unwrap()).collect()
}
