//! Reads the stack of the running Lua code: the plugin's line, and the calls that led there. Looks at frames
//! only, never at values, so that no code of a plugin runs here.

use std::{cell::RefCell, collections::HashMap, ffi::c_void, fmt::Write as _};

use mlua::{Function, Lua, Table, Value, debug::Debug};

use super::text;
use crate::model::frame::HOOKS;

/// Frames that are searched for a line of the plugin's own.
const NEAR: usize = 24;
/// Frames that are looked at for a traceback: a line of it can stand for several.
const FRAMES: usize = 100;
/// Lines of a traceback, and its bytes.
const MAX_LINES: usize = 20;
const MAX_BYTES: usize = 2048;
/// Bytes of a function's name.
const MAX_NAME: usize = 60;

/// Knows which frames are the plugin's, and what the functions that it is given are called.
pub(super) struct Stack {
    /// The plugin's chunk as Lua names it, `=weather.lua`.
    source: String,
    /// By their addresses. The one without a name is what calls the plugin.
    names: RefCell<HashMap<*const c_void, String>>,
}

/// The calls of one stack, a line each, the innermost first.
#[derive(Debug, Default)]
pub(super) struct Traceback {
    pub(super) text: String,
    lines: usize,
    /// Whether it goes down to what called the plugin, or as far as it may; a coroutine's does not.
    pub(super) is_whole: bool,
}

/// What one frame is.
enum Frame {
    /// The plugin's own, with its line of the traceback.
    Own { line: String, is_tail_call: bool },
    /// A function that the plugin was given, or one behind it that has no name for the plugin.
    Library(Option<String>),
    /// What called the plugin.
    Bottom,
}

impl Stack {
    pub(super) fn new(chunk: &str) -> Self {
        Self { source: format!("={chunk}"), names: RefCell::default() }
    }

    /// Learns what the functions are called that a plugin finds, before its code can change anything; `caller` is what
    /// it is called through.
    pub(super) fn learn(&self, lua: &Lua, caller: &Function) -> mlua::Result<()> {
        let mut names = self.names.borrow_mut();
        collect(&mut names, "", &lua.globals(), 2)?;
        names.insert(caller.to_pointer(), String::new());
        Ok(())
    }

    /// The nearest line of the plugin, as in `weather.lua:12`.
    pub(super) fn place(&self, lua: &Lua) -> Option<String> {
        (0..NEAR).find_map(|level| {
            lua.inspect_stack(level, |frame| {
                let is_own = frame.source().source.as_deref() == Some(&self.source);
                let line = frame.current_line().filter(|_| is_own)?;
                Some(format!("{}:{line}", self.chunk()))
            })?
        })
    }

    /// Adds the calls that are running now to a traceback, but for the innermost `skipped` frames.
    pub(super) fn trace(&self, lua: &Lua, skipped: usize, traceback: &mut Traceback) {
        // Of functions of the library that call each other the plugin called the outermost.
        let mut library = None;
        for level in skipped..skipped + FRAMES {
            match lua.inspect_stack(level, |frame| self.read(lua, frame)) {
                Some(Frame::Library(name)) => library = name,
                Some(Frame::Own { line, is_tail_call }) => {
                    traceback.push_library(library.take());
                    traceback.push(&line);
                    if is_tail_call {
                        traceback.push("(...tail calls...)");
                    }
                }
                Some(Frame::Bottom) => {
                    traceback.push_library(library);
                    traceback.is_whole = true;
                    return;
                }
                None => return traceback.push_library(library),
            }
            if traceback.is_whole {
                return;
            }
        }
        traceback.cut();
    }

    /// The plugin's file, as in `weather.lua`.
    pub(super) fn chunk(&self) -> &str {
        self.source.trim_start_matches('=')
    }

    fn read(&self, lua: &Lua, frame: &Debug<'_>) -> Frame {
        let source = frame.source();
        if source.source.as_deref() != Some(&self.source) {
            let names = self.names.borrow();
            return match names.get(&frame.function().to_pointer()) {
                Some(name) if name.is_empty() => Frame::Bottom,
                name => Frame::Library(name.cloned()),
            };
        }
        let chunk = self.chunk();
        let mut line = match frame.current_line() {
            Some(number) => format!("{chunk}:{number}: in "),
            None => format!("{chunk}: in "),
        };
        let names = frame.names();
        // Writing to a text cannot fail.
        let _ = match (names.name, names.name_what) {
            (Some(name), kind) if source.what != "main" => {
                let kind = kind.filter(|kind| *kind != "global").unwrap_or("function");
                write!(line, "{kind} '{}'", text::clean(name.as_bytes(), MAX_NAME))
            }
            _ if source.what == "main" => write!(line, "main chunk"),
            _ => match hook_name(lua, &frame.function()) {
                Some(name) => write!(line, "function '{name}'"),
                None => write!(line, "function <{chunk}:{}>", source.line_defined.unwrap_or(0)),
            },
        };
        Frame::Own { line, is_tail_call: frame.is_tail_call() }
    }
}

impl Traceback {
    fn push_library(&mut self, name: Option<String>) {
        if let Some(name) = name {
            self.push(&format!("[C]: in function '{name}'"));
        }
    }

    fn push(&mut self, line: &str) {
        if self.is_whole {
            return;
        }
        if self.lines == MAX_LINES || self.text.len() + line.len() + 8 > MAX_BYTES {
            return self.cut();
        }
        if self.lines > 0 {
            self.text.push('\n');
        }
        self.text.push_str(line);
        self.lines += 1;
    }

    /// There is more, which is not shown.
    fn cut(&mut self) {
        self.text.push_str(if self.text.is_empty() { "..." } else { "\n..." });
        self.is_whole = true;
    }
}

/// The name of a hook, which nothing in Lua called and so nothing in Lua names.
fn hook_name(lua: &Lua, function: &Function) -> Option<&'static str> {
    let globals = lua.globals();
    let is_it =
        |name: &&str| matches!(globals.raw_get(*name), Ok(Value::Function(hook)) if hook == *function);
    HOOKS.into_iter().find(is_it)
}

/// Names the functions of a table and of the read-only tables in it.
fn collect(
    names: &mut HashMap<*const c_void, String>,
    prefix: &str,
    table: &Table,
    depth: usize,
) -> mlua::Result<()> {
    table.for_each(|key: String, value: Value| {
        let name = format!("{prefix}{key}");
        match value {
            Value::Function(function) => _ = names.insert(function.to_pointer(), name),
            Value::Table(table) if depth > 0 => {
                let shown = table.metatable().map(|metatable| metatable.raw_get::<Value>("__index"));
                if let Some(Value::Table(real)) = shown.transpose()? {
                    collect(names, &format!("{name}."), &real, depth - 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    })
}
