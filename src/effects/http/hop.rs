//! One request of a chain of redirects: read from what a plugin asks, or made from a redirect. Sends nothing.

use bytes::Bytes;
use reqwest::{
    Method, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use crate::model::{
    frame::{HttpRequest, Refusal},
    message::Payload,
};

/// The longest URL in bytes; servers refuse longer ones.
const MAX_URL: usize = 8 * 1024;
/// The most header lines a plugin may send.
const MAX_HEADERS: usize = 64;
/// All those header lines together, in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// Headers that belong to the connection or that the client writes itself (RFC 9110 §7.6.1): with them a
/// plugin could smuggle a second request or claim another host.
const OURS: [HeaderName; 12] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
    header::EXPECT,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Headers that say nothing of who asks. All others stay with the host they were meant for: a token may be in a header
/// of any name.
const HARMLESS: [HeaderName; 10] = [
    header::ACCEPT,
    header::ACCEPT_CHARSET,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::USER_AGENT,
    header::RANGE,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LOCATION,
];
/// Headers that describe a body: they go when the body goes.
const BODY: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE, header::CONTENT_LOCATION];

/// One request, checked as far as it can be without looking a name up.
#[derive(Clone)]
pub(super) struct Hop {
    /// The method.
    pub(super) method: Method,
    /// `http` or `https`.
    pub(super) url: Url,
    /// The plugin's headers.
    pub(super) headers: HeaderMap,
    /// The body; cheap to clone.
    pub(super) body: Option<Bytes>,
    /// The place that redirected here, for error texts.
    pub(super) redirected_by: Option<String>,
}

impl Hop {
    /// Reads what a plugin asks for. A body may have at most `max_body` bytes.
    ///
    /// # Errors
    /// `Refusal::Mistake` for whatever no client should send.
    pub(super) fn first(request: HttpRequest, max_body: usize) -> Result<Self, Refusal> {
        let body = request.body.map(|body| match body {
            Payload::Text(text) => Bytes::from(text),
            Payload::Bytes(bytes) => Bytes::from(bytes),
        });
        let length = body.as_ref().map_or(0, Bytes::len);
        if length > max_body {
            return Err(mistake(format!(
                "the body has {length} bytes, at most {max_body} can be sent (`http.max_body`)"
            )));
        }
        Ok(Self {
            method: parse_method(&request.method)?,
            url: parse_url(&request.url)?,
            headers: parse_headers(&request.headers)?,
            body,
            redirected_by: None,
        })
    }

    /// Makes the request that a response asks for, or nothing where it is no redirect (RFC 9110 §15.4).
    ///
    /// # Errors
    /// `Refusal::Failure` when it leads nowhere that can be followed.
    pub(super) fn next(&self, status: StatusCode, headers: &HeaderMap) -> Result<Option<Self>, Refusal> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Ok(None);
        }
        let Some(location) = headers.get(header::LOCATION) else { return Ok(None) };
        let mut next = self.clone();
        next.url = self.join(location)?;
        next.redirected_by = Some(self.place());
        if turns_into_get(status, &self.method) {
            next.method = Method::GET;
            next.body = None;
            remove_all(&mut next.headers, &BODY);
        }
        if !same_origin(&next.url, &self.url) {
            let names: Vec<HeaderName> = next.headers.keys().cloned().collect();
            let secret: Vec<HeaderName> = names.into_iter().filter(|name| !HARMLESS.contains(name)).collect();
            remove_all(&mut next.headers, &secret);
        }
        Ok(Some(next))
    }

    /// Where it goes, for error texts: the host, with its port where that is not the scheme's own.
    /// Never the path or the query, which may hold a secret.
    pub(super) fn place(&self) -> String {
        let host = shortened(self.url.host_str().unwrap_or_default());
        match self.url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    fn join(&self, location: &HeaderValue) -> Result<Url, Refusal> {
        let failure = |reason: &str| Refusal::Failure(format!("`{}` redirects to {reason}", self.place()));
        let url = location.to_str().ok().and_then(|location| self.url.join(location).ok());
        let url = url.ok_or_else(|| failure("what is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(failure(&format!(
                "a `{}:` address; only http and https are followed",
                shortened(url.scheme())
            )));
        }
        if url.as_str().len() > MAX_URL {
            return Err(failure("a URL that is too long"));
        }
        // What was meant for one reader only would go where everybody on the way can read it.
        if (self.url.scheme(), url.scheme()) == ("https", "http") {
            return Err(failure("an `http:` address, away from https: ask for that address if it is meant"));
        }
        Ok(url)
    }
}

fn parse_method(text: &str) -> Result<Method, Refusal> {
    let well_formed =
        (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    if !well_formed {
        let found = shortened(text);
        return Err(mistake(format!("`{found}` is not a method: write capital letters, as in `GET`")));
    }
    if matches!(text, "CONNECT" | "TRACE" | "TRACK") {
        return Err(mistake(format!("the method `{text}` cannot be used")));
    }
    Method::from_bytes(text.as_bytes()).map_err(|_| mistake(format!("`{text}` is not a method")))
}

fn parse_url(text: &str) -> Result<Url, Refusal> {
    if text.len() > MAX_URL {
        return Err(mistake(format!("a URL of {} bytes, at most {MAX_URL} are allowed", text.len())));
    }
    // The parser would drop line breaks and tabs without a word: better the author hears of them.
    if text.chars().any(char::is_control) {
        return Err(mistake("the URL has a line break or another control character in it".into()));
    }
    let url = Url::parse(text).map_err(|error| {
        mistake(format!("`{}` is not a URL ({error}): write `https://host/path`", without_query(text)))
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(mistake(format!(
            "only http and https can be reached, not `{}:`",
            shortened(url.scheme())
        )));
    }
    Ok(url)
}

fn parse_headers(lines: &[(String, String)]) -> Result<HeaderMap, Refusal> {
    let bytes: usize = lines.iter().map(|(name, value)| name.len() + value.len()).sum();
    if lines.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(mistake(format!(
            "too many headers: at most {MAX_HEADERS} of {MAX_HEADER_BYTES} bytes in all can be sent"
        )));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let found = shortened(name);
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| mistake(format!("`{found}` is not a header's name")))?;
        if OURS.contains(&name) {
            return Err(mistake(format!("the header `{found}` is set by the bridge: leave it out")));
        }
        // The value itself may be a secret: it is not shown.
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
            mistake(format!("the header `{found}` has a line break or another control character in it"))
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// A form that was sent is fetched with GET where it leads; any other method goes on as it is, but for 303.
fn turns_into_get(status: StatusCode, method: &Method) -> bool {
    match status {
        StatusCode::SEE_OTHER => method != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => method == Method::POST,
        _ => false,
    }
}

fn same_origin(one: &Url, other: &Url) -> bool {
    let origin = |url: &Url| (url.scheme().to_owned(), url.host_str().map(str::to_owned), url.port());
    origin(one) == origin(other)
}

fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

fn mistake(message: String) -> Refusal {
    Refusal::Mistake(message)
}

/// The beginning of a URL, up to what may be secret in it.
fn without_query(text: &str) -> String {
    shortened(text.split(['?', '#', '@']).next().unwrap_or_default())
}

/// The beginning of a text, safe to show in an error.
pub(super) fn shortened(text: &str) -> String {
    crate::model::shown(text, 120)
}
