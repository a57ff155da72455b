//! A small HTTP server on this machine.

use std::{
    io::{BufRead, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// A request as it came in.
#[derive(Debug, Clone, Default)]
pub(crate) struct WebRequest {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Lower-case names.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// What goes back: a status line such as `200 OK`, more header lines, the body.
pub(crate) type WebAnswer = (&'static str, String, String);

/// Serves until the test's process ends; gives the port.
pub(crate) fn serve(answer: impl Fn(&WebRequest) -> WebAnswer + Send + Sync + 'static) -> u16 {
    serve_raw(move |request, stream| {
        let (status, headers, body) = answer(request);
        write!(
            stream,
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}",
            body.len()
        )
    })
}

/// The same for a server that writes every byte itself, and need not stick to HTTP. It ends with the connection:
/// what it writes fails then.
pub(crate) fn serve_raw(
    answer: impl Fn(&WebRequest, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let answer = Arc::clone(&answer);
            thread::spawn(move || {
                let Ok(request) = read(&mut BufReader::new(&stream)) else { return };
                // A client that goes away in the middle is no fault of the server's.
                drop(answer(&request, &mut stream));
            });
        }
    });
    port
}

/// A server that lets everybody wait until it is opened: slow for as long as a test wants, on any machine.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) port: u16,
    open: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        let open: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let seen = Arc::clone(&open);
        let port = serve(move |_| {
            let (open, opened) = &*seen;
            drop(opened.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
            ("200 OK", String::new(), String::new())
        });
        Self { port, open }
    }

    pub(crate) fn open(&self) {
        *self.open.0.lock().unwrap() = true;
        self.open.1.notify_all();
    }

    /// What a plugin's header must name.
    pub(crate) fn permission(&self) -> String {
        format!("http:127.0.0.1:{}", self.port)
    }

    /// The Lua that waits before it, as long as a plugin may.
    pub(crate) fn wait(&self) -> String {
        format!("jarvis.http.get('http://127.0.0.1:{}/', {{ timeout = 60 }})", self.port)
    }
}

impl WebRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

fn read(stream: &mut impl BufRead) -> std::io::Result<WebRequest> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let mut request = WebRequest {
        method: words.next().unwrap_or_default(),
        path: words.next().unwrap_or_default(),
        ..WebRequest::default()
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        request.headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    request.body = String::from_utf8_lossy(&body).into_owned();
    Ok(request)
}
