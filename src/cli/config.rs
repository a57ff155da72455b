//! `config show`: what is set, and where each value came from. Prints nothing itself.

use crate::config::{self, Config};

/// How the configuration is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// TOML with the sources as comments.
    Toml,
    /// JSON with a `value` and a `source` for every key.
    Json,
}

/// The text that `config show` prints, with a line break at its end; secrets are masked.
#[must_use]
pub(super) fn show(config: &Config, format: Format) -> String {
    match format {
        Format::Toml => config::show(config),
        Format::Json => format!("{:#}\n", config::show_json(config)),
    }
}
