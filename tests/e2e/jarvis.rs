//! The Jarvis document's own Lua, as it stands there: `jarvis/*.lua` are its snippets word for word.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    thread,
};

use serde_json::json;

use crate::harness::{Bridge, Broker, Setup, on_each_broker};

on_each_broker!(
    every_hook_of_the_document_is_called,
    every_function_of_the_document_works,
    the_example_plugins_of_the_document_work_together,
);

const HOOKS: &str = include_str!("jarvis/hooks.lua");
const HEADER: &str = include_str!("jarvis/header.lua");
const API: &str = include_str!("jarvis/api.lua");
const WELCOME: &str = include_str!("jarvis/welcome.lua");
const COMMANDS: &str = include_str!("jarvis/commands.lua");
const FILTERS: &str = include_str!("jarvis/filters.lua");

fn every_hook_of_the_document_is_called(broker: &Broker) {
    // The document's header and its list of hooks are one plugin.
    let jarvis = Setup::new(broker).file("unique.lua", &format!("{HEADER}\n{HOOKS}")).start();
    jarvis.log.expect("Plugin started!");
    jarvis.check(
        "chat/request",
        "  Hello  ",
        json!({ "status": "ok", "response": null, "results": [
            { "plugin": "unique_plugin_id", "status": "ok", "data": { "status": "ok" } },
        ] }),
    );
    // filter_message trims what everybody else gets to see.
    jarvis.expect("jarvis/chat/prompt", json!({ "role": "user", "content": "Hello" }));
    jarvis.check("chat/request/assistant", "Hello, Ada", json!({ "response": "HELLO, ADA" }));
    jarvis.check("command/request", "weather", json!({ "response": "Sunny ☀️" }));
    jarvis.check("command/request", "other", json!({ "code": "unknown_command" }));
    jarvis.check(
        "automation/request",
        json!({ "name": "morning", "type": "schedule", "status": "finished" }),
        json!({ "status": "ok", "data": { "success": true } }),
    );
    let log = jarvis.log.clone();
    let _again = jarvis.restart();
    log.expect("Plugin shutting down");
}

fn every_function_of_the_document_works(broker: &Broker) {
    let (port, requests) = web_server();
    let code = format!(
        r#"
-- @permissions http:127.0.0.1:{port}
local heard = {{}}
function on_command(cmd)
  if cmd.name == "heard" then return {{ heard = heard }} end
  local url, data = "http://127.0.0.1:{port}/x", {{ asked = true }}
  local key, value = "city", "Lyon"
  local event_name, callback = "door.opened", function(data, event) heard[#heard + 1] = event.name end
{API}
  return {{ state = jarvis.state.get(key), config = jarvis.config.get(key) }}
end
"#
    );
    let jarvis = Bridge::start(broker, &[("api", &code)]);
    let expected = json!({ "status": "ok", "data": { "state": "Lyon", "config": "Lyon" } });
    jarvis.check("command/request", "all", expected);
    jarvis.log.expect("Message");
    assert_eq!([requests.recv().unwrap(), requests.recv().unwrap()], ["GET /x HTTP/1.1", "POST /x HTTP/1.1"]);
    jarvis.expect(
        "jarvis/event/api/door.opened",
        json!({ "event_type": "door.opened", "data": { "asked": true } }),
    );
    jarvis.check("event/request/door.opened", "{}", json!({ "data": { "delivered": 1 } }));
    let heard = jarvis.ask("command/request", "heard");
    let heard = heard["data"]["heard"].as_array().unwrap().len();
    assert!(heard >= 1, "the event from outside was heard, and perhaps its own");
    // What was set is still there when the bridge comes back.
    let again = jarvis.restart();
    again.check("command/request", "all", json!({ "data": { "state": "Lyon" } }));
}

/// Answers each request with `ok`, and tells its first line.
fn web_server() -> (u16, std::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if tell.send(line.trim().to_owned()).is_err() {
                return;
            }
            let mut length = 0;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).unwrap();
                if header.trim().is_empty() {
                    break;
                }
                if let Some(text) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = text.trim().parse().unwrap();
                }
            }
            std::io::Read::read_exact(&mut reader, &mut vec![0; length]).unwrap();
            (&stream)
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
                .unwrap();
        }
    });
    (port, told)
}

fn the_example_plugins_of_the_document_work_together(broker: &Broker) {
    let jarvis = Setup::new(broker)
        .file("welcome_plugin.lua", WELCOME)
        .file("command_plugin.lua", COMMANDS)
        .file("filter_plugin.lua", FILTERS)
        .start();
    jarvis.check(
        "chat/request",
        "HELLO    there",
        json!({ "response": null, "data": { "greeting_sent": true } }),
    );
    jarvis.expect("jarvis/chat/prompt", json!({ "content": "hello there" }));
    jarvis.log.expect("👋 User message: hello there");
    jarvis.check(
        "chat/request/assistant",
        "Hi",
        json!({ "response": "Hi 🤖", "results": [{ "data": { "ok": true } }] }),
    );
    jarvis.check("command/request", "help", json!({ "response": "Commands: /help, /status, /about" }));
    jarvis.check("command/request", "status", json!({ "response": "Jarvis is running! ✅" }));
    jarvis.check("command/request", "about", json!({ "code": "unknown_command" }));
}
