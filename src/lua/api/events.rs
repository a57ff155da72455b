//! `jarvis.events`: events between plugins.

use mlua::Value;
use serde_json::value::RawValue;

use super::{Answer, Entry, Invocation, Reply};
use crate::{
    lua::{
        books::{Handler, HandlerKind},
        text,
    },
    model::{
        frame::Effect,
        message::{is_event_name, is_event_pattern},
    },
};

pub(super) const FUNCTIONS: &[Entry] =
    &[("jarvis.events.emit", emit), ("jarvis.events.on", on), ("jarvis.events.off", off)];

fn emit(call: &Invocation<'_>) -> Answer {
    let name = call.text(0, "the event's name")?;
    if !is_event_name(&name) {
        let name = text::clean(name.as_bytes(), 80);
        return Err(
            call.mistake(&format!("cannot emit `{name}`: an event's name is 1 to 64 of A-Z a-z 0-9 _ . : -"))
        );
    }
    if let Some(why) = &*call.host.cut.borrow() {
        return Err(call.mistake(&format!("cannot emit `{name}`: {why}")));
    }
    let data: Box<RawValue> = call.host.write_json(call.value(1), &format!("the data of event `{name}`"))?;
    let bytes = name.len() + data.get().len();
    let mut books = call.host.books.borrow_mut();
    books.count_output()?;
    books.push(Effect::Emit { name, data }, bytes)?;
    Ok(Reply::Nothing)
}

fn on(call: &Invocation<'_>) -> Answer {
    let pattern = call.text(0, "the pattern")?;
    if !is_event_pattern(&pattern) {
        let pattern = text::clean(pattern.as_bytes(), 80);
        return Err(call.mistake(&format!(
            "cannot listen to `{pattern}`: write an event's name, `presence_*`, or `plugin/name`"
        )));
    }
    let function = call.function(1, "what to call")?;
    let options = call.options(2, &["priority", "once"])?;
    let (priority, once) = (options.integer("priority", 0)?, options.switch("once", false)?);
    let handler = Handler { function, kind: HandlerKind::Event, name: pattern.clone(), once };
    let bytes = pattern.len();
    let effect = |handler| Effect::On { handler, pattern, priority, once };
    let number = call.host.books.borrow_mut().add_handler(handler, bytes, effect)?;
    Ok(Reply::Value(number_value(number)))
}

fn off(call: &Invocation<'_>) -> Answer {
    remove(call, HandlerKind::Event)
}

/// Ends the handler of a number: true, or false where there was none.
pub(super) fn remove(call: &Invocation<'_>, kind: HandlerKind) -> Answer {
    let Value::Integer(number) = call.value(0) else {
        return Err(call.mistake("wants the id that the registration returned"));
    };
    let removed = match u64::try_from(*number) {
        Ok(number) => call.host.books.borrow_mut().remove_handler(number, kind)?,
        Err(_) => false,
    };
    Ok(Reply::Value(Value::Boolean(removed)))
}

/// A handler's or timer's number in Lua. They count up from 1 and never reach Lua's largest integer.
pub(super) fn number_value(number: u64) -> Value {
    Value::Integer(i64::try_from(number).unwrap_or(i64::MAX))
}
