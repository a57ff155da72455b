//! `jarvis.http` against a real server on this machine.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::harness::{Bridge, Broker, WebAnswer, WebRequest, assert_json, on_each_broker, serve};

on_each_broker!(
    requests_reach_the_server_as_they_are_meant,
    answers_come_back_whole,
    the_worlds_failures_are_returned,
    no_request_without_permission,
    redirects_are_followed_within_the_permissions,
    a_waiting_plugin_holds_up_nobody_else,
);

const PLUGIN: &str = r#"
local function show(response, why)
    if not response then return { why = why } end
    return { status = response.status, ok = response.ok, body = response.body, headers = response.headers, json = response.json() }
end
function get(a) return show(jarvis.http.get(a.url, a.options)) end
function post(a) return show(jarvis.http.post(a.url, a.data, a.options)) end
function request(a) return show(jarvis.http.request(a)) end
function on_command(cmd) return _G[cmd.name](cmd.args) end
"#;

fn start(broker: &Broker, permissions: &str) -> Bridge {
    Bridge::start(broker, &[("web", &format!("-- @permissions {permissions}\n{PLUGIN}"))])
}

fn ok(body: &str) -> WebAnswer {
    ("200 OK", "content-type: application/json\r\n".into(), body.into())
}

fn requests_reach_the_server_as_they_are_meant(broker: &Broker) {
    let seen: Arc<Mutex<Vec<WebRequest>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let port = serve(move |request| {
        notes.lock().unwrap().push(request.clone());
        ok("{}")
    });
    let jarvis = start(broker, &format!("http:127.0.0.1:{port}"));
    let url = format!("http://127.0.0.1:{port}/path");
    let ask = |name: &str, mut args: Value| {
        args["url"] = json!(url);
        let answer = jarvis.run(name, args);
        assert_eq!(answer["status"], 200, "{answer:#}");
        seen.lock().unwrap().pop().unwrap()
    };
    let request =
        ask("get", json!({ "options": { "query": { "q": "a b&c", "n": 2 }, "headers": { "X-Key": "k" } } }));
    assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/path?n=2&q=a%20b%26c"));
    assert_eq!(request.header("x-key"), Some("k"));
    let request = ask("post", json!({ "data": { "a": [1, 2] } }));
    assert_eq!((request.method.as_str(), request.body.as_str()), ("POST", r#"{"a":[1,2]}"#));
    assert_eq!(request.header("content-type"), Some("application/json"));
    let request = ask("post", json!({ "data": "plain" }));
    assert_eq!(request.body, "plain");
    let request = ask("post", json!({ "options": { "form": { "a": "1 2", "b": true } } }));
    assert_eq!(
        (request.body.as_str(), request.header("content-type")),
        ("a=1%202&b=true", Some("application/x-www-form-urlencoded"))
    );
    let request = ask("request", json!({ "method": "PUT", "json": { "x": 1 } }));
    assert_eq!((request.method.as_str(), request.body.as_str()), ("PUT", r#"{"x":1}"#));
    let request = ask("request", json!({ "method": "delete" }));
    assert_eq!(request.method, "DELETE");
}

fn answers_come_back_whole(broker: &Broker) {
    let port = serve(|request| match request.path.as_str() {
        "/missing" => ("404 Not Found", "x-why: gone\r\n".into(), "no such page".into()),
        "/empty" => ("204 No Content", String::new(), String::new()),
        _ => ok(r#"{"city":"Lyon","temps":[1,2.5]}"#),
    });
    let jarvis = start(broker, &format!("http:127.0.0.1:{port}"));
    let get = |path: &str| jarvis.run("get", json!({ "url": format!("http://127.0.0.1:{port}{path}") }));
    let expected = json!({
        "status": 200, "ok": true, "headers": { "content-type": "application/json" },
        "body": r#"{"city":"Lyon","temps":[1,2.5]}"#, "json": { "city": "Lyon", "temps": [1, 2.5] },
    });
    assert_json(&get("/"), &expected);
    let expected = json!({ "status": 404, "ok": false, "body": "no such page", "headers": { "x-why": "gone" }, "json": null });
    assert_json(&get("/missing"), &expected);
    assert_json(&get("/empty"), &json!({ "status": 204, "ok": true, "body": "" }));
}

fn the_worlds_failures_are_returned(broker: &Broker) {
    let (gate, gone) = (Arc::new(Mutex::new(())), crate::harness::free_port());
    let held = gate.lock().unwrap();
    let waits = Arc::clone(&gate);
    let port = serve(move |request| {
        if request.path == "/large" {
            return ok(&"x".repeat(1024 * 1024 + 1));
        }
        drop(waits.lock());
        ok("{}")
    });
    let jarvis = start(broker, "http:127.0.0.1");
    let why = |port: u16, path: &str, options: Value| {
        let args = json!({ "url": format!("http://127.0.0.1:{port}{path}"), "options": options });
        jarvis.run("get", args)["why"].as_str().unwrap().to_owned()
    };
    let text = why(gone, "/", json!({}));
    assert!(text.contains(&format!("`127.0.0.1:{gone}` refuses connections")), "{text}");
    let text = why(port, "/slow", json!({ "timeout": "200ms" }));
    assert!(text.ends_with("took longer than 200ms"), "{text}");
    let text = why(port, "/large", json!({}));
    assert!(text.contains("1048576"), "{text}");
    drop(held);
}

fn no_request_without_permission(broker: &Broker) {
    let seen: Arc<Mutex<u32>> = Arc::default();
    let notes = Arc::clone(&seen);
    let port = serve(move |_| {
        *notes.lock().unwrap() += 1;
        ok("{}")
    });
    let jarvis = start(broker, "http:api.example.com, http:localhost:1");
    for (url, error) in [
        (format!("http://127.0.0.1:{port}/"), "`http:127.0.0.1"),
        (format!("http://localhost:{port}/"), "`http:localhost"),
        ("http://api.example.com.evil.test/".into(), "`http:api.example.com.evil.test` to its @permissions"),
        ("file:///etc/passwd".into(), "http"),
        ("ftp://api.example.com/".into(), "http"),
        ("nonsense".into(), "URL"),
    ] {
        let answer = jarvis.ask("command/request/get", json!({ "url": url }));
        assert_json(
            &answer,
            &json!({ "status": "error", "code": "hook_error", "error": format!("~{error}") }),
        );
    }
    assert_eq!(*seen.lock().unwrap(), 0);
}

fn redirects_are_followed_within_the_permissions(broker: &Broker) {
    let secret = serve(|_| ok(r#"{"secret":true}"#));
    let port = serve(move |request| {
        let to = |place: String| ("302 Found", format!("location: {place}\r\n"), String::new());
        match request.path.as_str() {
            "/once" => to("/end".into()),
            "/away" => to(format!("http://127.0.0.1:{secret}/")),
            "/round" => to("/round".into()),
            _ => ok(r#"{"end":true}"#),
        }
    });
    let jarvis = start(broker, &format!("http:127.0.0.1:{port}"));
    let get = |path: &str| {
        jarvis.ask("command/request/get", json!({ "url": format!("http://127.0.0.1:{port}{path}") }))
    };
    assert_json(
        &get("/once"),
        &json!({ "status": "ok", "data": { "status": 200, "json": { "end": true } } }),
    );
    let answer = get("/away").to_string();
    assert!(!answer.contains("secret") && answer.contains(&secret.to_string()), "{answer}");
    let answer = get("/round").to_string();
    assert!(answer.contains("redirect"), "{answer}");
}

fn a_waiting_plugin_holds_up_nobody_else(broker: &Broker) {
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let waits = Arc::clone(&gate);
    let port = serve(move |_| {
        drop(waits.lock());
        ok("{}")
    });
    let web = format!("-- @commands get\n-- @permissions http:127.0.0.1:{port}\n{PLUGIN}");
    let other = "-- @commands quick\nfunction on_command() return { quick = true } end";
    let jarvis = Bridge::start(broker, &[("web", &web), ("other", other)]);
    jarvis.publish("jarvis/command/request/get", json!({ "url": format!("http://127.0.0.1:{port}/") }));
    for _ in 0..20 {
        assert_eq!(jarvis.run("quick", json!({})), json!({ "quick": true }));
    }
    assert!(jarvis.waiting("jarvis/command/response/get").is_empty());
    drop(held);
    assert_json(&jarvis.next("jarvis/command/response/get").json(), &json!({ "data": { "status": 200 } }));
}
