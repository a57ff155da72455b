//! JSON text to Lua values. A null is nil, dropped from objects; in a list it stays as `jarvis.json.null`, so
//! that the values behind it keep their places.

use std::fmt;

use mlua::{Lua, Table, Value};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

/// Why JSON text did not become a Lua value.
#[derive(Debug, thiserror::Error)]
pub(in crate::lua) enum Unreadable {
    /// It is no JSON.
    #[error("{0}")]
    Syntax(serde_json::Error),
    /// The VM has no memory left for it.
    #[error("not enough memory")]
    Memory,
}

/// Reads JSON text. Lists get the `marker` metatable, so that an empty one stays a list.
pub(in crate::lua) fn from_json(lua: &Lua, marker: &Table, text: &[u8]) -> Result<Value, Unreadable> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Reader { lua, marker }
        .deserialize(&mut deserializer)
        // The reader takes every kind of value: only mlua can have refused one.
        .map_err(|error| if error.is_data() { Unreadable::Memory } else { Unreadable::Syntax(error) })?;
    deserializer.end().map_err(Unreadable::Syntax)?;
    Ok(value)
}

#[derive(Clone, Copy)]
struct Reader<'vm> {
    lua: &'vm Lua,
    marker: &'vm Table,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    #[expect(clippy::cast_precision_loss, reason = "Lua has no integer for it, a float is the nearest")]
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Number(value as f64), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        self.lua.create_string(text).map(Value::String).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let table = self.lua.create_table().map_err(de::Error::custom)?;
        let mut index = 0;
        while let Some(item) = items.next_element_seed(self)? {
            index += 1;
            let item = if item.is_nil() { Value::NULL } else { item };
            table.raw_set(index, item).map_err(de::Error::custom)?;
        }
        table.set_metatable(Some(self.marker.clone())).map_err(de::Error::custom)?;
        Ok(Value::Table(table))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let table = self.lua.create_table().map_err(de::Error::custom)?;
        while let Some(key) = entries.next_key_seed(self)? {
            let value = entries.next_value_seed(self)?;
            table.raw_set(key, value).map_err(de::Error::custom)?;
        }
        Ok(Value::Table(table))
    }
}
