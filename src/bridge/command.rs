//! `<base>/command/request[/<name>]`: a name and its arguments, answered by a plugin.

use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    address::check_name,
    desk::Desk,
    outcome::Outcome,
    payload::{Payload, invalid, kind},
    request::Request,
};
use crate::{
    model::{Envelope, ErrorCode, Failure, message::Command},
    plugin::Registry,
};

const HOOK: &str = "on_command";

pub(super) async fn answer(
    desk: &Desk,
    request: &Request,
    path: Option<String>,
    payload: Payload,
) -> Envelope {
    match read(path, payload) {
        Ok(command) => run(desk, request, command).await.envelope(request),
        Err((name, failure)) => {
            let outcome = Outcome::of(HOOK).failed(failure);
            name.into_iter().fold(outcome, Outcome::named).envelope(request)
        }
    }
}

/// Runs a command; shared with the slash commands of the chat.
pub(super) async fn run(desk: &Desk, request: &Request, command: Command) -> Outcome {
    ask(desk.registry(), request, command).await
}

/// Asks the plugins.
pub(super) async fn ask(registry: &Registry, request: &Request, command: Command) -> Outcome {
    let mut outcome = Outcome::of(HOOK).named(&command.name);
    let input = match to_raw_value(&input(request, &command)) {
        Ok(input) => input,
        Err(error) => return outcome.failed(invalid(error.to_string())),
    };
    // As values its arguments take many times their text, and a slow plugin may let it wait for long.
    let Command { name, args } = command;
    drop(args);
    let asked = registry.command(&name, &input, &request.cause).await;
    outcome.add(asked.steps);
    if let Some(refusal) = asked.refusal {
        return outcome.failed(refusal);
    }
    if outcome.is_answered() || outcome.has_failed() {
        return outcome;
    }
    outcome.failed(unanswered(&name, registry.declares(&name)))
}

/// What `on_command` gets.
pub(super) fn input(request: &Request, command: &Command) -> Map<String, Value> {
    let echo = &request.echo;
    let mut input = Map::from_iter([
        ("id".to_owned(), echo.id.clone()),
        ("name".to_owned(), json!(command.name)),
        ("args".to_owned(), command.args.clone()),
    ]);
    for (key, value) in
        [("conversation_id", &echo.conversation_id), ("user", &echo.user), ("site", &echo.site)]
    {
        if let Some(value) = value {
            input.insert(key.into(), value.clone());
        }
    }
    input
}

fn unanswered(name: &str, declared: bool) -> Failure {
    let text = match declared {
        true => format!("the plugin that declares `{name}` returned nil for it"),
        false => {
            format!("nobody answers the command `{name}`: no plugin declares it or returned something for it")
        }
    };
    Failure::new(ErrorCode::UnknownCommand, text)
}

/// A command, or why there is none, with its name as far as it is known.
fn read(path: Option<String>, payload: Payload) -> Result<Command, (Option<String>, Failure)> {
    let Some(name) = path else {
        return read_unnamed(payload).map_err(|failure| (None, failure));
    };
    let args = match payload {
        Payload::Object(mut fields) => {
            fields.remove("reply_to");
            fields.remove("transaction");
            Value::Object(fields)
        }
        Payload::Array(values) => Value::Array(values),
        Payload::Text(text) if text.is_empty() => json!({}),
        Payload::Text(text) => json!({ "text": text }),
    };
    Ok(Command { name, args })
}

pub(super) fn read_unnamed(payload: Payload) -> Result<Command, Failure> {
    match payload {
        Payload::Text(text) => words(&text),
        Payload::Object(fields) => read_object(fields),
        Payload::Array(_) => Err(invalid("a command is an object with `name`, or text; this is an array")),
    }
}

fn read_object(mut fields: Map<String, Value>) -> Result<Command, Failure> {
    let name = match fields.remove("name") {
        Some(Value::String(name)) => name,
        Some(other) => return Err(invalid(format!("`name` must be a string, it is {}", kind(&other)))),
        None => return Err(invalid("`name` is missing: send `{\"name\": \"help\"}`, or the text `help`")),
    };
    let name = name.strip_prefix('/').unwrap_or(&name).to_owned();
    check_name(&name).map_err(|reason| invalid(format!("`name`: {reason}")))?;
    let args = match fields.remove("args") {
        None | Some(Value::Null) => json!({}),
        Some(Value::String(text)) => args_of(&text),
        Some(args @ (Value::Object(_) | Value::Array(_))) => args,
        Some(other) => {
            let text = format!("`args` must be an object, an array or a string, it is {}", kind(&other));
            return Err(invalid(text));
        }
    };
    Ok(Command { name, args })
}

/// `/name words` or `name words`.
pub(super) fn words(text: &str) -> Result<Command, Failure> {
    let text = text.trim();
    let text = text.strip_prefix('/').unwrap_or(text);
    let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    if name.is_empty() {
        return Err(invalid("the command is empty: send its name, as in `help`"));
    }
    check_name(name).map_err(invalid)?;
    let args = if rest.trim().is_empty() { json!({}) } else { args_of(rest) };
    Ok(Command { name: name.to_owned(), args })
}

fn args_of(text: &str) -> Value {
    let words: Vec<&str> = text.split_whitespace().collect();
    json!({ "text": text.trim(), "words": words })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::payload::read as payload, read};

    fn check(path: Option<&str>, text: &str, expect: Result<(&str, Value), &str>) {
        let read = read(path.map(Into::into), payload(text.as_bytes(), 10_000).unwrap());
        match (read, expect) {
            (Ok(command), Ok((name, args))) => {
                assert_eq!((command.name.as_str(), command.args), (name, args), "{text}");
            }
            (Err((_, failure)), Err(expect)) => assert!(failure.message.contains(expect), "{failure}"),
            (read, expect) => panic!("{text}: {read:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn commands_without_a_path() {
        check(None, "help", Ok(("help", json!({}))));
        check(None, "/help", Ok(("help", json!({}))));
        check(None, "weather in Lyon", Ok(("weather", json!({"text": "in Lyon", "words": ["in", "Lyon"]}))));
        check(None, r#"{"name":"a/b","args":{"n":1}}"#, Ok(("a/b", json!({"n": 1}))));
        check(
            None,
            r#"{"name":"/say","args":"hi you"}"#,
            Ok(("say", json!({"text": "hi you", "words": ["hi", "you"]}))),
        );
        check(None, r#"{"name":"x","args":[1]}"#, Ok(("x", json!([1]))));
        check(None, "", Err("the command is empty"));
        check(None, "{}", Err("`name` is missing"));
        check(None, r#"{"name":5}"#, Err("`name` must be a string, it is a number"));
        check(None, r#"{"name":"a b"}"#, Err("`a b` is not a name"));
        check(None, r#"{"name":"x","args":5}"#, Err("`args` must be an object"));
        check(None, "[]", Err("this is an array"));
    }

    #[test]
    fn a_payload_on_a_named_topic_is_the_arguments_whole() {
        check(
            Some("light"),
            r#"{"id":7,"name":"x","transaction":1,"reply_to":"y"}"#,
            Ok(("light", json!({"id": 7, "name": "x"}))),
        );
        check(Some("light"), "on", Ok(("light", json!({"text": "on"}))));
        check(Some("light"), "", Ok(("light", json!({}))));
        check(Some("light"), "[1,2]", Ok(("light", json!([1, 2]))));
    }
}
