//! `run`: the bridge, until it is told to stop.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::{Ended, output};
use crate::{app::App, config::Config, plugin::PluginInfo};

pub(super) async fn run(config: &Config) -> Ended {
    raise_file_limit();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let app = App::start(config, None).await?;
    let loaded = tokio::select! {
        loaded = app.load() => Some(loaded?),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    if loaded.is_some() {
        output::print(&banner(config, &app));
    }
    app.run(async {
        if loaded.is_some() {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        tokio::spawn(async move {
            // Whoever asks twice does not want to wait.
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            std::process::exit(1);
        });
    })
    .await;
    Ok(ExitCode::SUCCESS)
}

/// Takes all the file descriptors that the system lets this process have: each worker needs three.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it was");
    }
}

/// What a person who just started it wants to know.
fn banner(config: &Config, app: &App) -> String {
    let base = &config.mqtt.base_topic;
    let (address, own) = app.broker();
    let whose = if own { "its own, on this machine only" } else { "yours" };
    let plugins = app.plugins().registry().list();
    let mut text = format!("jarvis-bridge {}\n", env!("CARGO_PKG_VERSION"));
    text.push_str(&format!("  broker   mqtt://{address} ({whose})\n"));
    text.push_str(&format!("  topics   {base}/{{chat,command,automation,event,bridge}}/request/#\n"));
    let reload = if config.reload.watch { "a saved file takes effect at once" } else { "reload is off" };
    text.push_str(&format!("  plugins  {} ({reload})\n", config.paths.plugins.display()));
    if plugins.is_empty() {
        text.push_str("           none yet: put a .lua file there\n");
    }
    for plugin in &plugins {
        text.push_str(&format!("           {}\n", describe(plugin)));
    }
    let to = address_flags(&address);
    text.push_str(&format!(
        "\nTry, with `mosquitto_sub{to} -v -t '{base}/#'` in another window:\n  \
         mosquitto_pub{to} -q 1 -t {base}/chat/request -m 'Hello'\n  \
         mosquitto_pub{to} -q 1 -t {base}/command/request -m help\n  \
         mosquitto_pub{to} -q 1 -t {base}/automation/request -m \
         '{{\"name\":\"morning\",\"status\":\"finished\"}}'\n\n"
    ));
    text
}

/// One line about a plugin.
pub(super) fn describe(plugin: &PluginInfo) -> String {
    match plugin.last_error.as_ref().and_then(|error| error.lines().next()) {
        Some(error) if plugin.version.is_empty() => format!("{}: refused: {error}", plugin.name),
        Some(error) => format!("{} {}: {error}", plugin.id, plugin.version),
        None => format!("{} {}: {}", plugin.id, plugin.version, plugin.hooks.join(", ")),
    }
}

/// The flags with which Mosquitto's clients find the broker; none for the address they assume.
fn address_flags(address: &str) -> String {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "1883"));
    let host = host.trim_matches(['[', ']']);
    let host = if matches!(host, "127.0.0.1" | "localhost") { String::new() } else { format!(" -h {host}") };
    let port = if port == "1883" { String::new() } else { format!(" -p {port}") };
    host + &port
}

#[cfg(test)]
mod tests {
    use super::address_flags;

    #[test]
    fn flags_for_other_clients() {
        assert_eq!(address_flags("127.0.0.1:1883"), "");
        assert_eq!(address_flags("127.0.0.1:2883"), " -p 2883");
        assert_eq!(address_flags("nas.local:1883"), " -h nas.local");
        assert_eq!(address_flags("[fe80::1]:8883"), " -h fe80::1 -p 8883");
    }
}
