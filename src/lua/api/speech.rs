//! What lies in the `jarvis` table itself: `say`, `command`, `sleep` and `uuid`.

use mlua::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Answer, Entry, Invocation, Reply};
use crate::{
    lua::{convert::escaped_length, text},
    model::frame::{Effect, Operation, Say},
};

/// The longest `jarvis.sleep`.
const MAX_SLEEP_MS: u64 = 5000;

pub(super) const FUNCTIONS: &[Entry] =
    &[("jarvis.say", say), ("jarvis.command", command), ("jarvis.sleep", sleep), ("jarvis.uuid", uuid)];

/// Counts as a publish: it becomes one.
fn say(call: &Invocation<'_>) -> Answer {
    let text = call.text(0, "the text")?;
    let limit = call.host.limits.result;
    let bytes = escaped_length(&text);
    if bytes > limit || text.is_empty() {
        return Err(call.mistake(&format!("wants a text of 1 to {limit} bytes (limits.result)")));
    }
    if let Some(why) = &*call.host.cut.borrow() {
        return Err(call.mistake(&format!("cannot be heard: {why}")));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        return Err(call.mistake("wants a text without control characters, but for line breaks and tabs"));
    }
    let options = call.options(1, &["conversation_id", "user", "site"])?;
    let say = Say {
        text,
        conversation_id: options.name("conversation_id", 256)?,
        user: options.name("user", 256)?,
        site: options.name("site", 256)?,
    };
    let mut books = call.host.books.borrow_mut();
    books.count_output()?;
    books.push(Effect::Say(say), bytes)?;
    Ok(Reply::Nothing)
}

fn command(call: &Invocation<'_>) -> Answer {
    let name = call.text(0, "the command's name")?;
    if !(1..=128).contains(&name.len()) {
        return Err(call.mistake(&format!("wants a name of 1 to 128 bytes, got {}", name.len())));
    }
    if !name.split('/').all(is_level) {
        return Err(call.mistake(&format!(
            "cannot run `{}`: a command's name is letters, digits, `_`, `.` and `-`, and `/` between levels",
            text::clean(name.as_bytes(), 80)
        )));
    }
    let args = match call.value(1) {
        Value::Nil => RawValue::from_string("{}".into()).unwrap_or_else(|_| RawValue::NULL.to_owned()),
        args @ Value::Table(_) => {
            call.host.write_json(args, &format!("the arguments of command `{name}`"))?
        }
        _ => return Err(call.mistake("wants a table as the command's arguments")),
    };
    match call.host.ask(Operation::Command { name, args })? {
        Ok(result) => Ok(Reply::Value(call.host.read_json(call.lua, &result)?)),
        Err(why) => Ok(Reply::Failure(why)),
    }
}

fn is_level(level: &str) -> bool {
    !level.is_empty() && level.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn sleep(call: &Invocation<'_>) -> Answer {
    let millis = call.delay(call.value(0), "how long")?;
    if millis > MAX_SLEEP_MS {
        return Err(call.mistake("waits at most 5 seconds: use jarvis.timer.after, which blocks nobody"));
    }
    match call.host.ask(Operation::Sleep(millis))? {
        Ok(_) => Ok(Reply::Nothing),
        Err(why) => Ok(Reply::Failure(why)),
    }
}

fn uuid(call: &Invocation<'_>) -> Answer {
    let text = Uuid::now_v7().to_string();
    Ok(Reply::Value(Value::String(call.lua.create_string(text)?)))
}
