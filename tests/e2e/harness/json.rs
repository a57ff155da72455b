//! Says whether a JSON value is what a test expects of it.

use serde_json::Value;

/// Fails unless `actual` has all that `expected` has:
/// an object's fields (others may be there as well), an array's elements one by one, a scalar itself. The text
/// `"~part"` stands for any text with that part, `"*"` for any value but null, null also for a missing field.
#[track_caller]
pub(crate) fn assert_json(actual: &Value, expected: &Value) {
    if let Some(difference) = difference(actual, expected) {
        panic!("{difference}\nin {actual:#}\nwhich should have {expected:#}");
    }
}

/// Where the two part, if they do.
pub(crate) fn difference(actual: &Value, expected: &Value) -> Option<String> {
    differ(actual, expected, "it")
}

fn differ(actual: &Value, expected: &Value, path: &str) -> Option<String> {
    let is_it = match (expected, actual) {
        (Value::Object(expected), Value::Object(actual)) => {
            return expected.iter().find_map(|(key, expected)| {
                differ(actual.get(key).unwrap_or(&Value::Null), expected, &format!("{path}.{key}"))
            });
        }
        (Value::Array(expected), Value::Array(actual)) if expected.len() == actual.len() => {
            let mut pairs = actual.iter().zip(expected).enumerate();
            return pairs.find_map(|(index, (actual, expected))| {
                differ(actual, expected, &format!("{path}[{index}]"))
            });
        }
        (Value::String(expected), actual) if expected == "*" => !actual.is_null(),
        (Value::String(expected), Value::String(actual)) => match expected.strip_prefix('~') {
            Some(part) => actual.contains(part),
            None => actual == expected,
        },
        _ => actual == expected,
    };
    (!is_it).then(|| format!("{path} is {actual}, not {expected}"))
}
