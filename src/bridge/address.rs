//! What a topic asks for: a channel and the path below it.

use crate::model::{ErrorCode, Failure, Topic, message::is_event_name};

/// Bytes of a name in a topic.
const MAX_NAME: usize = 128;

/// The five channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Chat,
    Command,
    Automation,
    Event,
    Bridge,
}

const CHANNELS: [(&str, Channel); 5] = [
    ("chat", Channel::Chat),
    ("command", Channel::Command),
    ("automation", Channel::Automation),
    ("event", Channel::Event),
    ("bridge", Channel::Bridge),
];

/// A request's topic, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) channel: Channel,
    /// What stands behind `request/`; nothing where the topic ends there.
    pub(super) path: Option<String>,
    /// Where the answer goes unless the request says otherwise.
    pub(super) fixed: Topic,
}

/// A topic that cannot be answered as it asks, and where that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misaddressed {
    pub(super) fixed: Topic,
    pub(super) failure: Failure,
}

/// Whether a topic is a request to the bridge.
pub(super) fn is_request(base: &Topic, topic: &str) -> bool {
    split(base, topic).is_some()
}

/// Reads the topic of a request; nothing where it is none.
pub(super) fn read(base: &Topic, topic: &str) -> Option<Result<Address, Misaddressed>> {
    let (channel, path) = split(base, topic)?;
    Some(address(base, channel, path))
}

/// The channel and the path, of `<base>/<channel>/request[/<path>]`.
fn split<'topic>(base: &Topic, topic: &'topic str) -> Option<(&'topic str, Option<&'topic str>)> {
    let rest = topic.strip_prefix(base.as_str())?.strip_prefix('/')?;
    let (channel, rest) = rest.split_once('/')?;
    match rest.strip_prefix("request")? {
        "" => Some((channel, None)),
        path => Some((channel, Some(path.strip_prefix('/')?))),
    }
}

fn address(base: &Topic, name: &str, path: Option<&str>) -> Result<Address, Misaddressed> {
    let known = CHANNELS.iter().find(|(known, _)| *known == name);
    let astray = |message: String| {
        let fixed = answer_topic(base, &["bridge/response", name]);
        Misaddressed { fixed, failure: Failure::new(ErrorCode::UnknownChannel, message) }
    };
    let Some((name, channel)) = known else {
        return Err(astray(unknown_channel(name)));
    };
    let Some(path) = path else {
        let fixed = answer_topic(base, &[name, "response"]);
        return Ok(Address { channel: *channel, path: None, fixed });
    };
    if path.split('/').any(str::is_empty) {
        return Err(astray(format!("the topic has an empty level behind `{name}/request`")));
    }
    if *channel == Channel::Chat && path != "assistant" {
        let path: String = path.chars().take(80).collect();
        return Err(astray(format!("there is no `chat/request/{path}`: use `chat/request`")));
    }
    // What an event may be called is its channel's own rule.
    let checked = match channel {
        Channel::Event if is_event_name(path) => Ok(()),
        _ => check_name(path),
    };
    if let Err(message) = checked {
        let fixed = answer_topic(base, &[name, "response"]);
        return Err(Misaddressed { fixed, failure: Failure::new(ErrorCode::InvalidPayload, message) });
    }
    let fixed = match channel {
        Channel::Chat => answer_topic(base, &[name, "response"]),
        Channel::Command | Channel::Automation | Channel::Event | Channel::Bridge => {
            answer_topic(base, &[name, "response", path])
        }
    };
    Ok(Address { channel: *channel, path: Some(path.to_owned()), fixed })
}

/// Checks a name that came in a topic or payload: one or more non-empty levels of letters, digits and
/// `_ . -`.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.len() > MAX_NAME {
        return Err(format!("the name has {} bytes, at most {MAX_NAME} are allowed", name.len()));
    }
    let level = |level: &str| {
        !level.is_empty() && level.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))
    };
    if name.split('/').all(level) {
        return Ok(());
    }
    let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    Err(format!("`{shown}` is not a name: only letters, digits, `_`, `.` and `-`, and `/` between levels"))
}

fn unknown_channel(name: &str) -> String {
    let names: Vec<&str> = CHANNELS.iter().map(|(name, _)| *name).collect();
    let shown: String = name.chars().filter(|c| !c.is_control()).take(80).collect();
    let nearest = names.iter().min_by_key(|known| strsim::damerau_levenshtein(known, &shown));
    let hint = match nearest.filter(|known| strsim::damerau_levenshtein(known, &shown) <= 2) {
        Some(known) => format!("did you mean `{known}`?"),
        None => format!("there are {}", names.join(", ")),
    };
    format!("there is no channel `{shown}`: {hint}")
}

/// A topic below the base; where its last part would make it unfit to publish to, without that part.
fn answer_topic(base: &Topic, parts: &[&str]) -> Topic {
    let join = |parts: &[&str]| Topic::parse(&format!("{base}/{}", parts.join("/")));
    let shorter = &parts[..parts.len().saturating_sub(1).max(1)];
    join(parts).or_else(|_| join(shorter)).unwrap_or_else(|_| base.clone())
}

#[cfg(test)]
mod tests {
    use super::{Channel, Topic, read};

    #[test]
    fn topics() {
        let check = |topic: &str, expect: Option<(Channel, Option<&str>, &str)>| {
            let address = read(&Topic::parse("home/jarvis").unwrap(), topic).map(Result::unwrap);
            let read = address.as_ref().map(|a| (a.channel, a.path.as_deref(), a.fixed.as_str()));
            assert_eq!(read, expect, "{topic}");
        };
        check("home/jarvis/chat/request", Some((Channel::Chat, None, "home/jarvis/chat/response")));
        check(
            "home/jarvis/chat/request/assistant",
            Some((Channel::Chat, Some("assistant"), "home/jarvis/chat/response")),
        );
        check(
            "home/jarvis/command/request/lights/off",
            Some((Channel::Command, Some("lights/off"), "home/jarvis/command/response/lights/off")),
        );
        check(
            "home/jarvis/bridge/request/plugin/list",
            Some((Channel::Bridge, Some("plugin/list"), "home/jarvis/bridge/response/plugin/list")),
        );
        check(
            "home/jarvis/event/request/door:open",
            Some((Channel::Event, Some("door:open"), "home/jarvis/event/response/door:open")),
        );
        for other in ["home/jarvis/chat/response", "jarvis/chat/request", "home/jarvis/chat/requests", "x"] {
            check(other, None);
        }
    }

    #[test]
    fn what_is_misaddressed_is_answered_somewhere() {
        let check = |topic: &str, fixed: &str, message: &str| {
            let error = read(&Topic::parse("jarvis").unwrap(), topic).unwrap().unwrap_err();
            assert_eq!(error.fixed.as_str(), fixed);
            assert!(error.failure.message.contains(message), "{}", error.failure.message);
        };
        check("jarvis/comand/request", "jarvis/bridge/response/comand", "did you mean `command`?");
        check("jarvis/x/request/y", "jarvis/bridge/response/x", "there are chat, command");
        check("jarvis/command/request//x", "jarvis/bridge/response/command", "empty level");
        check("jarvis/command/request/", "jarvis/bridge/response/command", "empty level");
        check("jarvis/chat/request/x", "jarvis/bridge/response/chat", "use `chat/request`");
        check("jarvis/event/request/a b", "jarvis/event/response", "`a b` is not a name");
        check("jarvis/command/request/a b", "jarvis/command/response", "`a b` is not a name");
        let long = format!("jarvis/command/request/{}", "x".repeat(60_000));
        check(&long, "jarvis/command/response", "the name has 60000 bytes, at most 128 are allowed");
    }
}
