//! Reads the values of single header lines: durations, sizes, names, defaults. Knows no key and no file.

use serde_json::Value;

use super::fault::shortened;

/// The longest time that can be written, one day in milliseconds.
const MAX_MS: f64 = 86_400_000.0;
/// The largest size that can be written, 1 TiB.
const MAX_BYTES: f64 = 1_099_511_627_776.0;

/// Whether a text can be a command's name: one or more levels of letters, digits, `_`, `.` and `-`, at most
/// 128 bytes.
#[must_use]
pub fn is_command_name(text: &str) -> bool {
    let is_level = |level: &str| {
        !level.is_empty() && level.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
    };
    text.len() <= 128 && text.split('/').all(is_level)
}

/// Reads `500ms`, `2s`, `1m` or plain seconds, as milliseconds.
pub(super) fn parse_duration(text: &str) -> Option<u64> {
    let (number, unit) = parse_quantity(text)?;
    let factor = match unit {
        "ms" => 1.0,
        "" | "s" => 1_000.0,
        "m" | "min" => 60_000.0,
        _ => return None,
    };
    whole(number * factor, MAX_MS)
}

/// Reads `8 MiB`, `8MB` or plain bytes, as bytes. `MB` is a million, `MiB` is 1,048,576.
pub(super) fn parse_size(text: &str) -> Option<usize> {
    let (number, unit) = parse_quantity(text)?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    whole(number * factor, MAX_BYTES).and_then(|bytes| usize::try_from(bytes).ok())
}

/// Reads `key = value`; the value as JSON writes it, or a text in single quotes. A Lua comment may follow.
pub(super) fn parse_default(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text.split_once('=').map_or((text, ""), |(key, value)| (key.trim(), value.trim()));
    let is_key = key.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && key.len() <= 64
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if !is_key {
        return Err(format!(
            "`{}` is not a key with a value: write `@config city = \"Lyon\"`",
            shortened(text)
        ));
    }
    if value.is_empty() || value.starts_with("--") {
        return Err(format!("`@config {key}` has no value: write `@config {key} = \"…\"`"));
    }
    parse_literal(key, value).map(|value| (key.to_owned(), value))
}

fn parse_literal(key: &str, text: &str) -> Result<Value, String> {
    let as_json = match text.strip_prefix('\'') {
        Some(rest) => with_double_quotes(rest),
        None => Some(text.to_owned()),
    };
    let parsed = as_json.as_deref().ok_or_else(|| "it does not end".to_owned()).and_then(parse_json);
    let shown = shortened(text);
    match (parsed, text.chars().next()) {
        (Ok(Value::Null), _) => Err(nothing(key)),
        (Ok(value), _) => Ok(value),
        (Err(reason), Some('[' | '{')) => {
            Err(format!("`{shown}` is not JSON, {reason}: write it as in `[1, 2]` or `{{\"a\": 1}}`"))
        }
        (Err(reason), Some('"' | '\'')) => {
            Err(format!("`{shown}` is not a text, {reason}: write it as in `@config {key} = \"Lyon\"`"))
        }
        (Err(_), _) if text == "nil" => Err(nothing(key)),
        (Err(_), _) => Err(format!(
            "`{shown}` is not a value: write text in quotes, as in `@config {key} = {}`",
            Value::String(shown.clone())
        )),
    }
}

fn nothing(key: &str) -> String {
    format!("`@config {key}` cannot be nothing: write `\"\"`, or leave the line out")
}

/// The first value of a text, if nothing but a Lua comment follows.
fn parse_json(text: &str) -> Result<Value, String> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next().ok_or("it is empty")?;
    let value = value.map_err(|error| format!("column {} is wrong", error.column()))?;
    let rest = text.get(values.byte_offset()..).unwrap_or_default().trim();
    if rest.is_empty() || rest.starts_with("--") {
        return Ok(value);
    }
    Err(format!("`{}` follows it", shortened(rest)))
}

/// Turns a text in single quotes, the first already taken, into one in double quotes, with what follows.
fn with_double_quotes(text: &str) -> Option<String> {
    let mut quoted = String::from("\"");
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '\'' => break,
            '"' => quoted.push_str("\\\""),
            '\\' => match characters.next()? {
                '\'' => quoted.push('\''),
                other => quoted.extend(['\\', other]),
            },
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted.push_str(characters.as_str());
    Some(quoted)
}

/// A number without sign or exponent, and the word behind it.
fn parse_quantity(text: &str) -> Option<(f64, &str)> {
    let end =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// At least 1, at most `max`, rounded.
fn whole(number: f64, max: f64) -> Option<u64> {
    let rounded = number.round();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (1.0..=max).contains(&rounded).then_some(rounded as u64)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{is_command_name, parse_default, parse_duration, parse_size};

    #[test]
    fn command_names() {
        for good in ["weather", "lights/off", "a.b-c_D9", &"x".repeat(128)] {
            assert!(is_command_name(good), "{good}");
        }
        for bad in ["", "/weather", "a/", "a//b", "a b", "é", "a+", &"x".repeat(129)] {
            assert!(!is_command_name(bad), "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (text, expect) in [
            ("2s", 2000),
            ("2 s", 2000),
            ("500ms", 500),
            ("3", 3000),
            ("1.5", 1500),
            ("1m", 60_000),
            ("0.001", 1),
            ("86400", 86_400_000),
        ] {
            assert_eq!(parse_duration(text), Some(expect), "{text}");
        }
        for bad in [
            "",
            "soon",
            "-1",
            "0",
            "1e3",
            "1..2",
            ".",
            "2 seconds",
            "86401",
            "NaN",
            "inf",
            "9".repeat(400).as_str(),
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expect) in [
            ("8 MiB", 8_388_608),
            ("8MiB", 8_388_608),
            ("8MB", 8_000_000),
            ("8388608", 8_388_608),
            ("512kib", 524_288),
            ("1.5 MiB", 1_572_864),
            ("64 KB", 64_000),
        ] {
            assert_eq!(parse_size(text), Some(expect), "{text}");
        }
        for bad in ["", "lots", "-8 MiB", "0", "8M", "8 Mib/s", "9999999 GiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn defaults() {
        let check = |text: &str, key: &str, value: Value| {
            assert_eq!(parse_default(text), Ok((key.to_owned(), value)), "{text}");
        };
        check(r#"city = "Lyon""#, "city", json!("Lyon"));
        check("city='Lyon'", "city", json!("Lyon"));
        check(r#"a = 'it\'s "so" \\ \n é'"#, "a", json!("it's \"so\" \\ \n é"));
        check(r#"a = "x = y -- z""#, "a", json!("x = y -- z"));
        check(r#"a = "" -- empty"#, "a", json!(""));
        check("a = 12", "a", json!(12));
        check("a = -1.5 -- degrees", "a", json!(-1.5));
        check("a = true", "a", json!(true));
        check("some-list = [1, \"b\"]", "some-list", json!([1, "b"]));
        check(r#"_x = {"a": {"b": null}}"#, "_x", json!({"a": {"b": null}}));
    }

    #[test]
    fn bad_defaults_say_what_to_write() {
        let check = |text: &str, expect: &str| {
            assert_eq!(parse_default(text).unwrap_err(), expect, "{text}");
        };
        check("city", "`@config city` has no value: write `@config city = \"…\"`");
        check("city =", "`@config city` has no value: write `@config city = \"…\"`");
        check("", "`` is not a key with a value: write `@config city = \"Lyon\"`");
        check("a b = 1", "`a b = 1` is not a key with a value: write `@config city = \"Lyon\"`");
        check("city = Lyon", "`Lyon` is not a value: write text in quotes, as in `@config city = \"Lyon\"`");
        check(
            "ip = 192.168.1.10",
            "`192.168.1.10` is not a value: write text in quotes, as in `@config ip = \"192.168.1.10\"`",
        );
        check("a = nil", "`@config a` cannot be nothing: write `\"\"`, or leave the line out");
        check("a = null", "`@config a` cannot be nothing: write `\"\"`, or leave the line out");
        check(
            "a = {1, 2}",
            "`{1, 2}` is not JSON, column 2 is wrong: write it as in `[1, 2]` or `{\"a\": 1}`",
        );
        check(
            "a = \"x\" y",
            "`\"x\" y` is not a text, `y` follows it: write it as in `@config a = \"Lyon\"`",
        );
        check("a = 'x", "`'x` is not a text, it does not end: write it as in `@config a = \"Lyon\"`");
    }
}
