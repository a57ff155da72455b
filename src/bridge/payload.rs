//! Text or JSON: what a payload is, and the sentence for one that is neither.

use serde_json::{Map, Value};

use crate::model::{ErrorCode, Failure, json};

/// How deep a payload may be nested.
const MAX_DEPTH: usize = 64;

/// A payload, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Payload {
    /// It began with `{`.
    Object(Map<String, Value>),
    /// It began with `[`.
    Array(Vec<Value>),
    /// Anything else, a JSON string unwrapped. May be empty.
    Text(String),
}

/// The failure of a payload that cannot be read.
pub(super) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidPayload, message)
}

/// Reads a payload: what begins with `{` or `[` is JSON and must parse; a JSON string is unwrapped;
/// everything else is text, a byte-order mark and one trailing line break removed.
///
/// # Errors
/// `invalid_payload` with line and column, or `too_large`.
pub(super) fn read(bytes: &[u8], limit: usize) -> Result<Payload, Failure> {
    if bytes.len() > limit {
        let text =
            format!("the payload has {} bytes, at most {limit} are taken (limits.payload)", bytes.len());
        return Err(Failure::new(ErrorCode::TooLarge, text));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        invalid(format!("the payload is not UTF-8: byte {} cannot be read", error.valid_up_to()))
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let start = text.trim_start();
    if start.starts_with(['{', '[']) {
        let value = json::parse(text).map_err(|error| broken_json(start, &error))?;
        if depth(&value) > MAX_DEPTH {
            return Err(invalid(format!("the payload is nested deeper than {MAX_DEPTH} levels")));
        }
        return Ok(match value {
            Value::Object(object) => Payload::Object(object),
            Value::Array(array) => Payload::Array(array),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Payload::Text(text.into()),
        });
    }
    if start.starts_with('"')
        && let Ok(Value::String(text)) = json::parse(text)
    {
        return Ok(Payload::Text(text));
    }
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    Ok(Payload::Text(text.to_owned()))
}

fn broken_json(start: &str, error: &serde_json::Error) -> Failure {
    let mut message = format!("the payload is not valid JSON: {error}");
    if start.starts_with("{'") || start.starts_with("['") {
        message.push_str("; this is Python's notation: in Home Assistant use `| to_json`");
    }
    invalid(message)
}

/// How deep a value is nested; the parser has bounded it to 128, so this ends.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

/// What a value is called in an error.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::{Payload, read};

    #[test]
    fn text_and_json() {
        let text = |expect: &str| Payload::Text(expect.into());
        let check = |bytes: &[u8], expect: Payload| assert_eq!(read(bytes, 1_000).unwrap(), expect);
        check(b"hello", text("hello"));
        check(b"hello\n", text("hello"));
        check(b"hello\r\n", text("hello"));
        check(b"hello\n\n", text("hello\n"));
        check(b"\xef\xbb\xbfhello", text("hello"));
        check(br#""a \"quoted\" word""#, text(r#"a "quoted" word"#));
        check(br#""hello" he said"#, text(r#""hello" he said"#));
        check(b"", text(""));
        check(b"42", text("42"));
        check(b"null", text("null"));
        check(b"[1]", Payload::Array(vec![1.into()]));
        check(b" {}\n", Payload::Object(serde_json::Map::new()));
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        let check = |bytes: &[u8], expect: &str| {
            let error = read(bytes, 1_000).unwrap_err().message;
            assert!(error.contains(expect), "{error}");
        };
        check(b"{\"a\":\n }", "line 2 column 2");
        check(b"{'name': 'help'}", "use `| to_json`");
        check(b"[1", "line 1 column 2");
        check(b"ab\xff", "byte 2 cannot be read");
        check(&[b'x'; 1_001], "the payload has 1001 bytes, at most 1000 are taken (limits.payload)");
        check(format!("{}{}", "[".repeat(100), "]".repeat(100)).as_bytes(), "nested deeper than 64");
        check(format!("{}{}", "[".repeat(300), "]".repeat(300)).as_bytes(), "recursion limit");
    }
}
