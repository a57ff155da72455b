//! How deep a JSON text is and how many values it has, without building any. Knows text that was read as JSON before.

use serde_json::value::RawValue;

use crate::model::Limits;

/// Checks a value that somebody will parse again: the bridge, another plugin's worker, a client. The worker has
/// written it within the same limits.
///
/// # Errors
/// A sentence that goes on from what it is.
pub(super) fn check_value(value: &RawValue, limits: &Limits) -> Result<(), String> {
    let text = value.get().as_bytes();
    if text.len() > limits.result {
        return Err(format!("of {} bytes (limits.result)", text.len()));
    }
    let mut shape = Shape { depth: 0, deepest: 0, values: 1 };
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        rest = match first {
            b'"' => after_string(behind)?,
            b'-' | b'0'..=b'9' => after_number(rest)?,
            _ => {
                shape.take(first, behind);
                behind
            }
        };
    }
    if shape.deepest > limits.depth {
        return Err(format!("nested {} deep (limits.depth)", shape.deepest));
    }
    if shape.values > limits.nodes {
        return Err(format!("of {} values (limits.nodes)", shape.values));
    }
    Ok(())
}

struct Shape {
    depth: usize,
    deepest: usize,
    values: usize,
}

impl Shape {
    /// Each comma begins a value, and so does the beginning of a list or object that is not empty.
    fn take(&mut self, byte: u8, behind: &[u8]) {
        match byte {
            b'[' | b'{' => {
                self.depth += 1;
                self.deepest = self.deepest.max(self.depth);
                let next = behind.iter().find(|byte| !byte.is_ascii_whitespace());
                self.values += usize::from(!matches!(next, Some(b']' | b'}')));
            }
            b']' | b'}' => self.depth = self.depth.saturating_sub(1),
            b',' => self.values += 1,
            _ => {}
        }
    }
}

/// What follows a string, of which the opening quote is gone.
fn after_string(mut text: &[u8]) -> Result<&[u8], String> {
    while let Some(at) = text.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        let (found, behind) = (text[at], &text[at + 1..]);
        if found == b'"' {
            return Ok(behind);
        }
        // Reading a value as text lets half a character pass, reading it as a value does not.
        if let [b'u', b'd' | b'D', b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F', ..] = behind {
            return Err("with an escape that is half a character".into());
        }
        text = behind.get(1..).unwrap_or_default();
    }
    Ok(&[])
}

/// What follows a number.
fn after_number(text: &[u8]) -> Result<&[u8], String> {
    let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
    let end = text.iter().position(|byte| !is_part(byte)).unwrap_or(text.len());
    let (number, behind) = text.split_at(end);
    // 1e308 is the last power of ten that is a number; shorter ones without an exponent cannot reach it.
    let may_be_large = number.len() > 300 || number.iter().any(|byte| matches!(byte, b'e' | b'E'));
    let number = std::str::from_utf8(number).unwrap_or_default();
    if may_be_large && !number.parse::<f64>().is_ok_and(f64::is_finite) {
        return Err("with a number that is none".into());
    }
    Ok(behind)
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::check_value;
    use crate::model::Limits;

    fn check(text: &str) -> Result<(), String> {
        let limits = Limits { result: 400, depth: 3, nodes: 8, ..Limits::default() };
        check_value(&RawValue::from_string(text.into()).unwrap(), &limits)
    }

    #[test]
    fn what_the_worker_writes_passes_to_the_last_value() {
        for good in [
            "null",
            "[]",
            "[[[]]]",
            r#"[{"a":[]}]"#,
            "[1,2,3,4,5,6,7]",
            r#"{"a":1,"b":[1,2,3],"c":{ },"d":[ ]}"#,
            r#"[{"a":1,"b":2,"c":3},{"a":1,"b":2}]"#,
            r#""[[[[[,,,,,,,,\"[[[[,,,,,""#,
            r#"{"[[[[,,,,,,,,":"\\"}"#,
            "[-1.5e300,1E-400,18446744073709551615]",
            r#""\u00e9\ud7ff\uE000""#,
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn what_no_worker_writes_is_named() {
        for (bad, reason) in [
            ("[[[[]]]]", "nested 4 deep"),
            (r#"[{"a":[{}]}]"#, "nested 4 deep"),
            ("[1,2,3,4,5,6,7,8]", "of 9 values"),
            (r#"[{"a":1,"b":2,"c":3},{"a":1,"b":2,"c":3}]"#, "of 9 values"),
            ("1e999", "a number that is none"),
            (r#"["\ud800"]"#, "half a character"),
            (r#""\\\uDFFF""#, "half a character"),
        ] {
            assert!(check(bad).unwrap_err().contains(reason), "{bad}: {:?}", check(bad));
        }
        assert!(check(&format!("\"{}\"", "x".repeat(400))).unwrap_err().contains("402 bytes"));
        assert!(check(&"9".repeat(350)).unwrap_err().contains("a number that is none"));
    }

    #[test]
    fn any_depth_is_looked_at_without_a_stack() {
        let limits = Limits { result: 1 << 24, ..Limits::default() };
        let text = format!("{}{}", "[".repeat(1 << 22), "]".repeat(1 << 22));
        let value = RawValue::from_string(text).unwrap();
        assert!(check_value(&value, &limits).unwrap_err().contains("nested 4194304 deep"));
    }
}
