//! `jarvis.timer`: calls later, once or again and again.

use mlua::Value;

use super::{Answer, Entry, Invocation, Reply, events::number_value};
use crate::lua::books::Timer;

/// The shortest time between two calls of a repeating timer.
const SHORTEST_MS: u64 = 100;

pub(super) const FUNCTIONS: &[Entry] =
    &[("jarvis.timer.after", after), ("jarvis.timer.every", every), ("jarvis.timer.cancel", cancel)];

fn after(call: &Invocation<'_>) -> Answer {
    let delay_ms = call.delay(call.value(0), "the delay")?;
    add(call, delay_ms, Repeat::Once)
}

fn every(call: &Invocation<'_>) -> Answer {
    let delay_ms = call.delay(call.value(0), "the delay")?;
    if delay_ms < SHORTEST_MS {
        return Err(call.mistake("wants at least 0.1 seconds between two calls"));
    }
    add(call, delay_ms, Repeat::Always)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Once,
    Always,
}

fn add(call: &Invocation<'_>, delay_ms: u64, repeat: Repeat) -> Answer {
    if let Value::String(_) = call.value(1) {
        return Err(call.mistake(
            "wants a function: timers by the name of a global function, which survive a restart, do not exist yet",
        ));
    }
    let function = call.function(1, "what to call")?;
    let options = call.options(2, &["name", "data"])?;
    let name = options.name("name", 64)?;
    let data = match options.get("data")? {
        Value::Nil => None,
        data => Some(call.host.write_json(&data, "the timer's data")?),
    };
    let timer = Timer { function, name, data, repeat: repeat == Repeat::Always };
    let number = call.host.books.borrow_mut().add_timer(timer, delay_ms)?;
    Ok(Reply::Value(number_value(number)))
}

/// True, or false where there is no such timer.
fn cancel(call: &Invocation<'_>) -> Answer {
    let mut books = call.host.books.borrow_mut();
    let number = match call.value(0) {
        Value::Integer(number) => u64::try_from(*number).ok(),
        Value::String(_) => books.timer_named(&call.text(0, "the timer's name")?),
        _ => return Err(call.mistake("wants the id or the name of a timer")),
    };
    let cancelled = number.map_or(Ok(false), |number| books.cancel_timer(number))?;
    Ok(Reply::Value(Value::Boolean(cancelled)))
}
