//! `<base>/chat/request[/assistant]`: filters, plugins, the assistant, filters again.

use serde_json::{Map, Value, json, value::to_raw_value};

use super::{
    Assistant,
    address::Address,
    command,
    desk::Desk,
    outcome::Outcome,
    payload::{Payload, invalid, kind},
    reply::ReplyTo,
    request::Request,
};
use crate::{
    effects::Cause,
    model::{
        ErrorCode, Failure, PluginId, Topic,
        message::{ChatMessage, Command, Role},
    },
    mqtt::Outgoing,
    plugin::{Filtered, Step, Stop},
};

const HOOK: &str = "on_chat";

/// What an external assistant said to a message that waited for it.
#[derive(Debug)]
pub(super) struct Answer {
    outcome: Outcome,
}

pub(super) async fn answer(
    desk: &Desk,
    request: Request,
    address: &Address,
    payload: Payload,
    reply: ReplyTo,
) {
    let path_role = address.path.as_ref().map(|_| Role::Assistant);
    let outcome = match read(&request, path_role, payload) {
        Err(failure) => Outcome::of(HOOK).failed(failure),
        Ok(message) => match (slash(desk, &message), message.role) {
            (Some(command), Role::User) => run_command(desk, &request, command).await,
            (None, Role::User) => from_user(desk, &request, message).await,
            (_, Role::Assistant) => match from_assistant(desk, &request, message, &reply).await {
                Some(outcome) => outcome,
                None => return,
            },
        },
    };
    reply.send(desk, &outcome.envelope(&request), &request.cause).await;
}

/// A message, every field in its place.
pub(super) fn read(
    request: &Request,
    path_role: Option<Role>,
    payload: Payload,
) -> Result<ChatMessage, Failure> {
    let mut fields = match payload {
        Payload::Object(fields) => fields,
        Payload::Text(text) => Map::from_iter([("content".to_owned(), Value::String(text))]),
        Payload::Array(_) => {
            return Err(invalid("a chat message is an object with `content`, or text; this is an array"));
        }
    };
    let content = match fields.get("content") {
        Some(Value::String(content)) if content.trim().is_empty() => {
            return Err(invalid("`content` is empty: there is nothing to answer"));
        }
        Some(Value::String(content)) => content.clone(),
        Some(other) => return Err(invalid(format!("`content` must be a string, it is {}", kind(other)))),
        None => {
            return Err(invalid(
                "`content` is missing: send `{\"content\": \"Hello\"}`, or the text `Hello`",
            ));
        }
    };
    let role = match (path_role, fields.get("role")) {
        (Some(role), _) => role,
        (None, None | Some(Value::Null)) => Role::User,
        (None, Some(role)) => serde_json::from_value(role.clone()).map_err(|_| {
            let role = crate::model::shown(&role.to_string(), 80);
            invalid(format!("`role` must be \"user\" or \"assistant\", it is {role}"))
        })?,
    };
    fields.insert("id".into(), request.echo.id.clone());
    fields.insert("role".into(), json!(role));
    fields.entry("timestamp").or_insert_with(|| crate::model::now().into());
    fields.remove("reply_to");
    Ok(ChatMessage { role, content, fields })
}

/// The command that a chat text asks for, where a plugin declares it.
fn slash(desk: &Desk, message: &ChatMessage) -> Option<Command> {
    let text = message.content.trim();
    if !desk.config().slash_commands || !text.starts_with('/') {
        return None;
    }
    command::words(text).ok().filter(|command| desk.registry().declares(&command.name))
}

async fn run_command(desk: &Desk, request: &Request, command: Command) -> Outcome {
    let mut outcome = command::run(desk, request, command).await;
    filter_response(desk, request, &mut outcome, None).await;
    outcome
}

/// filter_message → chat/prompt → on_chat → filter_response, and the assistant where nobody answered.
async fn from_user(desk: &Desk, request: &Request, message: ChatMessage) -> Outcome {
    let filtered = desk.registry().filter("filter_message", message.fields, &request.cause).await;
    let Filtered { message, stopped, failures } = filtered;
    let mut outcome = Outcome::of(HOOK);
    if let Some(stop) = stopped {
        outcome.note(failures);
        return outcome.failed(cancelled(&stop));
    }
    // Asked for before the prompt goes out, so that no answer can be too early.
    let external = desk.config().assistant == Assistant::External;
    let waiting = external.then(|| desk.wait_for_answer(&request.echo.id)).flatten();
    publish_prompt(desk, &message, &request.cause).await;
    outcome.add(call(desk, &message, &request.cause).await);
    outcome.note(failures);
    // A plugin that failed, or said something without a text for the user, leaves the answer to the assistant.
    if outcome.response().is_some() {
        desk.waiting_for(&request.echo.id);
    } else if let Some(waiting) = waiting {
        return match tokio::time::timeout(desk.config().chat_timeout, waiting).await {
            Ok(Ok(answer)) => answer.outcome.after(outcome),
            Ok(Err(_)) => outcome.failed(replaced()),
            Err(_) => {
                desk.waiting_for(&request.echo.id);
                outcome.failed(no_answer(desk))
            }
        };
    }
    let speaker = outcome.speaker().cloned();
    filter_response(desk, request, &mut outcome, speaker.as_ref()).await;
    outcome
}

/// What the assistant core said: filter_response → on_chat, whose text does not count. Nothing where a
/// message waited for it and the answer goes there alone.
async fn from_assistant(
    desk: &Desk,
    request: &Request,
    message: ChatMessage,
    reply: &ReplyTo,
) -> Option<Outcome> {
    let mut outcome = Outcome::of(HOOK);
    let asked = message.fields.get("in_reply_to").cloned();
    let filtered = desk.registry().filter("filter_response", message.fields, &request.cause).await;
    let Filtered { message, stopped, failures } = filtered;
    outcome.note(failures);
    match stopped {
        Some(stop) => outcome = outcome.failed(cancelled(&stop)),
        None => {
            outcome.hear(call(desk, &message, &request.cause).await);
            outcome.set_response(text_of(&message));
        }
    }
    let Some(waiting) = asked.and_then(|id| desk.waiting_for(&id)) else { return Some(outcome) };
    // The one who asked may have given up just now; then the answer goes out as any other.
    let own = reply.is_wanted().then(|| outcome.clone());
    match waiting.send(Answer { outcome }) {
        Ok(()) => own,
        Err(Answer { outcome }) => Some(outcome),
    }
}

async fn call(desk: &Desk, message: &Map<String, Value>, cause: &Cause) -> Vec<(PluginId, Step)> {
    match to_raw_value(message) {
        Ok(input) => desk.registry().call_all(HOOK, &input, cause).await,
        Err(_) => Vec::new(),
    }
}

/// Sends the text of an answer through the response filters; without a text there is nothing to filter.
async fn filter_response(desk: &Desk, request: &Request, outcome: &mut Outcome, speaker: Option<&PluginId>) {
    let Some(text) = outcome.response() else { return };
    let mut message = Map::from_iter([
        ("id".to_owned(), request.echo.id.clone()),
        ("role".to_owned(), json!(Role::Assistant)),
        ("content".to_owned(), json!(text)),
    ]);
    if let Some(conversation) = &request.echo.conversation_id {
        message.insert("conversation_id".into(), conversation.clone());
    }
    if let Some(speaker) = speaker {
        message.insert("plugin".into(), json!(speaker));
    }
    let filtered = desk.registry().filter("filter_response", message, &request.cause).await;
    outcome.note(filtered.failures);
    match filtered.stopped {
        Some(stop) => outcome.withhold(cancelled(&stop)),
        None => outcome.set_response(text_of(&filtered.message)),
    }
}

fn text_of(message: &Map<String, Value>) -> Option<String> {
    message.get("content").and_then(Value::as_str).map(str::to_owned)
}

/// For an assistant core to answer.
async fn publish_prompt(desk: &Desk, message: &Map<String, Value>, cause: &Cause) {
    let topic = Topic::parse(&format!("{}/chat/prompt", desk.config().base));
    let (Ok(topic), Ok(payload)) = (topic, serde_json::to_vec(message)) else { return };
    let mut outgoing = Outgoing::new(topic, payload);
    outgoing.receipt = cause.receipt();
    desk.outbox().send(outgoing).await;
}

pub(super) fn cancelled(stop: &Stop) -> Failure {
    let reason = stop.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    Failure::new(ErrorCode::Cancelled, format!("plugin `{}` stopped the message{reason}", stop.plugin))
}

fn no_answer(desk: &Desk) -> Failure {
    let seconds = desk.config().chat_timeout.as_secs();
    let text = format!("no assistant answered within {seconds} s (chat.timeout) on `chat/request/assistant`");
    Failure::new(ErrorCode::Timeout, text)
}

fn replaced() -> Failure {
    Failure::new(ErrorCode::Unavailable, "another message with the same id waits for the assistant now")
}
