//! Logs to standard error. Knows which dependencies chatter, never what is logged.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, filter::LevelFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// Dependencies that say at `info` and below what only their authors want to know.
const NOISY: [&str; 6] = ["rumqttc", "mqtt5", "hyper", "hyper_util", "reqwest", "notify"];

/// What is wrong with the setting of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TelemetryError {
    /// A level that is none.
    #[error(
        "`{found}` is no log level: write error, warn, info, debug, trace or off; or per part, as in \
         `info,jarvis_bridge::mqtt=debug`"
    )]
    Level {
        /// The part that is not understood.
        found: String,
    },
    /// Somebody else in this process has set up logging before.
    #[error("logging is already set up in this process")]
    Taken,
}

/// Starts logging at a level such as `info` or `info,jarvis_bridge::mqtt=debug`.
///
/// # Errors
/// When it is not a level, or logging is already set up.
pub fn init(level: &str) -> Result<(), TelemetryError> {
    let filter = filter(level)?;
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer().compact().with_writer(io::stderr).with_ansi(colours);
    let registry = tracing_subscriber::registry().with(filter);
    // The journal has a time of its own for every line.
    let started = if writes_to_journal() {
        registry.with(lines.without_time()).try_init()
    } else {
        registry.with(lines).try_init()
    };
    started.map_err(|_| TelemetryError::Taken)
}

/// Says what is wrong with a level, without starting anything.
///
/// # Errors
/// When it is not a level.
pub fn check_level(level: &str) -> Result<(), TelemetryError> {
    filter(level).map(drop)
}

/// The user's directives, and the noisy dependencies held down where the user names no level for them.
fn filter(level: &str) -> Result<EnvFilter, TelemetryError> {
    let directives = level.split(',').map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>();
    let bad = |found: &str| TelemetryError::Level { found: found.into() };
    if directives.is_empty() {
        return Err(bad(level));
    }
    if let Some(found) = directives.iter().find(|part| !is_directive(part)) {
        return Err(bad(found));
    }
    let quiet = quiet_directives(&directives);
    let all = quiet.iter().map(String::as_str).chain(directives).collect::<Vec<_>>().join(",");
    EnvFilter::builder().parse(all).map_err(|_| bad(level))
}

/// `EnvFilter` takes any word for a target: a misspelt `inof` would switch the log off without a word.
fn is_directive(part: &str) -> bool {
    let Some((target, level)) = part.rsplit_once('=').filter(|_| !part.ends_with(']')) else {
        return part.parse::<LevelFilter>().is_ok() || part.contains("::");
    };
    !target.is_empty() && level.parse::<LevelFilter>().is_ok()
}

/// `warn` for each noisy dependency, where the level for all is more than that.
fn quiet_directives(directives: &[&str]) -> Vec<String> {
    let for_all = directives.iter().filter_map(|part| part.parse::<LevelFilter>().ok()).next_back();
    if for_all.is_none_or(|level| level <= LevelFilter::WARN) {
        return Vec::new();
    }
    let named = |target: &str| directives.iter().any(|part| part.starts_with(target));
    NOISY.iter().filter(|target| !named(target)).map(|target| format!("{target}=warn")).collect()
}

/// Whether standard error is the journal's own stream: systemd says which it is, and a shell that was started
/// from a service may have inherited the variable but not the stream.
fn writes_to_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(stat) = rustix::fs::fstat(io::stderr()) else { return false };
    stream == format!("{}:{}", stat.st_dev, stat.st_ino)
}

#[cfg(test)]
mod tests {
    use super::{check_level, filter};

    #[test]
    fn noisy_dependencies_are_held_down_where_nobody_names_them() {
        let check = |level: &str, has: &[&str], lacks: &[&str]| {
            let text = filter(level).unwrap().to_string();
            let directives = text.split(',').collect::<Vec<_>>();
            assert!(has.iter().all(|one| directives.contains(one)), "{level}: {text}");
            assert!(!lacks.iter().any(|one| directives.contains(one)), "{level}: {text}");
        };
        check("info", &["info", "rumqttc=warn", "hyper=warn", "notify=warn"], &[]);
        check("DEBUG", &["debug", "rumqttc=warn"], &[]);
        check("debug,rumqttc=trace", &["debug", "rumqttc=trace", "hyper=warn"], &["rumqttc=warn"]);
        check("debug,rumqttc::v5=trace", &["rumqttc::v5=trace"], &["rumqttc=warn"]);
        check("info, jarvis_bridge::mqtt=debug", &["info", "jarvis_bridge::mqtt=debug"], &[]);
        // They must not become louder than everything else.
        check("error", &["error"], &["rumqttc=warn"]);
        check("off", &["off"], &["rumqttc=warn"]);
        check("jarvis_bridge=debug", &["jarvis_bridge=debug"], &["rumqttc=warn"]);
    }

    #[test]
    fn bad_levels_name_the_part_and_what_is_allowed() {
        let check = |level: &str, found: &str| {
            let error = check_level(level).unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{found}` is no log level: write error, warn,")));
        };
        check("inof", "inof");
        check("", "");
        check("info,loud", "loud");
        check("info,jarvis_bridge=loud", "jarvis_bridge=loud");
        check("=debug", "=debug");
    }
}
