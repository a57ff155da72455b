//! The arguments of a call as Lua values.

use mlua::{Lua, Table, Value};

use super::{
    convert::{Unreadable, from_json},
    host::{Host, Problem},
};
use crate::model::{
    frame::{Call, Input, Target},
    message::{EventInfo, MqttMessage, Properties},
};

/// Makes the arguments of a call; a timer gets the data it was made with.
pub(super) fn arguments(lua: &Lua, host: &Host, call: &Call) -> Result<(Value, Value), Problem> {
    match &call.input {
        Input::Nothing => Ok((timer_data(lua, host, &call.target)?, Value::Nil)),
        Input::Value(value) => Ok((host.read_json(lua, value)?, Value::Nil)),
        Input::Event { data, event } => {
            Ok((host.read_json(lua, data)?, Value::Table(event_table(lua, event)?)))
        }
        Input::Message(message) => Ok((Value::Table(message_table(lua, host, message)?), Value::Nil)),
    }
}

fn timer_data(lua: &Lua, host: &Host, target: &Target) -> Result<Value, Problem> {
    let Target::Timer(number) = target else { return Ok(Value::Nil) };
    let books = host.books.borrow();
    let data = books.timer(*number).and_then(|timer| timer.data.as_deref());
    data.map_or(Ok(Value::Nil), |data| host.read_json(lua, data))
}

fn event_table(lua: &Lua, event: &EventInfo) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, 4)?;
    table.raw_set("name", event.name.as_str())?;
    table.raw_set("plugin", event.plugin.as_deref())?;
    table.raw_set("id", event.id.as_str())?;
    table.raw_set("timestamp", event.timestamp.as_str())?;
    Ok(table)
}

fn message_table(lua: &Lua, host: &Host, message: &MqttMessage) -> Result<Table, Problem> {
    let bytes = message.payload.as_bytes();
    let json = match from_json(lua, &host.marker, bytes) {
        Ok(value) => value,
        Err(Unreadable::Syntax(_)) => Value::Nil,
        Err(Unreadable::Memory) => return Err(mlua::Error::MemoryError("not enough memory".into()).into()),
    };
    let table = lua.create_table_with_capacity(0, 7)?;
    table.raw_set("topic", message.topic.as_str())?;
    table.raw_set("payload", lua.create_string(bytes)?)?;
    table.raw_set("json", json)?;
    table.raw_set("levels", lua.create_sequence_from(message.levels.iter().map(String::as_str))?)?;
    table.raw_set("qos", message.qos)?;
    table.raw_set("retained", message.retained)?;
    table.raw_set("properties", properties_table(lua, &message.properties)?)?;
    Ok(table)
}

fn properties_table(lua: &Lua, properties: &Properties) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.raw_set("content_type", properties.content_type.as_deref())?;
    table.raw_set("response_topic", properties.response_topic.as_deref())?;
    if let Some(data) = &properties.correlation_data {
        table.raw_set("correlation_data", lua.create_string(data.as_bytes())?)?;
    }
    let user = lua.create_table()?;
    for (name, value) in &properties.user {
        user.raw_set(name.as_str(), value.as_str())?;
    }
    table.raw_set("user", user)?;
    Ok(table)
}
