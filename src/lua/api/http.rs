//! `jarvis.http`: builds a request from its options. Where it may go is the bridge's to decide.

use mlua::{LuaString, Table, Value};

use super::{Answer, Invocation, Problem, Reply, args::Options};
use crate::{
    lua::failure::lua_type,
    model::{
        frame::{HttpRequest, HttpResponse, Operation},
        message::Payload,
    },
};

/// Bytes of a URL, of all headers, and of a body.
const MAX_URL: usize = 8 * 1024;
const MAX_HEADERS: usize = 32 * 1024;
const MAX_BODY: usize = 1024 * 1024;
/// Headers, and fields of a query or form.
const MAX_PAIRS: usize = 1000;

const OPTIONS: &[&str] = &["headers", "timeout", "query", "form", "json", "queue"];
/// `jarvis.http.request` has everything in one table.
const REQUEST_OPTIONS: &[&str] =
    &["method", "url", "body", "headers", "timeout", "query", "form", "json", "queue"];

/// `method, url, data, options`.
pub(super) fn request(call: &Invocation<'_>) -> Answer {
    let request = build_request(call)?;
    let answer = match call.host.ask(Operation::Http(request))? {
        Ok(answer) => answer,
        Err(why) => return Ok(Reply::Failure(why)),
    };
    let response: HttpResponse = serde_json::from_str(answer.get())
        .map_err(|error| call.mistake(&format!("got an answer that is no response: {error}")))?;
    let table = call.lua.create_table()?;
    table.raw_set("status", response.status)?;
    table.raw_set("ok", (200..300).contains(&response.status))?;
    table.raw_set("body", call.lua.create_string(response.body.as_bytes())?)?;
    let headers = call.lua.create_table()?;
    for (name, value) in &response.headers {
        headers.raw_set(name.as_str(), value.as_str())?;
    }
    table.raw_set("headers", headers)?;
    Ok(Reply::Value(Value::Table(table)))
}

fn build_request(call: &Invocation<'_>) -> Result<HttpRequest, Problem> {
    let method = call.text(0, "the method")?.to_ascii_uppercase();
    if !is_token(&method) || method.len() > 16 {
        return Err(call.mistake("wants a method such as GET or PUT"));
    }
    let is_whole = matches!(call.value(3), Value::Table(table) if table.raw_get::<Value>("url").is_ok_and(|u| !u.is_nil()));
    let options = call.options(3, if is_whole { REQUEST_OPTIONS } else { OPTIONS })?;
    if !options.get("queue")?.is_nil() {
        return Err(call.mistake("does not know the option `queue` yet: the request goes out at once"));
    }
    let mut url = call.text(1, "the URL")?;
    if let Some(query) = options.table("query")? {
        let query = url_encoded(call, &query, "query", MAX_URL)?;
        insert_query(&mut url, &query);
    }
    if url.len() > MAX_URL || url.chars().any(|c| c.is_control() || c == ' ') {
        return Err(call.mistake("wants a URL of at most 8 KiB without spaces; pass values with `query`"));
    }
    let mut headers = headers(call, &options)?;
    let body = body(call, &options)?;
    if let Some(media_type) = body.as_ref().and_then(|(_, media_type)| *media_type)
        && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type"))
    {
        headers.push(("content-type".into(), media_type.into()));
    }
    let timeout_ms = match options.get("timeout")? {
        Value::Nil => None,
        timeout => Some(call.delay(&timeout, "the option `timeout`")?.max(1)),
    };
    Ok(HttpRequest { method, url, headers, body: body.map(|(body, _)| body), timeout_ms })
}

/// The query goes before a fragment.
fn insert_query(url: &mut String, query: &str) {
    if query.is_empty() {
        return;
    }
    let end = url.find('#').unwrap_or(url.len());
    let head = url.get(..end).unwrap_or_default();
    let sign = match head.find('?') {
        None => "?",
        Some(position) if position + 1 == head.len() => "",
        Some(_) => "&",
    };
    url.insert_str(end, &format!("{sign}{query}"));
}

fn headers(call: &Invocation<'_>, options: &Options<'_>) -> Result<Vec<(String, String)>, Problem> {
    let Some(table) = options.table("headers")? else { return Ok(Vec::new()) };
    let headers = pairs(call, &table, "headers", MAX_HEADERS)?;
    match headers.iter().find(|(name, value)| !is_token(name) || value.chars().any(char::is_control)) {
        Some((name, _)) => {
            let name: String = name.chars().take(60).flat_map(char::escape_debug).collect();
            Err(call.mistake(&format!(
                "cannot send the header `{name}`: its name or value has a forbidden character"
            )))
        }
        None => Ok(headers),
    }
}

/// A body and, where it follows from how it was given, its media type.
type Body = (Payload, Option<&'static str>);

fn body(call: &Invocation<'_>, options: &Options<'_>) -> Result<Option<Body>, Problem> {
    let (data, json, form) = (call.value(2), options.get("json")?, options.table("form")?);
    let given = usize::from(!data.is_nil()) + usize::from(!json.is_nil()) + usize::from(form.is_some());
    if given > 1 {
        return Err(call.mistake("wants one body: data, `json` or `form`"));
    }
    let as_json = |value: &Value| -> Result<Body, Problem> {
        let text = call.host.write_json(value, "the request's body")?;
        Ok((Payload::Text(text.get().to_owned()), Some("application/json")))
    };
    let body = match (data, &json, form) {
        (_, _, Some(form)) => {
            let text = url_encoded(call, &form, "form", MAX_BODY)?;
            (Payload::Text(text), Some("application/x-www-form-urlencoded"))
        }
        (Value::Nil, Value::Nil, None) => return Ok(None),
        (Value::Nil, json, None) => as_json(json)?,
        (Value::String(bytes), _, None) => {
            check_body(call, bytes.as_bytes().len())?;
            (Payload::from_bytes(&bytes.as_bytes()), None)
        }
        (Value::Table(_), _, None) => as_json(data)?,
        (other, _, None) => {
            return Err(
                call.mistake(&format!("wants a string or table as the body, got {}", lua_type(other)))
            );
        }
    };
    check_body(call, body.0.as_bytes().len())?;
    Ok(Some(body))
}

fn check_body(call: &Invocation<'_>, bytes: usize) -> Result<(), Problem> {
    if bytes <= MAX_BODY {
        return Ok(());
    }
    Err(call.mistake("wants a body of at most 1 MiB"))
}

/// `name=value&…`, in the order of names.
fn url_encoded(call: &Invocation<'_>, table: &Table, what: &str, most: usize) -> Result<String, Problem> {
    let mut text = String::new();
    for (name, value) in pairs(call, table, what, most)? {
        if !text.is_empty() {
            text.push('&');
        }
        percent_encode(&name, &mut text);
        text.push('=');
        percent_encode(&value, &mut text);
    }
    Ok(text)
}

/// RFC 3986 §2.3: all but the unreserved characters.
fn percent_encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
            continue;
        }
        out.push('%');
        for digit in [byte >> 4, byte & 15] {
            out.extend(HEX.get(usize::from(digit)).map(|digit| char::from(*digit)));
        }
    }
}

/// The entries of a table of names and strings, numbers or booleans; a list as value gives its name again. Nothing is
/// taken over before it is known that all fits into so many bytes: a list can name one large string a thousand times.
fn pairs(
    call: &Invocation<'_>,
    table: &Table,
    what: &str,
    most: usize,
) -> Result<Vec<(String, String)>, Problem> {
    let bad = || {
        call.mistake(&format!(
            "wants names with strings, numbers or booleans in `{what}`, at most {MAX_PAIRS}"
        ))
    };
    let mut entries = list_pairs(table).map_err(|_| bad())?;
    let bytes: usize = entries.iter().map(|(name, value)| name.as_bytes().len() + length(value)).sum();
    if bytes > most {
        return Err(
            call.mistake(&format!("wants at most {} KiB in `{what}`, got {bytes} bytes", most / 1024))
        );
    }
    // A table has no order; without one the same request would differ from run to run.
    entries.sort_by_cached_key(|(name, _)| name.as_bytes().to_vec());
    entries
        .into_iter()
        .map(|(name, value)| {
            let value = match value {
                Value::String(text) => text.to_str().map_err(|_| bad())?.to_owned(),
                Value::Integer(number) => number.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Boolean(value) => value.to_string(),
                _ => return Err(bad()),
            };
            Ok((name.to_str().map_err(|_| bad())?.to_owned(), value))
        })
        .collect()
}

/// Fails at the first entry too many, or without a name: a list may be as long as the heap is large.
fn list_pairs(table: &Table) -> mlua::Result<Vec<(LuaString, Value)>> {
    let stop = || mlua::Error::RuntimeError(String::new());
    let mut entries = Vec::new();
    let mut add = |name: &LuaString, value: Value| {
        if entries.len() == MAX_PAIRS {
            return Err(stop());
        }
        entries.push((name.clone(), value));
        Ok(())
    };
    table.for_each(|key: Value, value: Value| match (key, value) {
        (Value::String(name), Value::Table(list)) => {
            list.for_each(|_: Value, value: Value| add(&name, value))
        }
        (Value::String(name), value) => add(&name, value),
        _ => Err(stop()),
    })?;
    Ok(entries)
}

fn length(value: &Value) -> usize {
    match value {
        Value::String(text) => text.as_bytes().len(),
        // The longest number.
        _ => 24,
    }
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::{insert_query, percent_encode};

    #[test]
    fn queries_are_joined_and_encoded() {
        let check = |url: &str, expect: &str| {
            let mut url = url.to_owned();
            let mut query = "q=".to_owned();
            percent_encode("a b&é", &mut query);
            insert_query(&mut url, &query);
            assert_eq!(url, expect);
        };
        check("http://h/p", "http://h/p?q=a%20b%26%C3%A9");
        check("http://h/p?x=1", "http://h/p?x=1&q=a%20b%26%C3%A9");
        check("http://h/p?#f", "http://h/p?q=a%20b%26%C3%A9#f");
    }
}
