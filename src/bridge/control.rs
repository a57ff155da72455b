//! `<base>/bridge/request/<op>`: administration, with the same envelope as everything else.

use serde_json::{Value, json};

use super::{
    Admin, announce,
    desk::Desk,
    outcome::Outcome,
    payload::{Payload, invalid},
    request::Request,
};
use crate::model::{Envelope, ErrorCode, Failure};

/// What can be asked, and whether it changes something.
const OPERATIONS: [(&str, bool); 5] = [
    ("health", false),
    ("info", false),
    ("plugin/info", false),
    ("plugin/list", false),
    ("plugin/reload", true),
];

pub(super) async fn answer(
    desk: &Desk,
    request: &Request,
    path: Option<String>,
    payload: Payload,
) -> Envelope {
    let Some(operation) = path else {
        let failure =
            invalid(format!("the operation is missing: publish to `bridge/request/<op>`; {}", known()));
        return Outcome::default().failed(failure).envelope(request);
    };
    let outcome = Outcome::default().named(&operation);
    match run(desk, &operation, payload).await {
        Ok(data) => outcome.with_data(&data),
        Err(failure) => outcome.failed(failure),
    }
    .envelope(request)
}

async fn run(desk: &Desk, operation: &str, payload: Payload) -> Result<Value, Failure> {
    let Some((_, changes)) = OPERATIONS.iter().find(|(name, _)| *name == operation) else {
        let text = format!("there is no operation `{operation}`; {}", known());
        return Err(Failure::new(ErrorCode::UnknownOperation, text));
    };
    permitted(desk.config().admin, operation, *changes)?;
    match operation {
        "health" => Ok(announce::health(desk)),
        "info" => Ok(announce::info(desk)),
        "plugin/list" => Ok(json!(desk.registry().list())),
        "plugin/info" => {
            let id = plugin_id(payload)?;
            match desk.registry().details(&id) {
                Some(details) => Ok(json!(details)),
                None => refused_or_unknown(desk, &id),
            }
        }
        _ => {
            let id = plugin_id(payload)?;
            let id = desk.plugins().reload(&id).await?;
            Ok(json!(desk.registry().details(id.as_str())))
        }
    }
}

/// A file that was refused has no more to tell than its fault.
fn refused_or_unknown(desk: &Desk, id: &str) -> Result<Value, Failure> {
    let refused = desk.registry().list().into_iter().find(|info| info.id == id);
    refused.map(|info| json!(info)).ok_or_else(|| desk.registry().unknown(id))
}

fn permitted(admin: Admin, operation: &str, changes: bool) -> Result<(), Failure> {
    let setting = match admin {
        Admin::Full => return Ok(()),
        Admin::Read if !changes => return Ok(()),
        Admin::Read => "read",
        Admin::Off => "off",
    };
    let text = format!("`{operation}` is not allowed here: bridge.admin_over_mqtt is \"{setting}\"");
    Err(Failure::new(ErrorCode::Forbidden, text))
}

/// The plugin an operation is about: text, or `id` of an object.
fn plugin_id(payload: Payload) -> Result<String, Failure> {
    let id = match payload {
        Payload::Text(text) => text.trim().to_owned(),
        Payload::Object(fields) => match fields.get("id") {
            Some(Value::String(id)) => id.clone(),
            Some(_) | None => String::new(),
        },
        Payload::Array(_) => String::new(),
    };
    if id.is_empty() {
        return Err(invalid("`id` is missing: send the plugin's id as text, or `{\"id\": \"weather\"}`"));
    }
    Ok(id)
}

fn known() -> String {
    let names: Vec<&str> = OPERATIONS.iter().map(|(name, _)| *name).collect();
    format!("there are {}", names.join(", "))
}
