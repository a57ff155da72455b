//! What lies in the `jarvis` table itself: `say`, `command`, `sleep` and `uuid`.

use mlua::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Answer, Entry, Invocation, Reply};
use crate::{
    lua::convert::escaped_length,
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
    let options = call.options(1, &["conversation_id", "user", "site"])?;
    let say = Say {
        text,
        conversation_id: options.text("conversation_id")?,
        user: options.text("user")?,
        site: options.text("site")?,
    };
    let names = [&say.conversation_id, &say.user, &say.site];
    let longest = names.iter().filter_map(|name| name.as_ref().map(String::len)).max();
    if longest.is_some_and(|length| length > 256) {
        return Err(call.mistake("wants at most 256 bytes as conversation_id, user and site"));
    }
    let mut books = call.host.books.borrow_mut();
    books.count_output()?;
    books.push(Effect::Say(say), bytes)?;
    Ok(Reply::Nothing)
}

fn command(call: &Invocation<'_>) -> Answer {
    let name = call.text(0, "the command's name")?;
    if !(1..=128).contains(&name.len()) {
        return Err(call.mistake("wants a name of 1 to 128 bytes"));
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
