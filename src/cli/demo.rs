//! `demo`: a newcomer's first minute. A real bridge, a real broker, real messages, and nothing left behind.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::Instant};

use super::{Ended, output};
use crate::{
    app::App,
    config::{Config, Flag, Sources},
    model::{Filter, Topic},
    mqtt::{self, client::Client},
};

/// The plugins that are shipped with the source.
const SHIPPED: [(&str, &str); 5] = [
    ("automation_plugin.lua", include_str!("../../plugins/automation_plugin.lua")),
    ("command_plugin.lua", include_str!("../../plugins/command_plugin.lua")),
    ("custom_plugin.lua", include_str!("../../plugins/custom_plugin.lua")),
    ("filter_plugin.lua", include_str!("../../plugins/filter_plugin.lua")),
    ("welcome_plugin.lua", include_str!("../../plugins/welcome_plugin.lua")),
];
/// What each answer gets; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn demo(_: &Config) -> Ended {
    let directory = Scratch::new()?;
    let config = directory.config()?;
    let app = App::start(&config, None).await.context("the bridge does not start")?;
    app.load().await?;
    let (address, _) = app.broker();
    let names: Vec<String> = app.plugins().registry().list().into_iter().map(|plugin| plugin.id).collect();
    output::line(&format!("A bridge on mqtt://{address} with the shipped plugins: {}\n", names.join(", ")));
    let connection = app.connection();
    let (stop, stopped) = oneshot::channel::<()>();
    let bridge = app.run(async {
        // Ends when the conversation below drops its end.
        let _ = stopped.await;
    });
    let conversation = async {
        let result = converse(&connection).await;
        drop(stop);
        result
    };
    let ((), answered) = tokio::join!(bridge, conversation);
    answered?;
    output::line("That was it. `jarvis-bridge run` starts one that stays.");
    Ok(ExitCode::SUCCESS)
}

/// One chat message, one command, one automation, each with its answer.
async fn converse(connection: &mqtt::Config) -> anyhow::Result<()> {
    let requests = [
        ("chat", json!({ "content": "Hello   Jarvis" })),
        ("command", json!({ "name": "help" })),
        ("automation", json!({ "name": "morning", "type": "schedule", "status": "finished" })),
    ];
    let mut client = Client::connect(connection, &Filter::parse("jarvis/+/response")?, PATIENCE).await?;
    for (channel, request) in requests {
        let topic = Topic::parse(&format!("jarvis/{channel}/request"))?;
        output::line(&format!("$ mosquitto_pub -q 1 -t {topic} -m '{request}'"));
        client.publish(&topic, request.to_string().into_bytes(), None)?;
        let heard = client.next(Instant::now() + PATIENCE).await;
        let heard = heard.with_context(|| format!("no answer to the message on `{topic}`"))?;
        let envelope: Value = serde_json::from_slice(&heard.payload).context("the answer is no JSON")?;
        output::line(&format!("{}\n{envelope:#}\n", heard.topic));
        anyhow::ensure!(envelope["status"] == "ok", "the answer says that something went wrong");
    }
    Ok(())
}

/// A directory that goes with this value.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let name = format!("jarvis-bridge-demo-{}", uuid::Uuid::now_v7().simple());
        let scratch = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(scratch.plugins())?;
        for (file, source) in SHIPPED {
            std::fs::write(scratch.plugins().join(file), source)?;
        }
        Ok(scratch)
    }

    fn plugins(&self) -> PathBuf {
        self.0.join("plugins")
    }

    /// The shipped defaults, and nothing of the user's own.
    fn config(&self) -> anyhow::Result<Config> {
        let flag = |key, value: &Path| Flag { key, value: value.display().to_string(), name: "demo" };
        let flags = vec![
            flag("paths.plugins", &self.plugins()),
            flag("paths.data", &self.0.join("data")),
            Flag { key: "broker.listen", value: "127.0.0.1:0".into(), name: "demo" },
        ];
        let file = self.0.join("empty.toml");
        std::fs::write(&file, "")?;
        let sources = Sources { file: Some(file), environment: std::collections::BTreeMap::new(), flags };
        Ok(Config::load(&sources)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, directory = %self.0.display(), "could not be removed");
        }
    }
}
