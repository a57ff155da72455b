//! `call`: one hook, once, with nothing committed and nothing published.

use std::process::ExitCode;

use clap::Args;

use super::{Ended, output};
use crate::{app, bridge, config::Config, model::Status};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// on_chat, on_command, on_automation, on_startup, on_shutdown, filter_message, filter_response, …
    hook: String,
    /// What the hook gets: JSON or text, as it would be published.
    #[arg(default_value = "")]
    payload: String,
    /// Ask this plugin alone.
    #[arg(long, value_name = "ID")]
    plugin: Option<String>,
    /// Print the envelope as one line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn call(config: &Config, arguments: &Arguments) -> Ended {
    let (plugins, bus) = app::dry(config, None).await?;
    plugins.scan().await?;
    for refused in plugins.registry().list().iter().filter(|plugin| plugin.last_error.is_some()) {
        output::remark(&format!("({})", super::run::describe(refused)));
    }
    // What starting and stopping publish is not the hook's.
    let before = bus.noted().len();
    let once = bridge::Once {
        hook: &arguments.hook,
        payload: arguments.payload.as_bytes(),
        limit: config.limits.payload,
        plugin: arguments.plugin.as_deref(),
    };
    let envelope = bridge::call_once(plugins.registry(), once).await;
    let noted = bus.noted();
    plugins.stop().await;
    for publish in &noted[before..] {
        let payload = String::from_utf8_lossy(publish.payload.as_bytes()).into_owned();
        output::remark(&format!("(would publish {} {payload})", publish.topic));
    }
    let text = match arguments.json {
        true => serde_json::to_string(&envelope)?,
        false => serde_json::to_string_pretty(&envelope)?,
    };
    output::line(&text);
    Ok(match envelope.status {
        Status::Ok => ExitCode::SUCCESS,
        Status::Error => ExitCode::FAILURE,
    })
}
