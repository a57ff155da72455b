//! Makes a bare VM into one that plugin code may run in. Knows the prelude, never a plugin.

use std::rc::Rc;

use mlua::{Function, LightUserData, Lua, LuaOptions, StdLib, Table, Value, chunk::ChunkMode};

use super::{failure, limits::Limiter, text};

/// Lua code that runs before the plugin's: replaces what could swallow a stop, locks the libraries.
const PRELUDE: &str = include_str!("prelude.lua");

/// Opens a VM with the libraries that plugins may have.
pub(super) fn open() -> mlua::Result<Lua> {
    let libraries = StdLib::TABLE | StdLib::STRING | StdLib::MATH | StdLib::UTF8 | StdLib::COROUTINE;
    // mlua's own `pcall`, which the other setting brings, cannot be yielded across.
    Lua::new_with(libraries, LuaOptions::new().catch_rust_panics(true))
}

/// Gives `jarvis.json.null` a name for `tostring`.
pub(super) fn name_null(lua: &Lua) -> mlua::Result<()> {
    let metatable = lua.create_table()?;
    metatable.raw_set("__tostring", lua.create_function(|_, ()| Ok("null"))?)?;
    metatable.raw_set("__name", "null")?;
    metatable.raw_set("__metatable", false)?;
    lua.set_type_metatable::<LightUserData>(Some(metatable));
    Ok(())
}

/// Makes the metatable of lists, out of the plugin's reach.
pub(super) fn build_marker(lua: &Lua) -> mlua::Result<Table> {
    let marker = lua.create_table()?;
    marker.raw_set("__metatable", false)?;
    Ok(marker)
}

/// How plugin code is called: through the true `xpcall`, so that no handler of mlua's meets its error objects, with a
/// message handler of ours, which notes where the error was raised.
pub(super) struct Entrance {
    xpcall: Function,
    handler: Function,
}

impl Entrance {
    /// Calls a function of the plugin's: whether it returned, and its first two results or its error object.
    pub(super) fn call(
        &self,
        function: &Function,
        arguments: (Value, Value),
    ) -> mlua::Result<(bool, Value, Value)> {
        self.xpcall.call((function, &self.handler, arguments.0, arguments.1))
    }
}

/// Locks the VM down around the `raw` functions of the API. Gives the way into it.
pub(super) fn close(lua: &Lua, limiter: &Rc<Limiter>, raw: Table) -> mlua::Result<Entrance> {
    let xpcall: Function = lua.globals().raw_get("xpcall")?;
    limiter.install(lua)?;
    let place = Rc::clone(limiter);
    raw.raw_set(
        "position",
        lua.create_function(move |lua, ()| {
            Ok(place.stack().place(lua).map(|place| place + ": ").unwrap_or_default())
        })?,
    )?;
    let catching = Rc::clone(limiter);
    raw.raw_set("caught", lua.create_function(move |lua, problem| caught(lua, &catching, problem))?)?;
    raw.raw_set("loaded", lua.named_registry_value::<Table>("_LOADED")?)?;
    lua.load(PRELUDE).set_name(format!("={}", text::PRELUDE)).set_mode(ChunkMode::Text).call::<()>(raw)?;
    limiter.stack().learn(lua, &xpcall)?;
    let noting = Rc::clone(limiter);
    let handler = lua.create_function(move |lua, problem: Value| {
        noting.note_raised(lua);
        with_line(lua, problem, |message| noting.stack().missing_place(lua, message))
    })?;
    Ok(Entrance { xpcall, handler })
}

/// What a protected call of the plugin's caught: whether the running call was stopped and must fail on, and the
/// error object, as text where it is mlua's (memory ran out inside a function of ours), and without a line of ours.
///
/// The prelude asks here, and no flag in a Lua table tells it: setting one can fail where the stack is full, and
/// a call that cannot be made is an error, which is as good as a stop.
fn caught(lua: &Lua, limiter: &Limiter, problem: Value) -> mlua::Result<(bool, Value)> {
    if limiter.is_tripped() {
        return Ok((true, Value::Nil));
    }
    let problem = match problem {
        Value::Error(error) => {
            let text = match failure::root(&error) {
                mlua::Error::MemoryError(_) => failure::NO_MEMORY.to_owned(),
                error => text::clean(failure::words(error).as_bytes(), 512),
            };
            Value::String(lua.create_string(text)?)
        }
        problem => problem,
    };
    Ok((false, with_line(lua, problem, |_| String::new())?))
}

/// An error's text without a line of the prelude's, which C puts before its errors where the prelude calls it, and
/// with what `place` says of such a text.
fn with_line(lua: &Lua, problem: Value, place: impl FnOnce(&[u8]) -> String) -> mlua::Result<Value> {
    let Value::String(message) = &problem else { return Ok(problem) };
    let bytes = message.as_bytes();
    let rest = text::strip_prelude(&bytes).unwrap_or(&bytes);
    let mut text = place(rest).into_bytes();
    if text.is_empty() && rest.len() == bytes.len() {
        drop(bytes);
        return Ok(problem);
    }
    text.extend_from_slice(rest);
    Ok(Value::String(lua.create_string(text)?))
}
