//! Requests against real servers on this machine.

mod fuzz;
mod hostile;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    Config, HttpClient,
    hop::Hop,
    reach::{Asker, LookUp, Reach},
};
use crate::model::{
    Permission, PluginId,
    frame::{HttpRequest, HttpResponse, Refusal},
    message::Payload,
};

/// A server on a free port of this machine that answers each connection once and notes what it read.
struct Server {
    port: u16,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Self {
        Self::serve(move |stream, request| stream.write_all(&answer(request)))
    }

    /// The handler may fail: a client that has heard enough hangs up.
    fn serve(handle: impl Fn(&mut TcpStream, &str) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&mut stream);
                noted.lock().unwrap().push(request.clone());
                let _ = handle(&mut stream, &request);
            }
        });
        Self { port, seen }
    }

    fn url(&self, path: &str) -> String {
        format!("http://localhost:{}{path}", self.port)
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return text,
            // A TLS handshake (RFC 8446 §5.1): this server does not know it, and answers at once.
            Ok(_) if buffer[0] == 22 => return text,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn redirect(status: u16, location: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n").into_bytes()
}

fn config() -> Config {
    Config {
        timeout: Duration::from_secs(10),
        max_timeout: Duration::from_secs(20),
        max_body: 1000,
        redirects: 3,
    }
}

fn get(url: impl Into<String>) -> HttpRequest {
    HttpRequest { method: "GET".into(), url: url.into(), headers: Vec::new(), body: None, timeout_ms: None }
}

fn post(url: impl Into<String>, body: Payload) -> HttpRequest {
    HttpRequest { method: "POST".into(), body: Some(body), ..get(url) }
}

fn with_header(request: HttpRequest, name: &str, value: &str) -> HttpRequest {
    HttpRequest { headers: vec![(name.into(), value.into())], ..request }
}

fn permissions(texts: &[&str]) -> Vec<Permission> {
    texts.iter().map(|text| Permission::parse(text).unwrap()).collect()
}

async fn run_with(
    client: &HttpClient,
    allowed: &[&str],
    request: HttpRequest,
) -> Result<HttpResponse, Refusal> {
    client.run(&PluginId::parse("weather").unwrap(), &permissions(allowed), request).await
}

async fn run(allowed: &[&str], request: HttpRequest) -> Result<HttpResponse, Refusal> {
    run_with(&HttpClient::new(config()), allowed, request).await
}

fn text(response: HttpResponse) -> String {
    match response.body {
        Payload::Text(text) => text,
        Payload::Bytes(bytes) => panic!("no text: {bytes:?}"),
    }
}

#[track_caller]
fn mistake(result: Result<HttpResponse, Refusal>) -> String {
    match result {
        Err(Refusal::Mistake(message)) => message,
        other => panic!("not a mistake: {other:?}"),
    }
}

#[track_caller]
fn failure(result: Result<HttpResponse, Refusal>) -> String {
    match result {
        Err(Refusal::Failure(message)) => message,
        other => panic!("not a failure: {other:?}"),
    }
}

#[tokio::test]
async fn a_get_brings_status_headers_and_body() {
    let server = Server::start(|_| {
        b"HTTP/1.1 404 Nothing\r\nX-One: a\r\nx-one: b\r\nContent-Length: 5\r\n\r\nh\xc3\xa9ya".to_vec()
    });
    let request = with_header(get(server.url("/a?b=c d")), "X-Key", "k\u{e9}y");
    let response = run(&["http:localhost"], request).await.unwrap();
    assert_eq!(response.status, 404);
    assert_eq!(response.headers["x-one"], "a, b");
    assert_eq!(response.body, Payload::Text("h\u{e9}ya".into()));
    let seen = server.seen().concat();
    assert!(seen.starts_with("GET /a?b=c%20d HTTP/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("host: localhost:{}\r\n", server.port)), "{seen}");
    assert!(
        seen.contains(concat!("user-agent: jarvis-bridge/", env!("CARGO_PKG_VERSION"), "\r\n")),
        "{seen}"
    );
    assert!(seen.contains("x-key: k\u{e9}y\r\n"), "{seen}");
    assert!(!seen.contains("accept-encoding"), "{seen}");
}

#[tokio::test]
async fn a_post_sends_its_body_and_bytes_come_back_as_bytes() {
    let server = Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\x00".to_vec());
    let request =
        with_header(post(server.url("/"), Payload::Text("{}".into())), "content-type", "application/json");
    let response = run(&["http:localhost"], request).await.unwrap();
    assert_eq!(response.body, Payload::Bytes(vec![0xff, 0]));
    let seen = server.seen().concat();
    assert!(seen.starts_with("POST / ") && seen.contains("content-length: 2\r\n"), "{seen}");
    assert!(seen.contains("content-type: application/json\r\n") && seen.ends_with("\r\n\r\n{}"), "{seen}");
}

#[tokio::test]
async fn a_users_name_and_word_in_the_url_become_a_header() {
    let server = Server::start(|_| ok(""));
    run(&["http:localhost"], get(format!("http://me:pw@localhost:{}/", server.port))).await.unwrap();
    let seen = server.seen().concat();
    assert!(seen.contains("authorization: Basic bWU6cHc=\r\n") && !seen.contains('@'), "{seen}");
}

#[tokio::test]
async fn a_head_may_announce_more_than_it_brings() {
    let server = Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n".to_vec());
    let request = HttpRequest { method: "HEAD".into(), ..get(server.url("/")) };
    assert_eq!(run(&["http:localhost"], request).await.unwrap().headers["content-length"], "99999999");
}

#[tokio::test]
async fn a_redirect_of_a_post_becomes_a_get_on_the_same_host() {
    let server = Server::start(|request| match request.split(' ').nth(1) {
        Some("/form") => redirect(302, "done?x=1"),
        _ => ok("done"),
    });
    let mut request = post(server.url("/form"), Payload::Text("a=b".into()));
    request.headers =
        vec![("Authorization".into(), "secret".into()), ("Content-Type".into(), "text/plain".into())];
    assert_eq!(text(run(&["http:localhost"], request).await.unwrap()), "done");
    let second = &server.seen()[1];
    assert!(second.starts_with("GET /done?x=1 "), "{second}");
    assert!(second.contains("authorization: secret\r\n"), "{second}");
    assert!(!second.contains("content-") && second.ends_with("\r\n\r\n"), "{second}");
}

#[tokio::test]
async fn credentials_stay_with_their_host_and_a_307_keeps_the_body() {
    let other = Server::start(|_| ok("other"));
    let location = other.url("/x");
    let server = Server::start(move |_| redirect(307, &location));
    let mut request = post(server.url("/"), Payload::Text("body".into()));
    request.headers = [
        ("Authorization", "secret"),
        ("Cookie", "secret"),
        ("X-Api-Key", "secret"),
        ("Accept", "text/plain"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    assert_eq!(text(run(&["http:localhost"], request).await.unwrap()), "other");
    let seen = other.seen().concat();
    assert!(seen.starts_with("POST /x ") && seen.ends_with("body"), "{seen}");
    assert!(seen.contains("accept: text/plain") && !seen.contains("secret"), "{seen}");
    assert_eq!(server.seen().concat().matches("secret").count(), 3);
}

#[tokio::test]
async fn a_redirect_cannot_leave_what_is_permitted() {
    let forbidden = Server::start(|_| ok("inside"));
    for location in [
        format!("http://127.0.0.1:{}/", forbidden.port),
        format!("http://[::ffff:127.0.0.1]:{}/", forbidden.port),
        format!("//2130706433:{}/", forbidden.port),
        format!("http://localhost:{}/", forbidden.port),
        format!("http://localhost@0x7f.1:{}/", forbidden.port),
    ] {
        let to = location.clone();
        let server = Server::start(move |_| redirect(302, &to));
        let allowed = format!("http:localhost:{}", server.port);
        let message = mistake(run(&[&allowed], get(server.url("/"))).await);
        let whence = format!("where `localhost:{}` redirects to: add `http:", server.port);
        assert!(message.contains(&whence), "{location}: {message}");
    }
    assert_eq!(forbidden.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::start(|request| match request.split(' ').nth(1) {
        Some("/loop") => redirect(302, "/loop"),
        Some("/file") => redirect(302, "file:///etc/passwd"),
        Some("/odd") => redirect(302, "http://[nonsense"),
        _ => b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
    });
    let message = failure(run(&["http:localhost"], get(server.url("/loop"))).await);
    assert_eq!(
        message,
        format!("`localhost:{}` redirects more than 3 times (`http.redirects`)", server.port)
    );
    assert_eq!(server.seen().len(), 4);
    let message = failure(run(&["http:localhost"], get(server.url("/file"))).await);
    assert!(
        message.ends_with("redirects to a `file:` address; only http and https are followed"),
        "{message}"
    );
    let message = failure(run(&["http:localhost"], get(server.url("/odd"))).await);
    assert!(message.ends_with("redirects to what is no URL"), "{message}");
    assert_eq!(run(&["http:localhost"], get(server.url("/"))).await.unwrap().status, 304);
}

#[tokio::test]
async fn a_body_is_capped_while_it_is_read() {
    let whole = Server::start(|request| match request.starts_with("GET /exact") {
        true => ok(&"x".repeat(1000)),
        false => ok(&"x".repeat(1001)),
    });
    assert_eq!(text(run(&["http:localhost"], get(whole.url("/exact"))).await.unwrap()).len(), 1000);
    let message = failure(run(&["http:localhost"], get(whole.url("/"))).await);
    assert!(message.ends_with("is longer than 1000 bytes (`http.max_body`)"), "{message}");

    let announced = Server::serve(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n")?;
        stream.read(&mut [0]).map(drop)
    });
    assert!(failure(run(&["http:localhost"], get(announced.url("/"))).await).contains("is longer than 1000"));

    for head in ["transfer-encoding: chunked\r\n", "connection: close\r\n"] {
        let endless = Server::serve(move |stream, _| {
            write!(stream, "HTTP/1.1 200 OK\r\n{head}\r\n")?;
            loop {
                stream.write_all(b"64\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n")?;
            }
        });
        assert!(
            failure(run(&["http:localhost"], get(endless.url("/"))).await).contains("is longer than 1000")
        );
    }
}

#[tokio::test]
async fn headers_are_capped() {
    let server = Server::start(|_| {
        let line = format!("x-filler: {}\r\n", "x".repeat(7000)).repeat(10);
        format!("HTTP/1.1 200 OK\r\n{line}content-length: 0\r\n\r\n").into_bytes()
    });
    let message = failure(run(&["http:localhost"], get(server.url("/"))).await);
    assert!(message.ends_with("are longer than 65536 bytes"), "{message}");

    let endless = Server::serve(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nx: ")?;
        loop {
            stream.write_all(&[b'x'; 4096])?;
        }
    });
    let message = failure(run(&["http:localhost"], get(endless.url("/"))).await);
    assert!(message.contains("gave no proper answer"), "{message}");
}

#[tokio::test]
async fn one_deadline_holds_for_everything() {
    let silent = Server::serve(|stream, _| stream.read(&mut [0]).map(drop));
    let dripping = Server::serve(|stream, _| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?;
        loop {
            stream.write_all(b"x")?;
            thread::sleep(Duration::from_millis(20));
        }
    });
    let circling = Server::serve(|stream, _| {
        thread::sleep(Duration::from_millis(150));
        stream.write_all(&redirect(302, "/"))
    });
    for server in [&silent, &dripping, &circling] {
        let begun = Instant::now();
        let request = HttpRequest { timeout_ms: Some(300), ..get(server.url("/?key=secret")) };
        let message = failure(run(&["http:localhost"], request).await);
        assert_eq!(message, format!("the request to `localhost:{}` took longer than 300ms", server.port));
        assert!(begun.elapsed() >= Duration::from_millis(300));
        assert!(begun.elapsed() < Duration::from_secs(8));
    }
    let client = HttpClient::new(Config { max_timeout: Duration::from_millis(50), ..config() });
    let request = HttpRequest { timeout_ms: Some(3_600_000), ..get(silent.url("/")) };
    assert!(failure(run_with(&client, &["http:localhost"], request).await).ends_with("longer than 50ms"));
}

#[tokio::test]
async fn no_spelling_of_this_machine_slips_through() {
    let server = Server::start(|_| ok("inside"));
    let port = server.port;
    for host in [
        "localhost",
        "LOCALHOST",
        "localhost.",
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "017700000001",
        "0",
        "0.0.0.0",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "%6c%6fcalhost",
        "127.0.0.1%2e",
        "example.com@127.0.0.1",
        "example.com:80@localhost",
        "127.0.0.1\\@example.com",
        "example.com.evil.localhost",
    ] {
        let result =
            run(&["http:example.com", "http:example.com:80"], get(format!("http://{host}:{port}/"))).await;
        let message = mistake(result);
        assert!(
            message.contains("`weather` may not reach `") || message.contains("is not a URL"),
            "{host}: {message}"
        );
    }
    assert_eq!(server.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn a_named_host_is_reached_in_every_spelling_and_only_on_its_port() {
    let server = Server::start(|_| ok("inside"));
    let port = server.port;
    for (allowed, host) in [
        ("localhost", "localhost"),
        ("LocalHost", "LOCALHOST."),
        ("localhost.", "localhost"),
        ("127.0.0.1", "2130706433"),
        ("127.1", "127.0.0.1"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
        ("[::ffff:127.0.0.1]", "127.0.0.1"),
    ] {
        for permission in [format!("http:{allowed}"), format!("http:{allowed}:{port}")] {
            let result = run(&[&permission], get(format!("http://{host}:{port}/"))).await;
            assert_eq!(text(result.unwrap()), "inside", "{permission} {host}");
        }
    }
    let check = async |allowed: &str, url: &str, expect: &str| {
        assert_eq!(mistake(run(&[allowed], get(url)).await), expect);
    };
    check(
        "http:localhost:1",
        &server.url("/"),
        &format!(
            "`weather` may not reach `localhost:{port}`: add `http:localhost:{port}` to its @permissions"
        ),
    )
    .await;
    check(
        "http:localhost:1",
        "https://localhost/secret",
        "`weather` may not reach `localhost:443`: add `http:localhost:443` to its @permissions",
    )
    .await;
    check(
        "mqtt.publish:#",
        "https://api.x.com/v1?key=secret",
        "`weather` may not reach `api.x.com`: add `http:api.x.com` to its @permissions",
    )
    .await;
    check(
        "http:localhost",
        "http://127.0.0.2/",
        "`weather` may not reach `127.0.0.2`: add `http:127.0.0.2` to its @permissions",
    )
    .await;
    check(
        "http:x.com",
        "http://[fd00::1]:8080/",
        "`weather` may not reach `[fd00::1]:8080`: add `http:[fd00::1]:8080` to its @permissions",
    )
    .await;
    check(
        "http:example.com",
        "http://sub.example.com/",
        "`weather` may not reach `sub.example.com`: add `http:sub.example.com` to its @permissions",
    )
    .await;
}

/// Where each test name leads.
fn lead(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: &[&str] = match name {
        "home.example.com" | "nas" | "nas.local" | "nas.home.arpa" => &["192.168.1.10"],
        "six.example.com" | "six.lan" => &["fd00::10"],
        "mixed.example.com" => &["127.0.0.1", "1.1.1.1", "::ffff:10.0.0.1", "2606:4700::1111"],
        "cloud.internal" | "cloud.example.com" => &["169.254.169.254"],
        "self" | "self.example.com" | "localhost" => &["127.0.0.1"],
        "mapped.example.com" => &["::ffff:127.0.0.1"],
        "nowhere.example.com" => &[],
        "ads.example.com" => &["0.0.0.0"],
        _ => return Err(io::Error::other("no such name")),
    };
    Ok(addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect())
}

#[tokio::test]
async fn a_name_leads_only_to_addresses_that_are_public_or_named() {
    let check = async |allowed: &[&str], url: &str, expect: Result<&[&str], &str>| {
        let plugin = PluginId::parse("weather").unwrap();
        let permissions = permissions(allowed);
        let asker = Asker { plugin: &plugin, permissions: &permissions };
        let hop = Hop::first(get(url), 0).unwrap();
        match (Reach::with(lead).allowed(asker, &hop).await, expect) {
            (Ok(found), Ok(expect)) => {
                let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                assert_eq!(found, expect, "{allowed:?} {url}");
            }
            (Err(Refusal::Mistake(message) | Refusal::Failure(message)), Err(expect)) => {
                assert!(message.contains(expect), "{allowed:?} {url}: {message}");
            }
            other => panic!("{allowed:?} {url}: {other:?}"),
        }
    };
    let home = "http://home.example.com/";
    check(
        &["http:home.example.com"], home,
        Err("`weather` may not reach `home.example.com`: it leads to 192.168.1.10, a private address; if that \
             is meant, add `http:192.168.1.10` to its @permissions"),
    ).await;
    check(&["http:home.example.com", "http:192.168.1.10"], home, Ok(&["192.168.1.10:80"])).await;
    check(&["http:home.example.com", "http:192.168.1.10:80"], home, Ok(&["192.168.1.10:80"])).await;
    check(&["http:home.example.com", "http:192.168.1.10:22"], home, Err("a private address")).await;
    check(&["http:home.example.com", "http:192.168.1.11"], home, Err("a private address")).await;
    check(&["http:192.168.1.10"], home, Err("add `http:home.example.com`")).await;
    check(&["http:six.example.com"], "http://six.example.com/", Err("add `http:[fd00::10]`")).await;
    check(&["http:six.example.com", "http:[FD00:0::10]"], "http://six.example.com/", Ok(&["[fd00::10]:80"]))
        .await;
    check(&["http:six.lan"], "https://six.lan/", Ok(&["[fd00::10]:443"])).await;
    for host in ["nas", "nas.local", "nas.home.arpa"] {
        check(&[&format!("http:{host}")], &format!("http://{host}:81/"), Ok(&["192.168.1.10:81"])).await;
    }
    check(
        &["http:mixed.example.com"],
        "http://mixed.example.com/",
        Ok(&["1.1.1.1:80", "[2606:4700::1111]:80"]),
    )
    .await;
    for name in ["cloud.internal", "cloud.example.com"] {
        check(&[&format!("http:{name}")], &format!("http://{name}/"), Err("a cloud's credentials service"))
            .await;
    }
    check(&["http:self"], "http://self/", Err("127.0.0.1, an address of this machine")).await;
    check(&["http:mapped.example.com"], "http://mapped.example.com/", Err("add `http:127.0.0.1`")).await;
    check(&["http:localhost"], "http://localhost/", Ok(&["127.0.0.1:80"])).await;
    check(&["http:nowhere.example.com"], "http://nowhere.example.com/", Err("has no address")).await;
    check(&["http:x.example.com"], "http://x.example.com/", Err("`x.example.com` cannot be found: no such"))
        .await;
    check(&["http:ads.example.com"], "http://ads.example.com/", Err("is blocked by this network's name"))
        .await;
    check(&["http:10.0.0.1"], "http://10.0.0.1/", Ok(&[])).await;
}

static LOOKUPS: AtomicUsize = AtomicUsize::new(0);

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_connected_to() {
    // The second answer of this name server is another: a client that asked twice would go astray.
    let rebinding: LookUp = |_, port| match LOOKUPS.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(vec![SocketAddr::from(([127, 0, 0, 1], port))]),
        _ => Ok(vec![SocketAddr::from(([127, 0, 0, 2], port))]),
    };
    let server = Server::start(|_| ok("first"));
    let client = HttpClient::with_reach(config(), Reach::with(rebinding));
    let request = get(format!("http://rebinding.test:{}/", server.port));
    let response = run_with(&client, &["http:rebinding.test", "http:127.0.0.1"], request).await;
    assert_eq!(text(response.unwrap()), "first");
    assert_eq!(LOOKUPS.load(Ordering::SeqCst), 1);
    assert!(server.seen()[0].contains(&format!("host: rebinding.test:{}\r\n", server.port)));
}

#[tokio::test]
async fn one_plugins_connection_never_serves_another() {
    let server = Server::start(|_| {
        b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 1\r\n\r\nx".to_vec()
    });
    let client = HttpClient::with_reach(config(), Reach::with(lead));
    let url = format!("http://self.example.com:{}/", server.port);
    run_with(&client, &["http:self.example.com", "http:127.0.0.1"], get(&url)).await.unwrap();
    let message = mistake(run_with(&client, &["http:self.example.com"], get(&url)).await);
    assert!(message.contains("add `http:127.0.0.1`"), "{message}");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn what_no_client_should_send_is_a_mistake() {
    let server = Server::start(|_| ok(""));
    let url = server.url("/");
    let check = async |request: HttpRequest, expect: &str| {
        let message = mistake(run(&["http:localhost"], request).await);
        assert!(message.contains(expect), "{message}");
        assert!(!message.contains("secret"), "{message}");
    };
    for bad in ["a\r\nX-Evil: secret", "a\nb", "a\rb", "a\0b", "a\x7fb"] {
        check(with_header(get(&url), "X-Good", bad), "the header `X-Good` has a line break").await;
    }
    for bad in ["", "X Y", "X:Y", "X\r\nY", "é"] {
        check(with_header(get(&url), bad, "x"), "is not a header's name").await;
    }
    for bad in ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "Upgrade", "TE", "Keep-Alive"] {
        check(with_header(get(&url), bad, "x"), "is set by the bridge: leave it out").await;
    }
    check(HttpRequest { headers: vec![("a".into(), "b".into()); 65], ..get(&url) }, "too many headers").await;
    check(with_header(get(&url), "a", &"x".repeat(40_000)), "too many headers").await;
    for bad in ["", "get", "GET / HTTP/1.1\r\nX:", "G T", "GÉT"] {
        check(HttpRequest { method: bad.into(), ..get(&url) }, "is not a method: write capital letters")
            .await;
    }
    for bad in ["CONNECT", "TRACE"] {
        check(HttpRequest { method: bad.into(), ..get(&url) }, "cannot be used").await;
    }
    for bad in ["/\r\nX-Evil: secret", "/a\nb", "/a\tb", "/a\0"] {
        check(get(server.url(bad)), "the URL has a line break").await;
    }
    for bad in ["", "nonsense", "/path", "http://", "http://a b/?secret", "http://[::1", "http://256.1.1.1/"]
    {
        check(get(bad), "is not a URL").await;
    }
    for bad in ["file:///etc/passwd", "ftp://localhost/", "unix:/run/docker.sock", "data:,x", "javascript:x"]
    {
        check(get(bad), "only http and https can be reached").await;
    }
    check(get(server.url(&"x".repeat(9000))), "at most 8192 are allowed").await;
    check(post(&url, Payload::Bytes(vec![0; 1001])), "has 1001 bytes, at most 1000 can be sent").await;
    assert_eq!(server.seen(), Vec::<String>::new());
}

#[tokio::test]
async fn the_worlds_failures_are_plain_sentences_without_secrets() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let rude = Server::start(|_| Vec::new());
    let nonsense = Server::start(|_| b"SSH-2.0-OpenSSH_9.9\r\n".to_vec());
    let broken = Server::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec());
    let check = async |url: String, expect: &str| {
        let message = failure(run(&["http:localhost"], get(format!("{url}?key=secret"))).await);
        assert!(message.contains(expect) && !message.contains("secret"), "{message}");
    };
    check(format!("http://localhost:{closed}/"), &format!("`localhost:{closed}` refuses connections")).await;
    check(rude.url("/"), "gave no proper answer: ").await;
    check(nonsense.url("/"), "gave no proper answer: ").await;
    check(broken.url("/"), "broke off: ").await;
    check(nonsense.url("/").replace("http:", "https:"), "does not speak TLS on this port").await;
}

#[tokio::test]
async fn many_requests_run_beside_each_other() {
    let servers: Vec<_> = (0..8).map(|number| Server::start(move |_| ok(&number.to_string()))).collect();
    let client = HttpClient::new(config());
    let mut requests = tokio::task::JoinSet::new();
    for (number, server) in servers.iter().enumerate() {
        let (client, request) = (client.clone(), get(server.url("/")));
        requests.spawn(async move {
            assert_eq!(
                text(run_with(&client, &["http:localhost"], request).await.unwrap()),
                number.to_string()
            );
        });
    }
    requests.join_all().await;
}

/// For `localhost`, signed by itself; made for this test and used nowhere else.
const CERTIFICATE: &[u8] = b"\
-----BEGIN CERTIFICATE-----\n\
MIIBvTCCAWKgAwIBAgIUS7RMWZzj++J7R2Q9cEonxE5z/ncwCgYIKoZIzj0EAwIw\n\
KTEnMCUGA1UEAwweamFydmlzLWJyaWRnZSB0ZXN0IGNlcnRpZmljYXRlMCAXDTI2\n\
MTEyNTA0MTIyMFoYDzIxMjYxMTAxMDQxMjIwWjApMScwJQYDVQQDDB5qYXJ2aXMt\n\
YnJpZGdlIHRlc3QgY2VydGlmaWNhdGUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC\n\
AARX/eruTnhI4BNw61WaRqEivovrRcyu8YMqK7tenHfDO7W2/T8Hkd/PBHZdYoav\n\
0GTF+/4Y4vGfw9wsqWS6pYvoo2YwZDAdBgNVHQ4EFgQUOw5Z7SRvQXwEkGLeozPN\n\
Qacy54UwHwYDVR0jBBgwFoAUOw5Z7SRvQXwEkGLeozPNQacy54UwFAYDVR0RBA0w\n\
C4IJbG9jYWxob3N0MAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwIDSQAwRgIhAMSE\n\
FyGMBv0LMXwee/ghNqnJokdoio0c/VyXFDwXCaF0AiEAuVavDIXQgVKfYmXZNKXb\n\
t3gBhS0Y1l2+4q343izL0wI=\n\
-----END CERTIFICATE-----\n\
";
const KEY: &[u8] = b"\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgb5vV7RkGwQgZuVy8\n\
1EngHonXCXNDVedP2wEeW2rPNqyhRANCAARX/eruTnhI4BNw61WaRqEivovrRcyu\n\
8YMqK7tenHfDO7W2/T8Hkd/PBHZdYoav0GTF+/4Y4vGfw9wsqWS6pYvo\n\
-----END PRIVATE KEY-----\n\
";

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_refused() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(CERTIFICATE).unwrap()],
            PrivateKeyDer::from_pem_slice(KEY).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut connection = rustls::ServerConnection::new(Arc::new(tls)).unwrap();
        let handshake = connection.complete_io(&mut stream);
        handshake.and_then(|_| connection.complete_io(&mut stream)).unwrap_err().to_string()
    });
    let message = failure(run(&["http:localhost"], get(format!("https://localhost:{port}/"))).await);
    let expect = "is not valid: nobody whom this machine trusts has signed it";
    assert_eq!(message, format!("the certificate of `localhost:{port}` {expect}"));
    assert!(server.join().unwrap().contains("received fatal alert"));
}
