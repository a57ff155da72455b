//! Servers, name servers and addresses that mean harm.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use reqwest::{
    StatusCode,
    header::{self, HeaderMap},
};

use super::{
    Asker, Hop, HttpClient, LookUp, Payload, Permission, PluginId, Reach, Refusal, Server, config, failure,
    get, lead, mistake, ok, permissions, run, run_with, text,
};

static HANGING: AtomicUsize = AtomicUsize::new(0);

/// A name server that never answers for one name.
fn hangs_for_one(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if name != "hangs.test" {
        return lead(name, port);
    }
    HANGING.fetch_add(1, Ordering::SeqCst);
    loop {
        thread::park();
    }
}

#[test]
fn a_name_server_that_never_answers_holds_up_only_who_asks_it() {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::start(|_| ok("here"));
            let client = HttpClient::with_reach(config(), Reach::with(hangs_for_one));
            let hostile = PluginId::parse("hostile").unwrap();
            for _ in 0..4 {
                let mut request = get("http://hangs.test/");
                request.timeout_ms = Some(50);
                let begun = Instant::now();
                let result = client.run(&hostile, &permissions(&["http:hangs.test"]), request).await;
                assert_eq!(failure(result), "the request to `hangs.test` took longer than 50ms");
                assert!(begun.elapsed() < Duration::from_secs(5));
            }
            assert_eq!(HANGING.load(Ordering::SeqCst), 2, "lookups of one plugin at a time");
            let url = format!("http://localhost:{}/", server.port);
            assert_eq!(text(run_with(&client, &["http:localhost"], get(url)).await.unwrap()), "here");
        });
        // Would wait for what blocks.
        drop(runtime);
        tell.send(()).unwrap();
    });
    told.recv_timeout(Duration::from_secs(60)).expect("the lookup that hangs held up everything");
}

/// Every special block once, and each way to write an IPv4 address as an IPv6 one.
fn special() -> Vec<IpAddr> {
    let v4 = [
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.127.255.254",
        "127.0.0.1",
        "127.9.9.9",
        "169.254.1.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.9.9",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "100.100.100.200",
    ]
    .map(|text| text.parse::<Ipv4Addr>().unwrap());
    let v6 = [
        "::",
        "::1",
        "fc00::1",
        "fd00:ec2::254",
        "fdff::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "100::1",
        "2001::1",
        "2001:0:53aa:64c:0:fbff:f5ff:fffe",
        "2001:db8::1",
        "3fff::1",
        "64:ff9b:1::7f00:1",
        "4000::1",
        "5f00::1",
    ]
    .map(|text| text.parse::<Ipv6Addr>().unwrap());
    let mut all: Vec<IpAddr> = v6.map(IpAddr::V6).to_vec();
    for address in v4 {
        let [high, low] = [0, 2].map(|at| {
            let octets = address.octets();
            u16::from_be_bytes([octets[at], octets[at + 1]])
        });
        all.push(address.into());
        all.push(address.to_ipv6_mapped().into());
        all.push(Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low).into());
        all.push(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low).into());
        all.push(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low).into());
        all.push(Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1).into());
    }
    all
}

/// The name `n7.example.com` leads to the address of that place in the list.
fn leads_to_special(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let index: usize = name.trim_start_matches('n').split('.').next().unwrap().parse().unwrap();
    Ok(vec![SocketAddr::new(special()[index], port)])
}

#[tokio::test]
async fn no_special_address_is_reached_unless_it_is_named() {
    let plugin = PluginId::parse("weather").unwrap();
    let reach = Reach::with(leads_to_special as LookUp);
    let ask = async |url: &str, allowed: &[Permission]| {
        let hop = Hop::first(get(url), 0).unwrap();
        reach.allowed(Asker { plugin: &plugin, permissions: allowed }, &hop).await
    };
    for (index, address) in special().into_iter().enumerate() {
        let name = format!("n{index}.example.com");
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let by_name = format!("http://{name}/");
        let by_address = format!("http://{host}/");
        let allowed = permissions(&[&format!("http:{name}"), "http:example.com"]);
        assert!(ask(&by_name, &allowed).await.is_err(), "{address} by name");
        assert!(matches!(ask(&by_address, &allowed).await, Err(Refusal::Mistake(_))), "{address}");
        let named = permissions(&[&format!("http:{name}"), &format!("http:{host}")]);
        assert_eq!(ask(&by_name, &named).await.unwrap()[0].ip(), address);
        assert!(ask(&by_address, &named).await.is_ok(), "{address} named");
    }
}

#[tokio::test]
async fn a_compressed_body_is_passed_as_it_came() {
    // 1 GiB of zeros would be about as short.
    let bomb = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xfe];
    let server = Server::start(move |_| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 12\r\n\r\n".to_vec();
        answer.extend(bomb);
        answer
    });
    let response = run(&["http:localhost"], get(server.url("/"))).await.unwrap();
    assert_eq!(response.body, Payload::Bytes(bomb.to_vec()));
    assert_eq!(response.headers["content-encoding"], "gzip");
}

#[tokio::test]
async fn nothing_is_kept_from_one_request_to_the_next() {
    let server = Server::start(|_| {
        b"HTTP/1.1 200 OK\r\nset-cookie: secret=1; Path=/\r\nwww-authenticate: Basic\r\ncontent-length: 0\r\n\r\n"
            .to_vec()
    });
    let client = HttpClient::new(config());
    for _ in 0..2 {
        run_with(&client, &["http:localhost"], get(server.url("/"))).await.unwrap();
    }
    let seen = server.seen();
    assert_eq!(seen.len(), 2);
    assert!(!seen[1].contains("cookie") && !seen[1].contains("referer"), "{}", seen[1]);
}

/// Runs once more in a process of its own, whose environment names a proxy.
#[tokio::test]
async fn the_systems_proxy_is_not_used() {
    const INSIDE: &str = "JARVIS_TEST_BEHIND_A_PROXY";
    let server = Server::start(|_| ok("direct"));
    if std::env::var_os(INSIDE).is_some() {
        assert_eq!(text(run(&["http:localhost"], get(server.url("/"))).await.unwrap()), "direct");
        return;
    }
    let proxy = Server::start(|_| ok("through the proxy"));
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "effects::http::tests::hostile::the_systems_proxy_is_not_used"]).env(INSIDE, "1");
    for variable in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        again.env(variable, format!("http://127.0.0.1:{}", proxy.port));
    }
    let output = again.output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && report.contains("1 passed"), "{report}");
    assert_eq!(proxy.seen(), Vec::<String>::new());
}

/// What is sent again and again.
struct Endless {
    head: &'static [u8],
    again: &'static [u8],
}

#[tokio::test]
async fn no_server_sends_without_end() {
    for (what, endless) in [
        ("interim answers", Endless { head: b"", again: b"HTTP/1.1 100 Continue\r\n\r\n" }),
        ("early hints", Endless { head: b"", again: b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" }),
        ("header lines", Endless { head: b"HTTP/1.1 200 OK\r\n", again: b"x: y\r\n" }),
        ("a status line", Endless { head: b"HTTP/1.1 200 ", again: b"OK OK OK OK " }),
        ("empty lines", Endless { head: b"", again: b"\r\n" }),
        (
            "trailers",
            Endless {
                head: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
                again: b"x: y\r\n",
            },
        ),
        (
            "a chunk's extension",
            Endless {
                head: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;x=",
                again: b"yyyyyyyy",
            },
        ),
        (
            "a chunk's length",
            Endless { head: b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", again: b"0000000000" },
        ),
    ] {
        let server = Server::serve(move |stream, _| {
            stream.write_all(endless.head)?;
            loop {
                stream.write_all(&endless.again.repeat(64))?;
            }
        });
        let mut request = get(server.url("/"));
        request.timeout_ms = Some(1_000);
        let begun = Instant::now();
        let message = failure(run(&["http:localhost"], request).await);
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {message}");
        let cut = ["took longer than 1s", "gave no proper answer", "broke off"];
        assert!(cut.iter().any(|cut| message.contains(cut)), "{what}: {message}");
    }
}

#[tokio::test]
async fn lengths_that_lie_bring_no_more_than_they_say_or_an_error() {
    let check = async |answer: &'static [u8], expect: Result<&str, &str>| {
        let server = Server::serve(move |stream, _| {
            stream.write_all(answer)?;
            // The rest of the connection is not looked at.
            stream.read(&mut [0]).map(drop)
        });
        let mut request = get(server.url("/"));
        request.timeout_ms = Some(2_000);
        match (run(&["http:localhost"], request).await, expect) {
            (Ok(response), Ok(expect)) => assert_eq!(text(response), expect),
            (result, Err(expect)) => {
                let message = failure(result);
                assert!(message.contains(expect), "{message}");
            }
            (Err(refusal), Ok(_)) => panic!("{refusal:?}"),
        }
    };
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nevil", Ok("ok")).await;
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 4\r\n\r\nokok", Err("no proper answer"))
        .await;
    check(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok", Err("no proper answer")).await;
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\nok", Err("no proper answer"))
        .await;
    check(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\nok", Err("longer than 1000 bytes")).await;
    check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nok", Err("took longer"))
        .await;
    check(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\nok", Err("broke off")).await;
    check(b"HTTP/1.1 200 OK\r\nx: a\r\n y: b\r\ncontent-length: 0\r\n\r\n", Err("no proper answer")).await;
}

#[test]
fn no_redirect_leads_from_https_to_http() {
    let first = Hop::first(get("https://api.example.com/a"), 0).unwrap();
    let follow = |hop: &Hop, location: &str| {
        let headers: HeaderMap = [(header::LOCATION, location.parse().unwrap())].into_iter().collect();
        hop.next(StatusCode::FOUND, &headers)
    };
    for location in ["http://api.example.com/a", "http://other.example.com/"] {
        let Err(Refusal::Failure(message)) = follow(&first, location) else {
            panic!("{location} was followed")
        };
        assert!(message.starts_with("`api.example.com` redirects to an `http:` address"), "{message}");
    }
    let next = follow(&first, "//other.example.com/b").unwrap().unwrap();
    assert_eq!(next.url.as_str(), "https://other.example.com/b");
    let plain = Hop::first(get("http://api.example.com/a"), 0).unwrap();
    assert_eq!(follow(&plain, "https://api.example.com/").unwrap().unwrap().url.scheme(), "https");
}

#[tokio::test]
async fn names_in_other_scripts_are_compared_in_their_ascii_form() {
    let allowed = ["http:xn--bcher-kva.example"];
    let message = mistake(run(&["http:bucher.example"], get("http://b\u{fc}cher.example/")).await);
    assert!(message.contains("add `http:xn--bcher-kva.example`"), "{message}");
    let plugin = PluginId::parse("weather").unwrap();
    let allowed = permissions(&allowed);
    let hop = Hop::first(get("http://B\u{dc}CHER.example./"), 0).unwrap();
    let reach = Reach::with(|_, port| Ok(vec![SocketAddr::from(([1, 1, 1, 1], port))]));
    assert!(reach.allowed(Asker { plugin: &plugin, permissions: &allowed }, &hop).await.is_ok());
}
