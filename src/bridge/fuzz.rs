//! What holds for every payload that a client sends.

use std::time::Instant;

use serde_json::Value;

use super::{
    automation, chat, command,
    payload::{self, Payload},
    request::{self, Request},
};
use crate::{
    effects::Cause,
    model::{
        ErrorCode, Failure,
        dice::{Dice, SHORT},
        message::Role,
    },
};

const LIMIT: usize = 2_000;
const PIECES: [&str; 26] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "name",
    "id",
    "content",
    "args",
    "null",
    "1",
    "1e999",
    "-0",
    "18446744073709551615",
    "\u{feff}",
    "\r\n",
    " ",
    "/",
    "help",
    "\\u0000",
    "\\ud800",
    "\u{1f600}",
    "'",
    "$serde_json::private::RawValue",
];

/// Text that is JSON, nearly JSON, or none.
fn bytes_of(dice: &mut Dice<'_>, bytes: &[u8]) -> Vec<u8> {
    let json = dice.json(5).to_string().into_bytes();
    match dice.below(5) {
        0 => bytes.to_vec(),
        1 => dice.text(&PIECES, 40).into_bytes(),
        2 => dice.damaged(json),
        3 => "[".repeat(dice.below(400)).into_bytes(),
        _ => json,
    }
}

#[track_caller]
fn is_for_the_client<T>(result: Result<T, Failure>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(failure) => {
            assert!(matches!(failure.code, ErrorCode::InvalidPayload | ErrorCode::TooLarge), "{failure:?}");
            assert!(!failure.message.is_empty() && failure.message.len() < 1_000, "{failure:?}");
            None
        }
    }
}

#[test]
fn fuzz_payloads() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let bytes = bytes_of(dice, bytes);
        let Some(read) = is_for_the_client(payload::read(&bytes, LIMIT)) else { return };
        assert!(bytes.len() <= LIMIT);
        let text = std::str::from_utf8(&bytes).unwrap();
        let start = text.strip_prefix('\u{feff}').unwrap_or(text).trim_start();
        match &read {
            Payload::Object(_) => assert!(start.starts_with('{'), "{text}"),
            Payload::Array(_) => assert!(start.starts_with('['), "{text}"),
            Payload::Text(found) => {
                assert!(!start.starts_with(['{', '[']), "{text}");
                assert!(start.starts_with('"') || text.contains(found.as_str()), "{text}");
            }
        }
        every_channel(dice, &read);
    });
}

/// Each channel reads the payload as its own.
fn every_channel(dice: &mut Dice<'_>, read: &Payload) {
    let echo = match read {
        Payload::Object(fields) => is_for_the_client(request::echo(fields)),
        Payload::Array(_) | Payload::Text(_) => Some(request::nameless()),
    };
    let path = dice.toss().then(|| "lights/off".to_owned());
    if let Some(automation) = is_for_the_client(automation::read(path, read.clone())) {
        assert_eq!(automation.fields["name"], automation.name);
    }
    if let Some(command) = is_for_the_client(command::read_unnamed(read.clone())) {
        assert!(!command.name.is_empty());
        assert!(command.args.is_object() || command.args.is_array());
    }
    let Some(echo) = echo else { return };
    assert!(echo.id.is_string() || echo.id.is_i64() || echo.id.is_u64());
    let request = Request { arrived: Instant::now(), cause: Cause::none(), echo };
    let role = dice.one_of(&[None, Some(Role::User)]);
    if let Some(message) = is_for_the_client(chat::read(&request, role, read.clone())) {
        assert!(!message.content.trim().is_empty());
        assert_eq!(message.fields["id"], request.echo.id);
        assert!(!message.fields.contains_key("reply_to"));
    }
}

/// What is valid JSON arrives as it was sent: every key, every digit.
#[test]
fn fuzz_payloads_keep_json() {
    bolero::check!().with_test_time(SHORT).for_each(|bytes: &[u8]| {
        let dice = &mut Dice::of(bytes);
        let value = dice.json(5);
        let text = if dice.toss() { value.to_string() } else { format!("\u{feff} {value:#}\n") };
        match (payload::read(text.as_bytes(), 1 << 20).unwrap(), value) {
            (Payload::Object(read), Value::Object(sent)) => assert_eq!(read, sent),
            (Payload::Array(read), Value::Array(sent)) => assert_eq!(read, sent),
            (Payload::Text(read), Value::String(sent)) => assert_eq!(read, sent),
            (Payload::Text(read), sent) => {
                assert!(!sent.is_object() && !sent.is_array(), "{sent}");
                assert_eq!(read.trim(), sent.to_string());
            }
            (read, sent) => panic!("{sent} became {read:?}"),
        }
    });
}
