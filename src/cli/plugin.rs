//! `plugin`: what plugins there are.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Ended, health, output};
use crate::{app, config::Config};

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// List the plugins of the running bridge; where none runs, those in the plugin directory, without
    /// running their code.
    List {
        /// Print one line of JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn plugin(config: &Config, command: &PluginCommand) -> Ended {
    let PluginCommand::List { json } = command;
    let list = match health::ask(config, "plugin/list").await {
        Ok(list) => list,
        Err(error) if health::is_absent(&error) => {
            output::remark(&format!("({error}; this is what lies in {})", config.paths.plugins.display()));
            from_directory(config).await?
        }
        Err(error) => return Err(error),
    };
    match json {
        true => output::line(&list.to_string()),
        false => output::print(&table(&list)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The metadata of what is in the directory.
async fn from_directory(config: &Config) -> anyhow::Result<Value> {
    let (plugins, _) = app::dry(config, None).await?;
    let mut list: Vec<Value> = plugins
        .list_plugins()
        .into_iter()
        .map(|plugin| {
            let manifest = plugin.manifest;
            json!({
                "id": manifest.id, "name": manifest.name, "version": manifest.version.to_string(),
                "enabled": true, "state": "discovered", "hooks": [], "last_error": null,
            })
        })
        .collect();
    list.extend(plugins.registry().list().into_iter().map(|refused| json!(refused)));
    Ok(Value::Array(list))
}

/// Columns for a person.
fn table(list: &Value) -> String {
    let plugins = list.as_array().map(Vec::as_slice).unwrap_or_default();
    if plugins.is_empty() {
        return "no plugins\n".into();
    }
    let rows: Vec<[String; 4]> = plugins.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    let line = |row: &[String; 4]| {
        let [id, version, state, rest] = row;
        let [first, second, third] = widths;
        format!("{id:first$}  {version:second$}  {state:third$}  {rest}").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn row(plugin: &Value) -> [String; 4] {
    let text = |key: &str| plugin[key].as_str().unwrap_or("").to_owned();
    let hooks = plugin["hooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let hooks: Vec<&str> = hooks.iter().filter_map(Value::as_str).collect();
    let rest = match plugin["last_error"].as_str() {
        // Behind its first line an error has where it came from, which is for `bridge/plugins`.
        Some(error) => error.lines().next().unwrap_or_default().to_owned(),
        None if hooks.is_empty() => text("name"),
        None => hooks.join(", "),
    };
    [text("id"), text("version"), text("state"), rest]
}
