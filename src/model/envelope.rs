//! The envelope: the one answer that every request gets.

use serde::Serialize;
use serde_json::value::RawValue;

use super::{failure::ErrorCode, id::PluginId, message::Echo};

/// Whether something worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It did.
    Ok,
    /// It did not; `error` and `code` say why.
    Error,
}

/// What one plugin said to one request.
#[derive(Debug, Clone, Serialize)]
pub struct PluginResult {
    /// Who.
    pub plugin: PluginId,
    /// Whether its hook came back.
    pub status: Status,
    /// What it returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The kind of failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// How long the hook ran, in milliseconds.
    pub duration_ms: f64,
}

/// The answer to a request, whatever happened.
#[derive(Debug, Clone, Serialize)]
pub struct Envelope {
    /// What the request brought and gets back.
    #[serde(flatten)]
    pub echo: Echo,
    /// Whether the request was answered.
    pub status: Status,
    /// The hook that was called, where one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook: Option<&'static str>,
    /// The command, automation, event or operation asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The text for the user.
    pub response: Option<String>,
    /// The result that `response` came from, or else the first result.
    pub data: Option<Box<RawValue>>,
    /// What went wrong, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What went wrong, for a program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// Every plugin that answered or failed, in the order they were asked.
    pub results: Vec<PluginResult>,
    /// When it was made: RFC 3339, UTC, milliseconds.
    pub timestamp: String,
    /// From the request's arrival to this, in milliseconds.
    pub duration_ms: f64,
}
