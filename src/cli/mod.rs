//! The command line: arguments become settings and one subcommand, its end an exit code. Only clap's types
//! are known here, and only here.

mod call;
mod config;
mod demo;
mod doctor;
mod health;
mod output;
mod plugin;
mod run;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, Flag, Sources};

const AFTER: &str = "\
Exit codes: 0 it is done; 1 it failed (for `call`: the envelope says \"error\"); 2 the arguments or the \
configuration are wrong.

Settings come from the shipped defaults, then the configuration file, then JARVIS__SECTION__KEY in the \
environment, then flags; `jarvis-bridge config show` prints them with their sources.";

/// Connects an assistant, a home and your own Lua plugins over MQTT.
#[derive(Debug, Parser)]
#[command(name = "jarvis-bridge", version, after_help = AFTER, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    settings: SettingFlags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct SettingFlags {
    /// Configuration file [default: ./jarvis-bridge.toml, then the user's, then the system's]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory with the plugins [setting: paths.plugins]
    #[arg(long, global = true, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Directory for all state [setting: paths.data]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Broker to use instead of the embedded one, as in mqtt://user:password@host [setting: mqtt.url]
    #[arg(long, global = true, value_name = "URL")]
    broker: Option<String>,
    /// error, warn, info, debug or trace [setting: log.level]
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge until Ctrl-C or SIGTERM.
    Run,
    /// Run the bridge for a moment with the shipped plugins, send it three messages, show the answers.
    Demo,
    /// Run one hook once, without a broker, on a copy of the state, and print the envelope.
    Call(call::Arguments),
    /// Look at the plugins.
    Plugin {
        #[command(subcommand)]
        command: plugin::PluginCommand,
    },
    /// Ask the running bridge how it is; fails where none answers.
    Health {
        /// Print the report as one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at the broker, the lock-down of plugins and the directories, and say what to do.
    Doctor(doctor::Arguments),
    /// Look at the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting with its source; secrets are masked.
    Show {
        /// Print JSON instead of TOML.
        #[arg(long)]
        json: bool,
    },
}

/// What a subcommand ends with; the text of a failure has been printed.
type Ended = anyhow::Result<ExitCode>;

/// Runs the program with the arguments of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match Config::load(&cli.settings.sources()) {
        Ok(config) => config,
        Err(faults) => {
            output::error(&faults.to_string());
            return ExitCode::from(2);
        }
    };
    let level = match (&cli.command, &cli.settings.log_level) {
        // Between a question and its answer only the plugins' own lines and trouble are wanted.
        (Command::Call(_) | Command::Demo, None) => "warn,plugin=info",
        (Command::Plugin { .. } | Command::Health { .. } | Command::Doctor(_), None) => "warn",
        _ => &config.log.level,
    };
    // Fails only where logging is set up already or the level is none, which the configuration has checked.
    if let Err(error) = crate::telemetry::init(level) {
        output::error(&error.to_string());
        return ExitCode::from(2);
    }
    let run = |runtime: tokio::runtime::Runtime| {
        let ended = runtime.block_on(dispatch(cli.command, &config));
        // All that had to be finished is; a look at a disk that has gone is not waited for.
        runtime.shutdown_background();
        ended
    };
    match runtime().and_then(run) {
        Ok(code) => code,
        Err(error) => {
            output::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// One thread runs everything: the bridge waits far more than it works, and order costs nothing this way.
/// Files are read on one or two more, which end when they are idle.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?)
}

async fn dispatch(command: Command, config: &Config) -> Ended {
    match command {
        Command::Run => run::run(config).await,
        Command::Demo => demo::demo(config).await,
        Command::Call(arguments) => call::call(config, &arguments).await,
        Command::Plugin { command } => plugin::plugin(config, &command).await,
        Command::Doctor(arguments) => doctor::doctor(config, &arguments).await,
        Command::Health { json } => health::health(config, json).await,
        Command::Config { command: ConfigCommand::Show { json } } => {
            let format = if json { config::Format::Json } else { config::Format::Toml };
            output::print(&config::show(config, format));
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl SettingFlags {
    fn sources(&self) -> Sources {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let flags = [
            ("paths.plugins", "--plugins", path(&self.plugins)),
            ("paths.data", "--data-dir", path(&self.data_dir)),
            ("mqtt.url", "--broker", self.broker.clone()),
            ("log.level", "--log-level", self.log_level.clone()),
        ];
        let flags =
            flags.into_iter().filter_map(|(key, name, value)| Some(Flag { key, value: value?, name }));
        Sources::of_process(self.config.clone(), flags.collect())
    }
}
