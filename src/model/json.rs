//! JSON read as it stands. `serde_json::Value` takes an object with a certain key for something of its own
//! library's, reads on in that key's text, and forgets on the way how deep it is.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// Reads one JSON text. Of two fields with the same name the last counts.
///
/// # Errors
/// When it is not valid JSON, or nested deeper than 127 levels.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).map(|Plain(value)| value)
}

struct Plain(Value);

struct Reader;

impl<'de> Deserialize<'de> for Plain {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Plain)
    }
}

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Plain(value)) = items.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some((key, Plain(value))) = entries.next_entry()? {
            fields.insert(key, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    #[test]
    fn every_key_is_a_key() {
        let text = r#"{"$serde_json::private::RawValue":"[1]","a":[null,true,-1,1.5,"x",{}]}"#;
        let value = parse(text).unwrap();
        assert_eq!(value["$serde_json::private::RawValue"], "[1]");
        assert_eq!(value["a"], json!([null, true, -1, 1.5, "x", {}]));
        assert_eq!(parse(r#"{"a":1,"a":2}"#).unwrap(), json!({ "a": 2 }));
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_refused() {
        for bad in ["", "{", "[1,]", "nul", "1 2", "\"\\ud800\""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&("[".repeat(127) + &"]".repeat(127))).is_ok());
        assert!(parse(&("[".repeat(128) + &"]".repeat(128))).is_err());
    }
}
