//! What a plugin may reach over http, in whatever spelling, and what it gets from a hostile server.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};

use super::{
    servers::{ENDLESS, ODD, misbehave},
    stage::{GOOD, Stage},
};
use crate::harness::{Broker, Gate, Setup, plugin_source, serve, serve_raw};

/// Reports how a request went; a mistake of its own is told from the world's failure.
const WEB: &str = "
-- @commands fetch
function on_command(cmd)
    local a = cmd.args
    local ok, response, why = pcall(jarvis.http.request, { url = a.url, method = a.method, headers = a.headers, timeout = a.timeout })
    if not ok then return { raised = tostring(response) } end
    if not response then return { why = why } end
    return { status = response.status, size = #response.body, headers = response.headers }
end
";

fn stage(permissions: &str) -> Stage {
    let web = format!("-- @permissions {permissions}\n{WEB}");
    Stage::of(Setup::new(&Broker::Embedded).plugin("good", GOOD).plugin("web", &web))
}

impl Stage {
    fn fetch(&mut self, args: Value) -> Value {
        self.attack("fetch", args).map_or(Value::Null, |mut answer| answer["data"].take())
    }
}

/// A server that counts who comes.
fn counting() -> (u16, Arc<AtomicU32>) {
    let hits = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&hits);
    let port = serve(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        ("200 OK", String::new(), "secret".into())
    });
    (port, hits)
}

/// This machine, the house and the clouds' credentials, as they can be written; `PORT` is where one would answer.
const PLACES: [&str; 58] = [
    "http://127.0.0.1:PORT/",
    "http://127.1:PORT/",
    "http://127.0.1:PORT/",
    "http://127.255.255.254:PORT/",
    "http://2130706433:PORT/",
    "http://0x7f000001:PORT/",
    "http://0x7F.0.0.1:PORT/",
    "http://0x7f.1:PORT/",
    "http://0177.0.0.1:PORT/",
    "http://017700000001:PORT/",
    "http://127.000.000.001:PORT/",
    "http://127.0.0.1.:PORT/",
    "http://１２７.０.０.１:PORT/",
    "http://①②⑦.⓪.⓪.①:PORT/",
    "http://127。0。0。1:PORT/",
    "http://%31%32%37.0.0.1:PORT/",
    "http://localhost:PORT/",
    "http://LOCALHOST:PORT/",
    "http://localhost.:PORT/",
    "http://localhost..:PORT/",
    "http://LocalHost%2e:PORT/",
    "http://x.localhost:PORT/",
    "http://ip6-localhost:PORT/",
    "http://localhost.localdomain:PORT/",
    "http://0:PORT/",
    "http://0.0.0.0:PORT/",
    "http://[::]:PORT/",
    "http://[::1]:PORT/",
    "http://[0:0:0:0:0:0:0:1]:PORT/",
    "http://[0000:0000:0000:0000:0000:0000:0000:0001]:PORT/",
    "http://[::ffff:127.0.0.1]:PORT/",
    "http://[::ffff:7f00:1]:PORT/",
    "http://[::127.0.0.1]:PORT/",
    "http://[64:ff9b::7f00:1]:PORT/",
    "http://[2002:7f00:1::]:PORT/",
    "http://[fe80::1%25lo]:PORT/",
    "http://[fe80::1]:PORT/",
    "http://[ff02::1]:PORT/",
    "http://[fc00::1]:PORT/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "http://0xa9fea9fe/latest/meta-data/",
    "http://2852039166/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://100.100.100.200/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.1.1/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://allowed.test@127.0.0.1:PORT/",
    "http://allowed.test:80@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT\\@allowed.test/",
    "http://127.0.0.1:PORT#@allowed.test/",
    "http://127.0.0.1:PORT?@allowed.test/",
    "http:127.0.0.1:PORT/",
    "http:\\\\127.0.0.1:PORT\\",
];

/// What is no place on the web, or no way to ask it.
const NONSENSE: [&str; 24] = [
    "",
    " ",
    "http://",
    "http:///",
    "https://",
    "://x",
    "//127.0.0.1/",
    "/etc/passwd",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://allowed.test/",
    "gopher://allowed.test/",
    "data:text/plain,x",
    "javascript:alert(1)",
    "unix:///run/docker.sock",
    "http+unix://%2frun%2fdocker.sock/",
    "jar:http://allowed.test!/",
    "ws://allowed.test/",
    "mqtt://allowed.test/",
    "http://allowed.test\r\nHost: 127.0.0.1/",
    "http://allowed.test/\r\nX: y",
    "http://allowed.test/ x",
    "http://allowed.test:99999/",
    "http://allowed.test:-1/",
];

#[test]
fn places_that_no_permission_names() {
    let (port, hits) = counting();
    let mut stage = stage("http:allowed.test");
    for place in PLACES {
        let url = place.replace("PORT", &port.to_string());
        let answer = stage.fetch(json!({ "url": url }));
        assert!(answer["raised"].is_string(), "{url}: {answer:#}");
    }
    for url in NONSENSE {
        let answer = stage.fetch(json!({ "url": url }));
        assert!(answer["raised"].is_string(), "{url}: {answer:#}");
        assert!(!answer["raised"].as_str().unwrap().chars().any(char::is_control), "{answer:#}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0);
    stage.unharmed();
}

/// What would be a second request inside the first, or another host than the one that was checked.
#[test]
fn requests_with_more_in_them_than_one() {
    let (port, hits) = counting();
    let mut stage = stage(&format!("http:127.0.0.1:{port}"));
    let url = format!("http://127.0.0.1:{port}/");
    let requests = [
        json!({ "headers": { "X": "a\r\nHost: evil.test" } }),
        json!({ "headers": { "X": "a\nY: b" } }),
        json!({ "headers": { "X": "a\rY: b" } }),
        json!({ "headers": { "X": "a\u{0}b" } }),
        json!({ "headers": { "X\r\nY": "a" } }),
        json!({ "headers": { "X: a\r\nY": "b" } }),
        json!({ "headers": { "": "a" } }),
        json!({ "headers": { "X Y": "a" } }),
        json!({ "headers": { "Host": "evil.test" } }),
        json!({ "headers": { "Content-Length": "5" } }),
        json!({ "headers": { "Transfer-Encoding": "chunked" } }),
        json!({ "headers": { "Connection": "keep-alive" } }),
        json!({ "headers": { "Upgrade": "h2c" } }),
        json!({ "headers": { "Proxy-Authorization": "x" } }),
        json!({ "method": "GET / HTTP/1.1\r\nX: y\r\n\r\nGET" }),
        json!({ "method": "GET\r\nX: y" }),
        json!({ "method": "CONNECT" }),
        json!({ "method": "" }),
        json!({ "url": format!("{url}\r\nX: y") }),
        json!({ "url": format!("{url} HTTP/1.1\r\nHost: evil.test\r\n\r\n") }),
        json!({ "url": format!("{url}\t") }),
        json!({ "url": format!("{url}{}", "x".repeat(9_000)) }),
    ];
    for mut request in requests {
        if request["url"].is_null() {
            request["url"] = json!(url);
        }
        let answer = stage.fetch(request.clone());
        assert!(answer["raised"].is_string(), "{request}: {answer:#}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0);
    assert_eq!(stage.fetch(json!({ "url": url }))["status"], 200, "the server is there");
    stage.unharmed();
}

/// Permissions that would open more than one place.
#[test]
fn permissions_that_are_none() {
    let wide = [
        "http:*",
        "http:",
        "http:*.test",
        "http:a b",
        "http:127.0.0.1/8",
        "http://127.0.0.1",
        "http:x:99999",
        "http:#",
        "mqtt.publish:",
        "mqtt.subscribe:a+",
        "fs:/etc",
        "exec:*",
    ];
    let mut setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    for (number, permission) in wide.iter().enumerate() {
        let source = plugin_source(
            &format!("wide{number}"),
            &format!("-- @permissions {permission}\n{WEB}").replace("fetch", &format!("fetch{number}")),
        );
        setup = setup.file(&format!("wide{number}.lua"), &source);
    }
    let mut stage = Stage::of(setup);
    let list = stage.jarvis.ask("bridge/request/plugin/list", "");
    for (number, permission) in wide.iter().enumerate() {
        let id = format!("wide{number}");
        let plugin = list["data"].as_array().unwrap().iter().find(|plugin| plugin["id"] == id).unwrap();
        assert_eq!(plugin["state"], "error", "{permission}: {plugin:#}");
        assert!(plugin["last_error"].as_str().unwrap().contains(&format!("{id}.lua:6")), "{plugin:#}");
    }
    stage.unharmed();
}

/// Where redirects lead that no permission names.
#[test]
fn redirects_out_of_what_is_allowed() {
    let (secret, hits) = counting();
    let port = serve(move |request| {
        let number: usize = request.path.trim_matches('/').parse().unwrap_or_default();
        let place = PLACES.get(number).map(|place| place.replace("PORT", &secret.to_string()));
        let more = [
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "//127.0.0.1:PORT/",
            "data:text/plain,x",
            "http://",
            "\u{1}",
            "http://127.0.0.1\\@x/",
        ];
        let place = place.unwrap_or_else(|| more[number - PLACES.len()].replace("PORT", &secret.to_string()));
        let status =
            ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"][number % 5];
        (status, format!("location: {place}\r\n"), String::new())
    });
    let mut stage = stage(&format!("http:127.0.0.1:{port}"));
    for number in 0..PLACES.len() + 7 {
        let answer = stage.fetch(json!({ "url": format!("http://127.0.0.1:{port}/{number}") }));
        assert!(answer["raised"].is_string() || answer["why"].is_string(), "{number}: {answer:#}");
    }
    assert_eq!(hits.load(Ordering::Relaxed), 0);
    stage.unharmed();
}

#[test]
fn servers_that_never_end_or_lie() {
    let port = serve_raw(misbehave);
    let mut stage = stage(&format!("http:127.0.0.1:{port}"));
    let mut faults = Vec::new();
    for name in ENDLESS {
        let answer =
            stage.fetch(json!({ "url": format!("http://127.0.0.1:{port}/{name}"), "timeout": "400ms" }));
        if !answer["why"].is_string() {
            faults.push(format!("{name}: {answer:.300}"));
        }
    }
    for name in ODD {
        let answer =
            stage.fetch(json!({ "url": format!("http://127.0.0.1:{port}/{name}"), "timeout": "2s" }));
        let small = answer["size"].as_u64().is_some_and(|size| size <= 1_048_576);
        if !small && !answer["why"].is_string() {
            faults.push(format!("{name}: {answer:.300}"));
        }
    }
    assert_eq!(stage.fetch(json!({ "url": format!("http://127.0.0.1:{port}/") }))["size"], 2);
    stage.unharmed();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// A name is looked up once, and without a server of names the answer is a sentence.
#[test]
fn names_that_lead_nowhere() {
    let mut stage = stage("http:no-such-host.invalid, http:ip6-localhost, http:x.local");
    for host in ["no-such-host.invalid", "ip6-localhost:9", "x.local"] {
        let answer = stage.fetch(json!({ "url": format!("http://{host}/"), "timeout": "1s" }));
        assert!(answer["why"].is_string() || answer["raised"].is_string(), "{host}: {answer:#}");
    }
    stage.unharmed();
}

/// Many connections that all hang at once, and one of them is not in anybody's way.
#[test]
fn many_plugins_that_wait_for_servers() {
    let gate = Gate::closed();
    let port = gate.port;
    let mut setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    for number in 0..12 {
        let code = WEB.replace("fetch", &format!("fetch{number}"));
        setup =
            setup.plugin(&format!("web{number}"), &format!("-- @permissions http:127.0.0.1:{port}\n{code}"));
    }
    let mut stage = Stage::of(setup);
    for number in 0..12 {
        let args = json!({ "url": format!("http://127.0.0.1:{port}/"), "timeout": "60s" });
        stage.jarvis.publish(&format!("jarvis/command/request/fetch{number}"), args);
    }
    for _ in 0..40 {
        stage.ask_good();
    }
    let early: usize =
        (0..12).map(|n| stage.jarvis.waiting(&format!("jarvis/command/response/fetch{n}")).len()).sum();
    assert_eq!(early, 0, "the good plugin waited for those that wait");
    gate.open();
    for number in 0..12 {
        let answer = stage.jarvis.next(&format!("jarvis/command/response/fetch{number}")).json();
        assert_eq!(answer["data"]["status"], 200, "{answer:#}");
    }
    stage.unharmed();
}
