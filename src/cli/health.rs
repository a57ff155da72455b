//! `health`: asks the running bridge how it is.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{Ended, output};
use crate::{
    app,
    config::Config,
    model::Topic,
    mqtt::client::{self, ClientError},
};

/// What a running bridge gets to answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) async fn health(config: &Config, json: bool) -> Ended {
    let report = ask(config, "health").await?;
    match json {
        true => output::line(&report.to_string()),
        false => output::line(&format!("{report:#}")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the running bridge for one operation, and gives its data.
pub(super) async fn ask(config: &Config, operation: &str) -> anyhow::Result<Value> {
    let base = &config.mqtt.base_topic;
    let topic = Topic::parse(&format!("{base}/bridge/request/{operation}"))?;
    let answer_on = Topic::parse(&format!("{base}/reply/{}", uuid::Uuid::now_v7().simple()))?;
    let connection = app::client_connection(config)?;
    let answer = client::ask(&connection, &topic, Vec::new(), &answer_on, PATIENCE).await?;
    let mut envelope: Value = serde_json::from_slice(&answer).context("the bridge's answer is no JSON")?;
    if let Some(error) = envelope["error"].as_str() {
        bail!("the bridge says: {error}");
    }
    Ok(envelope["data"].take())
}

/// Whether an error says that no bridge is there, and not that it said something.
pub(super) fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ClientError>().is_some()
}
