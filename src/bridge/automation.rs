//! `<base>/automation/request[/<name>]`: an automation ran elsewhere; every plugin that cares hears of it.

use serde_json::{Map, Value, value::to_raw_value};

use super::{
    address::check_name,
    desk::Desk,
    outcome::Outcome,
    payload::{Payload, invalid},
    request::{Request, text_field},
};
use crate::model::{Envelope, Failure, message::Automation};

const HOOK: &str = "on_automation";

pub(super) async fn answer(
    desk: &Desk,
    request: &Request,
    path: Option<String>,
    payload: Payload,
) -> Envelope {
    let automation = match read(path, payload) {
        Ok(automation) => automation,
        Err(failure) => return Outcome::of(HOOK).failed(failure).envelope(request),
    };
    let mut outcome = Outcome::of(HOOK).named(automation.name);
    match to_raw_value(&input(request, automation.fields)) {
        Ok(input) => outcome.add(desk.registry().call_all(HOOK, &input, &request.cause).await),
        Err(error) => outcome = outcome.failed(invalid(error.to_string())),
    }
    outcome.envelope(request)
}

/// What `on_automation` gets.
pub(super) fn input(request: &Request, mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.insert("id".into(), request.echo.id.clone());
    fields
}

/// An object with `name`; or text, which is the name, or on a named topic the status.
pub(super) fn read(path: Option<String>, payload: Payload) -> Result<Automation, Failure> {
    let mut fields = match payload {
        Payload::Object(fields) => fields,
        Payload::Text(text) => from_text(path.is_some(), &text),
        Payload::Array(_) => return Err(invalid("an automation is an object with `name`; this is an array")),
    };
    for field in ["type", "status"] {
        text_field(&fields, field)?;
    }
    let name = match path {
        Some(name) => name,
        None => text_field(&fields, "name")?.filter(|name| !name.is_empty()).ok_or_else(|| {
            invalid("`name` is missing: send `{\"name\": \"morning\", \"status\": \"finished\"}`")
        })?,
    };
    check_name(&name).map_err(|reason| invalid(format!("`name`: {reason}")))?;
    fields.insert("name".into(), name.clone().into());
    Ok(Automation { name, fields })
}

fn from_text(named: bool, text: &str) -> Map<String, Value> {
    let text = text.trim();
    let mut fields = Map::new();
    if !text.is_empty() {
        fields.insert(if named { "status" } else { "name" }.into(), text.into());
    }
    fields
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::payload::read as payload, read};

    #[test]
    fn automations() {
        let check = |path: Option<&str>, text: &str, expect: Result<Value, &str>| {
            let read = read(path.map(Into::into), payload(text.as_bytes(), 10_000).unwrap());
            match (read, expect) {
                (Ok(automation), Ok(fields)) => {
                    assert_eq!(Value::Object(automation.fields), fields, "{text}")
                }
                (Err(failure), Err(expect)) => assert!(failure.message.contains(expect), "{failure}"),
                (read, expect) => panic!("{text}: {read:?} instead of {expect:?}"),
            }
        };
        check(None, r#"{"name":"m","status":"ok"}"#, Ok(json!({"name": "m", "status": "ok"})));
        check(Some("n"), r#"{"name":"m"}"#, Ok(json!({"name": "n"})));
        check(Some("n"), "finished", Ok(json!({"name": "n", "status": "finished"})));
        check(None, "morning", Ok(json!({"name": "morning"})));
        check(None, "", Err("`name` is missing"));
        check(None, "{}", Err("`name` is missing"));
        check(None, r#"{"name":"m","status":1}"#, Err("`status` must be a string, it is a number"));
        check(None, "[]", Err("this is an array"));
    }
}
