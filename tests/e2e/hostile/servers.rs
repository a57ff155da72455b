//! A web server that does everything wrong: never ends, lies, sends what is no HTTP. Knows no client.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::harness::WebRequest;

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
pub(super) fn misbehave(request: &WebRequest, stream: &mut TcpStream) -> std::io::Result<()> {
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
        "/switches" => {
            stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
        }
        "/gzip" | "/deflate" | "/br" | "/zstd" => {
            let body = gzip_bomb();
            head(
                stream,
                &format!(
                    "content-encoding: {}\r\ncontent-length: {}\r\n",
                    request.path.trim_matches('/'),
                    body.len()
                ),
            )?;
            stream.write_all(&body)
        }
        "/no_utf8" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nx: \xff\xfe\r\ncontent-length: 2\r\n\r\n\xff\xfe")
        }
        _ => head(stream, "content-length: 2\r\n").and_then(|()| stream.write_all(b"ok")),
    }
}

/// What no client can take whole: each is given up with a reason.
pub(super) const ENDLESS: [&str; 27] = [
    "silence",
    "drips_status",
    "drips_headers",
    "drips_body",
    "drips_chunks",
    "endless_body",
    "endless_chunks",
    "endless_chunk_head",
    "endless_chunk_extension",
    "endless_trailers",
    "endless_status",
    "endless_header",
    "endless_headers",
    "endless_continue",
    "large_header",
    "large_body",
    "claims_much",
    "claims_too_much",
    "claims_less_than_none",
    "claims_twice",
    "claims_more_than_it_has",
    "bad_chunk",
    "huge_chunk",
    "garbage",
    "another_protocol",
    "bad_status",
    "hangs_up",
];
/// Each is given back or refused, and is not large either way.
pub(super) const ODD: [&str; 7] = ["bad_header", "switches", "gzip", "deflate", "br", "zstd", "no_utf8"];
