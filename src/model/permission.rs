//! What a plugin may reach, as its `@permissions` line says it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::topic::Filter;

/// One permission, parsed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Permission {
    /// `http:<host[:port]>`: requests to this host; without a port to any port of it.
    Http {
        /// A name or address, lower case; an IPv6 address without its brackets.
        host: String,
        /// The only port, where one was named.
        port: Option<u16>,
    },
    /// `mqtt.publish:<filter>`: publishing to topics that match.
    Publish(Filter),
    /// `mqtt.subscribe:<filter>`: subscribing within this filter.
    Subscribe(Filter),
}

/// Why a text is not a permission.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not a permission: {reason}")]
pub struct BadPermission {
    found: String,
    reason: String,
}

impl Permission {
    /// Reads a permission such as `http:api.open-meteo.com` or `mqtt.publish:lights/+/set`.
    ///
    /// # Errors
    /// When its kind is unknown or what follows the colon is not a host or filter.
    pub fn parse(text: &str) -> Result<Self, BadPermission> {
        let bad = |reason: String| BadPermission {
            found: super::shown(text, 120),
            // It may repeat a part of the text.
            reason: super::shown(&reason, 400),
        };
        let kinds = "write `http:<host[:port]>`, `mqtt.publish:<filter>` or `mqtt.subscribe:<filter>`";
        let (kind, object) = text.split_once(':').ok_or_else(|| bad(kinds.into()))?;
        match kind.trim() {
            "http" => parse_host(object.trim()).map_err(bad),
            "mqtt.publish" => Filter::parse(object.trim()).map(Self::Publish).map_err(|e| bad(e.to_string())),
            "mqtt.subscribe" => {
                Filter::parse(object.trim()).map(Self::Subscribe).map_err(|e| bad(e.to_string()))
            }
            other => Err(bad(format!("there is no permission `{other}`; {kinds}"))),
        }
    }
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn parse_host(text: &str) -> Result<Permission, String> {
    if text.contains('/') {
        return Err(not_a_host(text));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("a `[` without its `]`")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(format!("`{host}` is not an IPv6 address"));
            }
            if !after.is_empty() && !after.starts_with(':') {
                return Err(format!("`{text}` has more than a port behind its `]`"));
            }
            (host, after.strip_prefix(':'))
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    if host.is_empty() || (!text.starts_with('[') && !host.bytes().all(is_name)) {
        return Err(not_a_host(text));
    }
    let port = match port {
        None => None,
        Some(port) => Some(parse_port(port).ok_or_else(|| format!("`{text}` has no valid port"))?),
    };
    Ok(Permission::Http { host: host.to_ascii_lowercase(), port })
}

/// The number parser would take a sign, and nothing can be connected to port 0.
fn parse_port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port > 0 && !text.starts_with('+'))
}

fn not_a_host(text: &str) -> String {
    let text = super::shown(text, 120);
    if !text.is_ascii() {
        return format!(
            "`{text}` is not a host: write a name with such letters in its ASCII form, as in `xn--…`"
        );
    }
    format!(
        "`{text}` is not a host: write a name or address without scheme and path, as in \
         `http:api.example.com`; put an IPv6 address in brackets"
    )
}

impl fmt::Display for Permission {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { host, port } => {
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                match port {
                    Some(port) => write!(formatter, "http:{host}:{port}"),
                    None => write!(formatter, "http:{host}"),
                }
            }
            Self::Publish(filter) => write!(formatter, "mqtt.publish:{filter}"),
            Self::Subscribe(filter) => write!(formatter, "mqtt.subscribe:{filter}"),
        }
    }
}

impl TryFrom<String> for Permission {
    type Error = BadPermission;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Permission> for String {
    fn from(permission: Permission) -> Self {
        permission.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::Permission;

    #[test]
    fn permissions_read_and_print_the_same() {
        for text in [
            "http:api.example.com",
            "http:localhost:8080",
            "http:[::1]:80",
            "mqtt.publish:a/+/set",
            "mqtt.subscribe:a/#",
        ] {
            assert_eq!(Permission::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn bad_permissions_say_what_to_write() {
        let check = |text: &str, expect: &str| {
            let error = Permission::parse(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("network", "write `http:<host[:port]>`");
        check("http:https://example.com", "without scheme and path");
        check("http:example.com/path", "without scheme and path");
        check("mqtt.publish:a#", "`#` must be the whole last level");
        check("http:b\u{fc}cher.example", "in its ASCII form");
        check("http:[::1]x", "more than a port behind its `]`");
        for port in ["", "0", "+80", "65536", "x"] {
            check(&format!("http:localhost:{port}"), "has no valid port");
        }
        check("shell:rm", "there is no permission `shell`");
    }
}
