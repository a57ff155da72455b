//! The functions behind the `jarvis` table, one file per table of it. They take raw Lua values and answer with
//! a problem, a value or a reason; the prelude gives them their faces.

mod args;
mod config;
mod events;
mod http;
mod json;
pub(super) mod log;
mod mqtt;
mod plugin;
mod speech;
mod state;
mod text;
mod time;
mod timer;

use std::rc::Rc;

use mlua::{Function, Lua, Table, Value};

use super::host::{Host, Problem};

/// Bytes that a value takes in a Lua table at least.
const VALUE: usize = 16;

/// What a function of the API gives: its value, or nil and why.
enum Reply {
    Value(Value),
    Nothing,
    Failure(String),
}

type Answer = Result<Reply, Problem>;

/// One call of an API function.
struct Invocation<'a> {
    lua: &'a Lua,
    host: &'a Host,
    /// As the plugin calls it, `jarvis.state.get`.
    name: &'static str,
    arguments: [Value; 4],
}

/// A function of the API, by the name that the plugin calls it.
type Entry = (&'static str, fn(&Invocation<'_>) -> Answer);

/// Builds the table that the prelude makes the `jarvis` table from.
pub(super) fn build(lua: &Lua, host: &Rc<Host>) -> mlua::Result<Table> {
    let raw = lua.create_table()?;
    let tables: [(&str, &[Entry]); 9] = [
        ("config", config::FUNCTIONS),
        ("events", events::FUNCTIONS),
        ("json", json::FUNCTIONS),
        ("mqtt", mqtt::FUNCTIONS),
        ("state", state::FUNCTIONS),
        ("string", text::FUNCTIONS),
        ("time", time::FUNCTIONS),
        ("timer", timer::FUNCTIONS),
        ("top", speech::FUNCTIONS),
    ];
    for (name, entries) in tables {
        let table = lua.create_table()?;
        for (full_name, body) in entries {
            let key = full_name.rsplit('.').next().unwrap_or(full_name);
            table.raw_set(key, function(lua, host, full_name, *body)?)?;
        }
        raw.raw_set(name, table)?;
    }
    raw.raw_set("http", function(lua, host, "jarvis.http", http::request)?)?;
    raw.raw_set("log", function(lua, host, "jarvis.log", log::write)?)?;
    raw.raw_set("plugin", plugin::build(lua, &host.about)?)?;
    let describing = Rc::clone(host);
    raw.raw_set(
        "describe",
        lua.create_function(move |_, value: Value| Ok(log::describe(&describing, &value)))?,
    )?;
    raw.raw_set("null", Value::NULL)?;
    raw.raw_set("chunk", host.limiter.stack().chunk())?;
    raw.raw_set("most", host.limits.memory / VALUE)?;
    raw.raw_set("memory", host.limits.memory)?;
    Ok(raw)
}

/// Makes the raw function: it returns `problem, value, why` and raises nothing but a full heap.
fn function(
    lua: &Lua,
    host: &Rc<Host>,
    name: &'static str,
    body: fn(&Invocation<'_>) -> Answer,
) -> mlua::Result<Function> {
    let host = Rc::clone(host);
    lua.create_function(move |lua, (a, b, c, d): (Value, Value, Value, Value)| {
        if host.limiter.is_tripped() {
            return Err(mlua::Error::RuntimeError("stopped".into()));
        }
        match body(&Invocation { lua, host: &host, name, arguments: [a, b, c, d] }) {
            Ok(Reply::Value(value)) => Ok((None, value, None)),
            Ok(Reply::Nothing) => Ok((None, Value::Nil, None)),
            Ok(Reply::Failure(why)) => Ok((None, Value::Nil, Some(why))),
            Err(Problem::Mistake(text)) => Ok((Some(text), Value::Nil, None)),
            Err(Problem::Quota(text)) => {
                host.logs.refused(&host, &text);
                Ok((Some(text), Value::Nil, None))
            }
            Err(Problem::Vm(error)) => {
                host.limiter.stop_for_memory(lua);
                Err(error)
            }
        }
    })
}
