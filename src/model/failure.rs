//! Why something did not work: a code for programs and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The `code` of an envelope whose `status` is `"error"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The payload cannot be read, or a field of it is missing or of the wrong type.
    InvalidPayload,
    /// No such channel, or no such path below it.
    UnknownChannel,
    /// Nobody answered this command.
    UnknownCommand,
    /// No plugin bears this id.
    UnknownPlugin,
    /// No such operation of the bridge.
    UnknownOperation,
    /// The plugin raised an error.
    HookError,
    /// The plugin returned what cannot be sent.
    InvalidResult,
    /// The hook did not come back within its limit.
    Timeout,
    /// The plugin wanted more memory than it may have.
    MemoryLimit,
    /// A payload or result above the limit.
    TooLarge,
    /// More of something than the limit allows.
    RateLimited,
    /// A filter stopped the message.
    Cancelled,
    /// The request came too late.
    Expired,
    /// The plugin or the bridge cannot do this now.
    Unavailable,
    /// The plugin is switched off.
    Disabled,
    /// The setting or the permission for this is missing.
    Forbidden,
    /// A code that a plugin chose itself with `error{code = …}`.
    #[serde(untagged)]
    Plugin(String),
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Plugin(code) = self {
            return formatter.write_str(code);
        }
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        formatter.write_str(text.trim_matches('"'))
    }
}

/// A failure that a user will read: which kind it is, and what to do about it.
///
/// Written and read again it stays what it is: a plugin that calls its own error `timeout` has not passed a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(from = "Written", into = "Written")]
#[error("{message}")]
pub struct Failure {
    /// The kind.
    pub code: ErrorCode,
    /// A sentence that names the plugin, and its line where there is one.
    pub message: String,
    /// Where in the plugin it came from, one call of the stack a line as Lua's `debug.traceback` writes them, the
    /// innermost first; empty where nothing is known. For who looks after the plugin, never for who asked it.
    pub traceback: String,
}

/// A failure in a frame.
#[derive(Serialize, Deserialize)]
struct Written {
    code: ErrorCode,
    message: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    traceback: String,
    /// Whether the plugin chose the code, which may read as one of the bridge's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    own: bool,
}

impl From<Failure> for Written {
    fn from(failure: Failure) -> Self {
        let Failure { code, message, traceback } = failure;
        let own = matches!(code, ErrorCode::Plugin(_));
        Self { code, message, traceback, own }
    }
}

impl From<Written> for Failure {
    fn from(written: Written) -> Self {
        let Written { code, message, traceback, own } = written;
        let code = if own { ErrorCode::Plugin(code.to_string()) } else { code };
        Self { code, message, traceback }
    }
}

impl Failure {
    /// Joins a code and its sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), traceback: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorCode, Failure};

    #[test]
    fn a_plugins_own_code_is_never_taken_for_the_bridges() {
        for code in
            [ErrorCode::Timeout, ErrorCode::Plugin("timeout".into()), ErrorCode::Plugin("no_milk".into())]
        {
            let failure = Failure::new(code, "no");
            let text = serde_json::to_string(&failure).unwrap();
            assert_eq!(serde_json::from_str::<Failure>(&text).unwrap(), failure, "{text}");
        }
    }

    #[test]
    fn codes_are_written_in_snake_case_and_plugin_codes_as_they_are() {
        assert_eq!(ErrorCode::InvalidPayload.to_string(), "invalid_payload");
        assert_eq!(serde_json::to_string(&ErrorCode::MemoryLimit).unwrap(), "\"memory_limit\"");
        assert_eq!(serde_json::to_string(&ErrorCode::Plugin("no_milk".into())).unwrap(), "\"no_milk\"");
        assert_eq!(serde_json::from_str::<ErrorCode>("\"timeout\"").unwrap(), ErrorCode::Timeout);
        assert_eq!(
            serde_json::from_str::<ErrorCode>("\"no_milk\"").unwrap(),
            ErrorCode::Plugin("no_milk".into())
        );
    }
}
