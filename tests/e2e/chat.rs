//! A chat message's way: filters, prompt, hooks, assistant, filters again.

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, Setup, assert_json, on_each_broker};

on_each_broker!(
    filters_run_in_priority_order_each_on_what_the_one_before_returned,
    a_filter_stops_a_message,
    a_response_filter_stops_an_answer,
    a_filter_that_fails_passes_the_message_on_and_is_noted,
    without_text_there_is_no_response_filter,
    what_the_response_filter_gets,
    slash_commands_run_commands,
    slash_commands_can_be_switched_off,
    an_external_assistant_answers,
    an_external_assistant_answers_where_the_user_asked,
    an_external_assistant_is_not_asked_where_a_plugin_answered,
    an_external_assistant_that_is_silent_times_out,
    the_assistants_own_words_can_be_stopped,
);

/// Puts its own mark behind a text.
fn marks(priority: i64, mark: &str) -> String {
    format!(
        "-- @priority {priority}
        function filter_message(m) m.content = m.content .. '{mark}' return m end
        function filter_response(r) r.content = r.content .. '{mark}' return r end"
    )
}

const ECHO: (&str, &str) = ("echo", "function on_chat(m) return { response = m.content } end");

fn filters_run_in_priority_order_each_on_what_the_one_before_returned(broker: &Broker) {
    let jarvis = Bridge::start(
        broker,
        &[
            ECHO,
            ("a", &marks(5, "3")),
            ("b", &marks(-1, "1")),
            ("c", &marks(0, "2")),
            ("unchanged", "function filter_message(m) m.content = 'lost' return nil end"),
        ],
    );
    jarvis.check(
        "chat/request",
        "0",
        json!({ "status": "ok", "response": "0123123", "results": [{ "plugin": "echo" }] }),
    );
    assert_json(&jarvis.next("jarvis/chat/prompt").json(), &json!({ "content": "0123" }));
}

fn a_filter_stops_a_message(broker: &Broker) {
    let guard = r#"
-- @priority 1
function filter_message(m)
    if m.content == "stop" then return false end
    if m.content == "rude" then return { cancel = true, reason = "be polite" } end
end
"#;
    let last = "-- @priority 2\nfunction filter_message(m) jarvis.events.emit('asked', {}) return m end";
    let jarvis = Bridge::start(broker, &[ECHO, ("guard", guard), ("last", last)]);
    for (text, error) in [
        ("stop", "plugin `guard` stopped the message"),
        ("rude", "plugin `guard` stopped the message: be polite"),
    ] {
        let expected = json!({
            "status": "error", "code": "cancelled", "error": error, "response": null, "hook": "on_chat", "results": [],
        });
        jarvis.check("chat/request", text, expected);
    }
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/chat/prompt").is_empty());
    assert!(jarvis.waiting("jarvis/event/last/asked").is_empty(), "later filters do not see it");
    jarvis.check("chat/request", "fine", json!({ "status": "ok", "response": "fine" }));
}

fn a_response_filter_stops_an_answer(broker: &Broker) {
    let guard = "function filter_response(r) return { cancel = true, reason = 'it is a secret' } end";
    let jarvis = Bridge::start(broker, &[ECHO, ("guard", guard)]);
    let expected = json!({
        "status": "error", "code": "cancelled", "response": null,
        "error": "plugin `guard` stopped the message: it is a secret",
    });
    jarvis.check("chat/request", "Hello", expected);
}

fn a_filter_that_fails_passes_the_message_on_and_is_noted(broker: &Broker) {
    let broken = "-- @priority 1
        function filter_message(m) m.content = 'lost' error('no') end
        function filter_response(r) return 5 end";
    let odd = "-- @priority 2
        function filter_message(m) return { text = 'no content' } end
        function filter_response(r) return { content = 5 } end";
    let endless = "-- @priority 3\nfunction filter_message(m) while true do end end";
    let jarvis = Bridge::start(
        broker,
        &[ECHO, ("broken", broken), ("odd", odd), ("endless", endless), ("last", &marks(4, "!"))],
    );
    let answer = jarvis.ask("chat/request", "Hello");
    assert_json(&answer, &json!({ "status": "ok", "response": "Hello!!", "error": null, "code": null }));
    let failed = |plugin: &str, code: &str, error: &str| json!({ "plugin": plugin, "status": "error", "code": code, "error": error });
    let must_return =
        "must return the message with its `content`, nil to leave it as it is, or false to stop it";
    let expected = json!([
        { "plugin": "echo", "status": "ok" },
        failed("broken", "hook_error", "plugin `broken`: filter_message failed: broken.lua:7: no"),
        failed("odd", "invalid_result", &format!("plugin `odd`: filter_message {must_return}")),
        failed("endless", "timeout", "~plugin `endless`: filter_message was stopped at endless.lua:7"),
        failed("broken", "invalid_result", "plugin `broken`: filter_response must return the message, nil to leave it as it is, or false to stop it; it returned a number"),
        failed("odd", "invalid_result", &format!("plugin `odd`: filter_response {must_return}")),
    ]);
    assert_json(&answer["results"], &expected);
}

fn without_text_there_is_no_response_filter(broker: &Broker) {
    let quiet = "function on_chat() return { ok = true } end
        function filter_response(r) jarvis.events.emit('asked', {}) return r end";
    let jarvis = Bridge::start(broker, &[("quiet", quiet)]);
    jarvis.check(
        "chat/request",
        "Hello",
        json!({ "status": "ok", "response": null, "data": { "ok": true } }),
    );
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/event/quiet/asked").is_empty());
}

fn what_the_response_filter_gets(broker: &Broker) {
    let sees = "function filter_response(r) jarvis.events.emit('saw', r) end";
    let jarvis = Bridge::start(broker, &[ECHO, ("sees", sees)]);
    jarvis.ask("chat/request", json!({ "id": 9, "content": "Hello", "conversation_id": "c", "user": "ada" }));
    let saw = jarvis.next("jarvis/event/sees/saw").json();
    let expected =
        json!({ "id": 9, "role": "assistant", "content": "Hello", "conversation_id": "c", "plugin": "echo" });
    assert_eq!(saw["data"], expected);
}

const LIGHT: (&str, &str) = (
    "light",
    "-- @commands light\nfunction on_command(cmd) return { response = 'light ' .. (cmd.args.text or '?'), user = cmd.user } end",
);

fn slash_commands_run_commands(broker: &Broker) {
    let jarvis = Bridge::start(broker, &[ECHO, LIGHT, ("marks", &marks(0, "!"))]);
    jarvis.publish("jarvis/chat/request", json!({ "id": 3, "content": "/light on", "user": "ada" }));
    let expected = json!({
        "id": 3, "status": "ok", "hook": "on_command", "name": "light", "response": "light on!", "user": "ada",
        "data": { "response": "light on", "user": "ada" }, "results": [{ "plugin": "light" }],
    });
    assert_json(&jarvis.next("jarvis/chat/response").json(), &expected);
    assert!(jarvis.waiting("jarvis/chat/prompt").is_empty(), "a command is no prompt");
    // What nobody declares is chat, and so is a slash elsewhere.
    for text in ["/dance", "and /light on", "/"] {
        let expected = json!({ "hook": "on_chat", "response": format!("{text}!!") });
        jarvis.check("chat/request", text, expected);
    }
}

fn slash_commands_can_be_switched_off(broker: &Broker) {
    let setup = Setup::new(broker).plugin(ECHO.0, ECHO.1).plugin(LIGHT.0, LIGHT.1);
    let jarvis = setup.set("CHAT__SLASH_COMMANDS", "false").start();
    jarvis.check("chat/request", "/light on", json!({ "hook": "on_chat", "response": "/light on" }));
}

fn external(broker: &Broker, plugins: &[(&str, &str)]) -> Bridge {
    let setup = Setup::new(broker).set("CHAT__ASSISTANT", "external");
    plugins.iter().fold(setup, |setup, (id, code)| setup.plugin(id, code)).start()
}

fn an_external_assistant_answers(broker: &Broker) {
    let notes = "function on_chat(m) return { role = m.role, content = m.content } end";
    let jarvis = external(broker, &[("notes", notes), ("marks", &marks(0, "!"))]);
    for id in [json!("m1"), json!(7)] {
        jarvis
            .publish("jarvis/chat/request", json!({ "id": id, "content": "How late is it?", "user": "ada" }));
        let prompt = jarvis.next("jarvis/chat/prompt").json();
        assert_json(&prompt, &json!({ "id": id, "content": "How late is it?!" }));
        // The core has no id of its own to give.
        jarvis.publish(
            "jarvis/chat/request/assistant",
            json!({ "in_reply_to": prompt["id"], "content": "Half past" }),
        );
        let expected = json!({
            "id": id, "status": "ok", "user": "ada", "hook": "on_chat", "response": "Half past!",
            "results": [
                { "plugin": "notes", "data": { "role": "user", "content": "How late is it?!" } },
                { "plugin": "notes", "data": { "role": "assistant", "content": "Half past!" } },
            ],
        });
        assert_json(&jarvis.next("jarvis/chat/response").json(), &expected);
        jarvis.settle();
        assert!(jarvis.waiting("jarvis/chat/response").is_empty(), "one question, one answer");
    }
}

fn an_external_assistant_answers_where_the_user_asked(broker: &Broker) {
    let jarvis = external(broker, &[]);
    let request = json!({ "id": "m1", "content": "How late is it?", "reply_to": "jarvis/reply/ada" });
    jarvis.publish("jarvis/chat/request", request);
    let prompt = jarvis.next("jarvis/chat/prompt").json();
    assert_eq!(prompt["reply_to"], Value::Null, "where the answer goes is between the user and the bridge");
    let answer = json!({
        "id": "a1", "in_reply_to": "m1", "content": "Half past", "reply_to": "jarvis/reply/core",
    });
    jarvis.publish("jarvis/chat/request/assistant", answer);
    let expected = json!({ "id": "m1", "status": "ok", "response": "Half past" });
    assert_json(&jarvis.next("jarvis/reply/ada").json(), &expected);
    // The core asked for an envelope of its own.
    let expected = json!({ "id": "a1", "status": "ok", "response": "Half past" });
    assert_json(&jarvis.next("jarvis/reply/core").json(), &expected);
    // A second answer to the same message is a message of its own.
    jarvis.publish(
        "jarvis/chat/request/assistant",
        json!({ "id": "a2", "in_reply_to": "m1", "content": "Again" }),
    );
    assert_json(&jarvis.next("jarvis/chat/response").json(), &json!({ "id": "a2", "response": "Again" }));
}

fn an_external_assistant_is_not_asked_where_a_plugin_answered(broker: &Broker) {
    let some = "function on_chat(m) if m.content == 'mine' then return { response = 'yours' } end return { ok = true } end";
    let jarvis = external(broker, &[("some", some)]);
    jarvis.check("chat/request", "mine", json!({ "status": "ok", "response": "yours" }));
    jarvis.publish("jarvis/chat/request", json!({ "id": "m", "content": "other" }));
    jarvis.expect("jarvis/chat/prompt", json!({ "content": "other" }));
    jarvis
        .publish("jarvis/chat/request/assistant", json!({ "in_reply_to": "m", "content": "from the core" }));
    assert_json(
        &jarvis.next("jarvis/chat/response").json(),
        &json!({ "id": "m", "response": "from the core" }),
    );
}

fn an_external_assistant_that_is_silent_times_out(broker: &Broker) {
    let setup = Setup::new(broker).set("CHAT__ASSISTANT", "external").set("CHAT__TIMEOUT", "1");
    let jarvis = setup.start();
    let expected = json!({
        "id": "m", "status": "error", "code": "timeout", "response": null,
        "error": "no assistant answered within 1 s (chat.timeout) on `chat/request/assistant`",
    });
    jarvis.check("chat/request", json!({ "id": "m", "content": "Anybody?" }), expected);
    // It comes too late to be that answer, so it is one by itself.
    jarvis.publish(
        "jarvis/chat/request/assistant",
        json!({ "id": "late", "in_reply_to": "m", "content": "Me" }),
    );
    assert_json(&jarvis.next("jarvis/chat/response").json(), &json!({ "id": "late", "response": "Me" }));
}

fn the_assistants_own_words_can_be_stopped(broker: &Broker) {
    let guard = "function filter_response(r) if r.content:find('secret') then return false end end
        function on_chat(m) jarvis.events.emit('heard', { role = m.role }) end";
    let jarvis = external(broker, &[("guard", guard)]);
    jarvis.publish("jarvis/chat/request", json!({ "id": "m", "content": "Tell me" }));
    jarvis.expect("jarvis/event/guard/heard", json!({ "data": { "role": "user" } }));
    jarvis.publish("jarvis/chat/request/assistant", json!({ "in_reply_to": "m", "content": "a secret" }));
    let expected = json!({ "id": "m", "status": "error", "code": "cancelled", "response": null });
    assert_json(&jarvis.next("jarvis/chat/response").json(), &expected);
    jarvis.settle();
    assert!(jarvis.waiting("jarvis/event/guard/heard").is_empty(), "nobody hears what was stopped");
}
