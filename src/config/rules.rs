//! Every key with what it may hold, in the order of `config/default.toml`. Holds no default: those are there.

use std::{net::SocketAddr, ops::RangeInclusive};

use crate::{
    model::{Filter, Topic},
    telemetry,
};

/// What a key may hold.
pub(super) enum Rule {
    /// true or false.
    Switch,
    /// A whole number in a range.
    Whole(RangeInclusive<i64>),
    /// A text, and what it must look like.
    Text(TextRule),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list of texts.
    Texts(TextRule),
}

/// Says what is wrong with a text and what to write instead.
type TextRule = fn(&str) -> Result<(), String>;

/// One packet, MQTT 5 §2.1.4.
const MAX_PACKET: i64 = 268_435_455;
/// Half a day: whoever wants a hook or a request to run longer has mistyped.
const MAX_MS: i64 = 43_200_000;
/// What fits into a frame to a worker, also when every byte of it needs an escape.
const MAX_IN_FRAME: i64 = 2 * 1024 * 1024;
/// A gibibyte.
const GIB: i64 = 1024 * 1024 * 1024;

/// The keys of all sections but `[plugins]`.
pub(super) const RULES: &[(&str, Rule)] = &[
    ("paths.plugins", Rule::Text(not_empty)),
    ("paths.data", Rule::Text(any)),
    ("mqtt.url", Rule::Text(broker_url)),
    ("mqtt.username", Rule::Text(mqtt_text)),
    ("mqtt.password", Rule::Text(mqtt_text)),
    ("mqtt.base_topic", Rule::Text(base_topic)),
    ("mqtt.client_id", Rule::Text(mqtt_text)),
    ("mqtt.keep_alive", Rule::Whole(5..=65_535)),
    ("mqtt.session_expiry", Rule::Whole(1..=4_294_967_295)),
    ("mqtt.receive_maximum", Rule::Whole(1..=65_535)),
    ("mqtt.max_packet_size", Rule::Whole(1_024..=MAX_PACKET)),
    ("mqtt.reply_topics", Rule::Texts(filter)),
    ("broker.listen", Rule::Text(loopback)),
    ("bridge.admin_over_mqtt", Rule::OneOf(&["auto", "full", "read", "off"])),
    ("bridge.health_interval", Rule::Whole(1..=86_400)),
    ("bridge.shutdown_timeout", Rule::Whole(1..=600)),
    ("delivery.park_after", Rule::Whole(1..=MAX_MS)),
    ("chat.assistant", Rule::OneOf(&["none", "external"])),
    ("chat.timeout", Rule::Whole(1..=3_600)),
    ("chat.slash_commands", Rule::Switch),
    ("limits.payload", Rule::Whole(256..=MAX_IN_FRAME)),
    ("limits.hook_cpu_ms", Rule::Whole(1..=MAX_MS)),
    ("limits.hook_wall_ms", Rule::Whole(1..=MAX_MS)),
    ("limits.hook_total_ms", Rule::Whole(1..=MAX_MS)),
    ("limits.max_timeout_ms", Rule::Whole(1..=MAX_MS)),
    ("limits.memory", Rule::Whole(1_048_576..=GIB)),
    ("limits.max_memory", Rule::Whole(1_048_576..=GIB)),
    ("limits.plugins", Rule::Whole(0..=1_000)),
    ("limits.result", Rule::Whole(256..=MAX_IN_FRAME)),
    // serde_json itself reads no deeper than 128.
    ("limits.depth", Rule::Whole(1..=100)),
    ("limits.nodes", Rule::Whole(1..=1_000_000)),
    ("limits.outputs", Rule::Whole(1..=10_000)),
    ("limits.http", Rule::Whole(0..=10_000)),
    ("limits.requests", Rule::Whole(0..=1_000_000)),
    ("limits.logs_per_second", Rule::Whole(1..=10_000)),
    ("limits.state", Rule::Whole(0..=1_048_576)),
    ("limits.handlers", Rule::Whole(0..=10_000)),
    ("limits.timers", Rule::Whole(0..=10_000)),
    ("limits.mailbox", Rule::Whole(1..=100_000)),
    ("limits.backlog", Rule::Whole(1..=100_000)),
    ("breaker.failures", Rule::Whole(1..=10_000)),
    ("breaker.pause", Rule::Whole(1..=86_400)),
    ("breaker.kills", Rule::Whole(1..=1_000)),
    ("breaker.kills_within", Rule::Whole(1..=86_400)),
    ("http.timeout_ms", Rule::Whole(1..=MAX_MS)),
    ("http.max_timeout_ms", Rule::Whole(1..=MAX_MS)),
    ("http.max_body", Rule::Whole(0..=MAX_IN_FRAME)),
    ("http.redirects", Rule::Whole(0..=20)),
    ("reload.watch", Rule::Switch),
    ("location.timezone", Rule::Text(timezone)),
    ("log.level", Rule::Text(log_level)),
];

/// Keys of which the first must not be above the second.
pub(super) const ORDERED: &[(&str, &str)] = &[
    ("limits.payload", "mqtt.max_packet_size"),
    ("limits.hook_wall_ms", "limits.max_timeout_ms"),
    ("limits.memory", "limits.max_memory"),
    ("http.timeout_ms", "http.max_timeout_ms"),
];

/// The rule of a key, as in `mqtt.url`.
pub(super) fn find(key: &str) -> Option<&'static Rule> {
    RULES.iter().find(|(known, _)| *known == key).map(|(_, rule)| rule)
}

fn any(_: &str) -> Result<(), String> {
    Ok(())
}

fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("is empty, name a directory".into()) } else { Ok(()) }
}

/// A string of an MQTT packet (MQTT 5 §1.5.4).
fn mqtt_text(text: &str) -> Result<(), String> {
    if text.len() > 65_535 || text.contains('\0') {
        return Err("is longer than 65,535 bytes or has a NUL, MQTT cannot send that".into());
    }
    Ok(())
}

/// Empty, or `mqtt://[user[:password]@]host[:port]`; `tcp://` is the same. The texts must not repeat the URL:
/// there may be a password in it.
fn broker_url(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let form = "write `mqtt://host`, `mqtt://host:port` or `mqtt://user:password@host`";
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(format!("has no scheme, {form}"));
    };
    let scheme = scheme.to_ascii_lowercase();
    if ["mqtts", "ssl", "ws", "wss"].contains(&scheme.as_str()) {
        return Err(format!("begins with `{scheme}://`, but only plain MQTT over TCP is supported, {form}"));
    }
    if !["mqtt", "tcp"].contains(&scheme.as_str()) {
        return Err(format!("begins with an unknown scheme, {form}"));
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
    check_address(address).map_err(|reason| format!("{reason}, {form}"))
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn check_address(address: &str) -> Result<(), String> {
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("has a `[` without its `]`")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("has no IPv6 address in its brackets".into());
            }
            (host, after)
        }
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    if host.is_empty() {
        return Err("names no host".into());
    }
    if host.contains(|letter: char| letter.is_whitespace() || "/?#%\\".contains(letter)) {
        return Err("has more behind the scheme than host and port".into());
    }
    let port = port.strip_prefix(':').or(port.is_empty().then_some("1883"));
    match port.and_then(|port| port.parse::<u16>().ok()) {
        Some(1..) => Ok(()),
        Some(0) | None => Err("has no port from 1 to 65535 behind its host".into()),
    }
}

fn base_topic(text: &str) -> Result<(), String> {
    Topic::parse(text).map_err(|error| format!("cannot be used: {error}"))?;
    if text.split('/').any(str::is_empty) {
        return Err("has an empty level, write it without a slash at its ends and without `//`".into());
    }
    // What stands behind it in a topic must fit too; a broker takes 65,535 bytes and 200 levels in all.
    if text.len() > 128 {
        return Err(format!("is {} bytes long, at most 128 are allowed", text.len()));
    }
    Ok(())
}

fn filter(text: &str) -> Result<(), String> {
    Filter::parse(text).map(drop).map_err(|error| format!("cannot be used: {error}"))
}

/// The embedded broker asks nobody for a password, so it must not be reachable from elsewhere.
fn loopback(text: &str) -> Result<(), String> {
    let form = "write an address and a port of this machine alone, as in `127.0.0.1:1883`";
    let address: SocketAddr = text.parse().map_err(|_| format!("is no address with a port, {form}"))?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "is no loopback address, and the embedded broker takes no password: {form}; for other machines \
             run a broker with accounts and set `mqtt.url`"
        ));
    }
    Ok(())
}

fn timezone(text: &str) -> Result<(), String> {
    if text.is_empty() || text.parse::<chrono_tz::Tz>().is_ok() {
        return Ok(());
    }
    let same = |zone: &&chrono_tz::Tz| zone.name().eq_ignore_ascii_case(text);
    let hint = match chrono_tz::TZ_VARIANTS.iter().find(same) {
        Some(zone) => format!("write `{}`", zone.name()),
        None => "write it as in `Europe/Paris`".into(),
    };
    Err(format!("is no IANA time zone, {hint}"))
}

fn log_level(text: &str) -> Result<(), String> {
    telemetry::check_level(text).map_err(|error| format!("cannot be used: {error}"))
}
