//! What a plugin may reach over http, in whatever spelling, and what a hostile server does to the one that asks.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },

    time::Duration,
};

use serde_json::{Value, json};

use super::stage::{GOOD, Stage};
use crate::harness::{Broker, Setup, WebRequest, plugin_source, serve, serve_raw};

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
    "", " ", "http://", "http:///", "https://", "://x", "//127.0.0.1/", "/etc/passwd", "file:///etc/passwd",
    "FILE:///etc/passwd", "ftp://allowed.test/", "gopher://allowed.test/", "data:text/plain,x",
    "javascript:alert(1)", "unix:///run/docker.sock", "http+unix://%2frun%2fdocker.sock/",
    "jar:http://allowed.test!/", "ws://allowed.test/", "mqtt://allowed.test/",
    "http://allowed.test\r\nHost: 127.0.0.1/", "http://allowed.test/\r\nX: y", "http://allowed.test/ x",
    "http://allowed.test:99999/", "http://allowed.test:-1/",
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
    let wide = ["http:*", "http:", "http:*.test", "http:a b", "http:127.0.0.1/8", "http://127.0.0.1", "http:x:99999", "http:#", "mqtt.publish:", "mqtt.subscribe:a+", "fs:/etc", "exec:*"];
    let mut setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    for (number, permission) in wide.iter().enumerate() {
        let source = plugin_source(&format!("wide{number}"), &format!("-- @permissions {permission}\n{WEB}").replace("fetch", &format!("fetch{number}")));
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
        let more = ["file:///etc/passwd", "ftp://127.0.0.1/", "//127.0.0.1:PORT/", "data:text/plain,x", "http://", "\u{1}", "http://127.0.0.1\\@x/"];
        let place = place.unwrap_or_else(|| more[number - PLACES.len()].replace("PORT", &secret.to_string()));
        let status = ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"][number % 5];
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

/// Zeros, a thousand times as many as it has bytes itself: one block of deflate with fixed codes (RFC 1951 §3.2.6),
/// a literal zero and then 258 more of it for every 13 bits.
fn gzip_bomb() -> Vec<u8> {
    let mut bits = String::from("1100110000");
    // Length 258 (code 285) and distance 1 (code 0), eight times in 13 bytes.
    bits.push_str(&"1100010100000".repeat(40_000));
    bits.push_str("0000000");
    let mut bytes = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0];
    let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte * 2 + (bit - b'0'));
    bytes.extend(bits.as_bytes().chunks(8).map(byte));
    bytes.extend([0; 8]);
    bytes
}

/// One byte after the other, as slowly as the wait for the client's going away lasts.
fn drip(stream: &mut TcpStream, byte: &[u8]) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    loop {
        stream.write_all(byte)?;
        // Only the client's end of the connection can be read; until then each look lasts 50 ms.
        if matches!(stream.read(&mut [0; 64]), Ok(0)) {
            return Ok(());
        }
    }
}

fn for_ever(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        stream.write_all(bytes)?;
    }
}

/// A server that does everything wrong.
fn misbehave(request: &WebRequest, stream: &mut TcpStream) -> std::io::Result<()> {
    let head = |stream: &mut TcpStream, headers: &str| write!(stream, "HTTP/1.1 200 OK\r\n{headers}\r\n");
    match request.path.as_str() {
        "/silence" => drip(stream, b""),
        "/drips_status" => drip(stream, b"H"),
        "/drips_headers" => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            drip(stream, b"x")
        }
        "/drips_body" => {
            head(stream, "content-length: 100000\r\n")?;
            drip(stream, b"x")
        }
        "/drips_chunks" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            drip(stream, b"1\r\nx\r\n")
        }
        "/endless_body" => {
            head(stream, "")?;
            for_ever(stream, &[b'x'; 65_536])
        }
        "/endless_chunks" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            for_ever(stream, format!("4000\r\n{}\r\n", "x".repeat(0x4000)).as_bytes())
        }
        "/endless_chunk_head" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            for_ever(stream, &[b'1'; 65_536])
        }
        "/endless_chunk_extension" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            stream.write_all(b"1;")?;
            for_ever(stream, &[b'x'; 65_536])
        }
        "/endless_trailers" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            stream.write_all(b"0\r\n")?;
            for_ever(stream, b"a: b\r\n")
        }
        "/endless_status" => for_ever(stream, &[b'H'; 65_536]),
        "/endless_header" => {
            write!(stream, "HTTP/1.1 200 OK\r\nx: ")?;
            for_ever(stream, &[b'x'; 65_536])
        }
        "/endless_headers" => {
            write!(stream, "HTTP/1.1 200 OK\r\n")?;
            for_ever(stream, b"x: y\r\n")
        }
        "/endless_continue" => for_ever(stream, b"HTTP/1.1 100 Continue\r\n\r\n"),
        "/large_header" => head(stream, &format!("x: {}\r\ncontent-length: 0\r\n", "x".repeat(300_000))),
        "/large_body" => {
            head(stream, "content-length: 1048577\r\n")?;
            stream.write_all(&vec![b'x'; 1_048_577])
        }
        "/claims_much" => head(stream, "content-length: 999999999999999999\r\n"),
        "/claims_too_much" => head(stream, "content-length: 99999999999999999999999999\r\n"),
        "/claims_less_than_none" => head(stream, "content-length: -1\r\n"),
        "/claims_twice" => head(stream, "content-length: 1\r\ncontent-length: 2\r\n"),
        "/claims_more_than_it_has" => {
            head(stream, "content-length: 100\r\n")?;
            stream.write_all(b"abc")
        }
        "/bad_chunk" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            stream.write_all(b"zz\r\n")
        }
        "/huge_chunk" => {
            head(stream, "transfer-encoding: chunked\r\n")?;
            stream.write_all(b"ffffffffffffffff\r\n")?;
            for_ever(stream, &[b'x'; 65_536])
        }
        "/garbage" => stream.write_all(b"\0\xff\xfenot http at all\r\n\r\n"),
        "/another_protocol" => stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"),
        "/bad_status" => stream.write_all(b"HTTP/1.1 99999 OK\r\n\r\n"),
        "/bad_header" => head(stream, "x\0y: \x01\r\n"),
        "/hangs_up" => Ok(()),
        "/switches" => stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        "/gzip" | "/deflate" | "/br" | "/zstd" => {
            let body = gzip_bomb();
            head(stream, &format!("content-encoding: {}\r\ncontent-length: {}\r\n", request.path.trim_matches('/'), body.len()))?;
            stream.write_all(&body)
        }
        "/no_utf8" => stream.write_all(b"HTTP/1.1 200 OK\r\nx: \xff\xfe\r\ncontent-length: 2\r\n\r\n\xff\xfe"),
        _ => head(stream, "content-length: 2\r\n").and_then(|()| stream.write_all(b"ok")),
    }
}

const ENDLESS: [&str; 27] = [
    "silence", "drips_status", "drips_headers", "drips_body", "drips_chunks", "endless_body", "endless_chunks",
    "endless_chunk_head", "endless_chunk_extension", "endless_trailers", "endless_status", "endless_header",
    "endless_headers", "endless_continue", "large_header", "large_body", "claims_much", "claims_too_much",
    "claims_less_than_none", "claims_twice", "claims_more_than_it_has", "bad_chunk", "huge_chunk", "garbage",
    "another_protocol", "bad_status", "hangs_up",
];
/// Each is given back or refused, and is not large either way.
const ODD: [&str; 7] = ["bad_header", "switches", "gzip", "deflate", "br", "zstd", "no_utf8"];

#[test]
fn servers_that_never_end_or_lie() {
    let port = serve_raw(misbehave);
    let mut stage = stage(&format!("http:127.0.0.1:{port}"));
    let mut faults = Vec::new();
    for name in ENDLESS {
        let answer = stage.fetch(json!({ "url": format!("http://127.0.0.1:{port}/{name}"), "timeout": "400ms" }));
        if !answer["why"].is_string() {
            faults.push(format!("{name}: {answer:.300}"));
        }
    }
    for name in ODD {
        let answer = stage.fetch(json!({ "url": format!("http://127.0.0.1:{port}/{name}"), "timeout": "2s" }));
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
    let port = serve_raw(|_, stream| drip(stream, b""));
    let mut setup = Setup::new(&Broker::Embedded).plugin("good", GOOD);
    for number in 0..12 {
        let code = WEB.replace("fetch", &format!("fetch{number}"));
        setup = setup.plugin(&format!("web{number}"), &format!("-- @permissions http:127.0.0.1:{port}\n{code}"));
    }
    let mut stage = Stage::of(setup);
    for number in 0..12 {
        let args = json!({ "url": format!("http://127.0.0.1:{port}/"), "timeout": "1500ms" });
        stage.jarvis.publish(&format!("jarvis/command/request/fetch{number}"), args);
    }
    for _ in 0..40 {
        stage.ask_good();
    }
    let early: usize = (0..12).map(|n| stage.jarvis.waiting(&format!("jarvis/command/response/fetch{n}")).len()).sum();
    assert_eq!(early, 0, "the good plugin waited for those that wait");
    for number in 0..12 {
        let answer = stage.jarvis.next(&format!("jarvis/command/response/fetch{number}")).json();
        assert!(answer["data"]["why"].as_str().is_some_and(|why| why.contains("1.5s")), "{answer:#}");
    }
    stage.unharmed();

}
