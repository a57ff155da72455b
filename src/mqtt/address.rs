//! Reads the broker's URL. Knows nothing of connections, and shows no password, also not in errors.

use std::fmt;

/// Where the broker is and how to sign in, as `mqtt.url` says it.
#[derive(Clone, PartialEq, Eq)]
pub struct BrokerUrl {
    /// A name or address; IPv6 without brackets.
    pub host: String,
    /// 1883 where the URL has none.
    pub port: u16,
    /// Percent-decoded.
    pub username: Option<String>,
    /// Percent-decoded.
    pub password: Option<String>,
}

/// Why a text is not the URL of a broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// No `mqtt://` in front.
    #[error("write the broker's URL as in `mqtt://host:1883`")]
    NoScheme,
    /// TLS, WebSocket, or something else.
    #[error(
        "`{0}://` is not supported, only `mqtt://` is: for an encrypted broker run a TLS tunnel (stunnel, ghostunnel) on this machine and name its local port"
    )]
    Scheme(String),
    /// Nothing between `//` and the port.
    #[error("the broker's URL has no host: write it as in `mqtt://host:1883`")]
    NoHost,
    /// A colon too many.
    #[error("write an IPv6 address in brackets, as in `mqtt://[::1]:1883`")]
    Brackets,
    /// A host with characters that no host has.
    #[error("`{0}` is not a host name or address")]
    Host(String),
    /// Not 1 to 65535.
    #[error("`{0}` is not a port: use a number from 1 to 65535")]
    Port(String),
    /// A path, query or fragment.
    #[error("the broker's URL ends after the port: remove `{0}`")]
    Path(String),
    /// `mqtt://:secret@host`.
    #[error("the broker's URL has a password but no user: write `mqtt://user:password@host`")]
    NoUser,
    /// Percent signs that do not decode.
    #[error(
        "the user or password in the broker's URL is badly escaped: write `%` as `%25`, `@` as `%40`, `/` as `%2F`"
    )]
    Escape,
}

/// Reads a URL such as `mqtt://user:p%40ss@host:1883` (`tcp://` means the same).
///
/// # Errors
/// When it is not such a URL, or asks for a transport that is not supported.
pub fn parse_url(text: &str) -> Result<BrokerUrl, UrlError> {
    let (scheme, rest) = text.trim().split_once("://").ok_or(UrlError::NoScheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "mqtt" | "tcp" => {}
        _ => return Err(UrlError::Scheme(scheme.chars().take(20).collect())),
    }
    let (login, address) = match rest.rsplit_once('@') {
        Some((login, address)) => (Some(login), address),
        None => (None, rest),
    };
    let (username, password) = login.map(parse_login).transpose()?.unwrap_or_default();
    let (host, port) = parse_address(address)?;
    Ok(BrokerUrl { host, port, username, password })
}

impl fmt::Debug for BrokerUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("BrokerUrl")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .finish()
    }
}

fn parse_login(login: &str) -> Result<(Option<String>, Option<String>), UrlError> {
    let (username, password) = match login.split_once(':') {
        Some((username, password)) => (username, Some(decode(password)?)),
        None => (login, None),
    };
    if username.is_empty() {
        return if password.is_some_and(|password| !password.is_empty()) {
            Err(UrlError::NoUser)
        } else {
            Ok((None, None))
        };
    }
    Ok((Some(decode(username)?), password))
}

fn parse_address(address: &str) -> Result<(String, u16), UrlError> {
    let end = address.find(['/', '?', '#']).unwrap_or(address.len());
    let (address, path) = address.split_at(end);
    if !matches!(path, "" | "/") {
        return Err(UrlError::Path(path.to_owned()));
    }
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').ok_or(UrlError::Brackets)?,
        None => address.split_at(address.find(':').unwrap_or(address.len())),
    };
    if host.is_empty() {
        return Err(UrlError::NoHost);
    }
    if address.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_err() {
        return Err(UrlError::Brackets);
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(UrlError::Host(host.escape_debug().collect()));
    }
    let Some(digits) = port.strip_prefix(':') else {
        return if port.is_empty() {
            Ok((host.to_owned(), 1883))
        } else {
            Err(UrlError::Port(port.to_owned()))
        };
    };
    if digits.contains(':') {
        return Err(UrlError::Brackets);
    }
    match digits.parse() {
        Ok(port) if port > 0 => Ok((host.to_owned(), port)),
        _ => Err(UrlError::Port(digits.to_owned())),
    }
}

fn decode(text: &str) -> Result<String, UrlError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (Some(high), Some(low)) = (bytes.next().and_then(hex), bytes.next().and_then(hex)) else {
            return Err(UrlError::Escape);
        };
        decoded.push(high << 4 | low);
    }
    String::from_utf8(decoded).map_err(|_| UrlError::Escape)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::{BrokerUrl, UrlError, parse_url};

    #[test]
    fn good_urls() {
        let check = |url: &str, host: &str, port: u16, username: Option<&str>, password: Option<&str>| {
            let expect = BrokerUrl {
                host: host.into(),
                port,
                username: username.map(Into::into),
                password: password.map(Into::into),
            };
            assert_eq!(parse_url(url), Ok(expect), "{url}");
        };
        check("mqtt://nas", "nas", 1883, None, None);
        check(" MQTT://nas.local:8883/ ", "nas.local", 8883, None, None);
        check("tcp://10.0.0.2:1", "10.0.0.2", 1, None, None);
        check("mqtt://[::1]", "::1", 1883, None, None);
        check("mqtt://u@[fe80::1]:99", "fe80::1", 99, Some("u"), None);
        check("mqtt://u:p%40s%2Fs:%25@h", "h", 1883, Some("u"), Some("p@s/s:%"));
        check("mqtt://u:raw@at/slash@h", "h", 1883, Some("u"), Some("raw@at/slash"));
        check("mqtt://%C3%A9:@h", "h", 1883, Some("é"), Some(""));
    }

    #[test]
    fn bad_urls_say_what_to_write() {
        let check = |url: &str, expect: UrlError| assert_eq!(parse_url(url), Err(expect), "{url}");
        check("nas:1883", UrlError::NoScheme);
        check("", UrlError::NoScheme);
        check("mqtts://nas", UrlError::Scheme("mqtts".into()));
        check("ws://nas", UrlError::Scheme("ws".into()));
        check("mqtt://", UrlError::NoHost);
        check("mqtt://:1883", UrlError::NoHost);
        check("mqtt://::1:1883", UrlError::NoHost);
        check("mqtt://fe80::1", UrlError::Brackets);
        check("mqtt://[::1", UrlError::Brackets);
        check("mqtt://[nas]", UrlError::Brackets);
        check("mqtt://h:0", UrlError::Port("0".into()));
        check("mqtt://h:70000", UrlError::Port("70000".into()));
        check("mqtt://[::1]x", UrlError::Port("x".into()));
        check("mqtt://h/topic", UrlError::Path("/topic".into()));
        check("mqtt://a b", UrlError::Host("a b".into()));
        check("mqtt://:secret@h", UrlError::NoUser);
        check("mqtt://u:50%@h", UrlError::Escape);
        check("mqtt://u:%ff@h", UrlError::Escape);
    }

    #[test]
    fn no_password_in_errors_or_debug() {
        let url = "mqtt://u:hunter2@h";
        assert!(!format!("{:?}", parse_url(url)).contains("hunter2"));
        for bad in ["mqtt://u:hunter2@h:x", "mqtt://u:hunter2%@h", "mqtts://u:hunter2@h", "mqtt://u:hunter2@"]
        {
            let error = parse_url(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{bad}");
        }
    }
}
