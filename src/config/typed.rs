//! Values of the environment and of flags: text that becomes what the key wants. Refuses nothing; what does not
//! fit stays text, and the check then says what was expected.

use ::config::{Value, ValueKind};
use toml::de::DeValue;

use super::{
    plugins,
    rules::{self, Rule},
    text,
};

/// A text as the key's own type.
pub(super) fn typed(key: &[String], text: &str) -> ValueKind {
    if plugins::is_plugin_key(key) {
        return untyped(text);
    }
    let kind = match rules::find(&key.join(".")) {
        Some(Rule::Switch) => text.parse().ok().map(ValueKind::Boolean),
        Some(Rule::Whole(_)) => text.parse().ok().map(ValueKind::I64),
        Some(Rule::Texts(_)) => list(text),
        Some(Rule::Text(_) | Rule::OneOf(_)) | None => None,
    };
    kind.unwrap_or_else(|| text.into())
}

/// A plugin's value, whose type nobody knows here: a TOML number, switch or quoted text is what it says,
/// anything else is text. A number that would lose characters, as in `0123` and `+49…`, stays text.
fn untyped(text: &str) -> ValueKind {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    if text.starts_with('+') || leading_zero {
        return text.into();
    }
    let Ok(value) = DeValue::parse(text) else { return text.into() };
    match value.into_inner() {
        DeValue::Boolean(value) => value.into(),
        DeValue::Integer(value) => {
            i64::from_str_radix(value.as_str(), value.radix()).map_or_else(|_| text.into(), ValueKind::I64)
        }
        DeValue::Float(value) => match value.as_str().parse::<f64>() {
            Ok(value) if value.is_finite() => value.into(),
            _ => text.into(),
        },
        DeValue::String(value) => value.into_owned().into(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => text.into(),
    }
}

/// A list: `a, b` or `["a", "b"]`.
fn list(text: &str) -> Option<ValueKind> {
    if !text.trim_start().starts_with('[') {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        return Some(parts.map(Value::from).collect::<Vec<_>>().into());
    }
    text::read_value(text)
}

#[cfg(test)]
mod tests {
    use ::config::ValueKind;

    use super::untyped;

    #[test]
    fn values_of_plugins_in_the_environment() {
        let check = |text: &str, expect: ValueKind| assert_eq!(untyped(text), expect, "{text}");
        check("Lyon", "Lyon".into());
        check("5", 5_i64.into());
        check("-5", (-5_i64).into());
        check("0", 0_i64.into());
        check("0.5", 0.5.into());
        check("1e3", 1000.0.into());
        check("true", true.into());
        check("True", "True".into());
        for text in ["0123", "-07", "+49151", "0x1f", "00", "inf", "nan", "", "a b", "1.2.3", "2024-01-01"] {
            check(text, text.into());
        }
        check("99999999999999999999", "99999999999999999999".into());
        check("\"0123\"", "0123".into());
        check("'5'", "5".into());
        check("[1, 2]", "[1, 2]".into());
        check("a # b", "a # b".into());
        check("5 # b", "5 # b".into());
    }
}
