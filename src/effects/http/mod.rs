//! `jarvis.http`: one request of a plugin, followed to its answer. Knows no Lua and keeps no connection.

mod address;
mod explain;
mod hop;
mod reach;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    header::HeaderMap,
    redirect, retry,
};
use tokio::sync::OnceCell;

use self::{
    explain::explain,
    hop::Hop,
    reach::{Asker, Reach},
};
use crate::model::{
    Permission, PluginId,
    frame::{HttpRequest, HttpResponse, Refusal},
    message::Payload,
};

/// All header lines of a response together, in bytes. The client itself stops reading them at about 400 KiB
/// or 100 lines.
const MAX_RESPONSE_HEADERS: usize = 64 * 1024;

/// What plugins' requests may use.
#[derive(Debug, Clone)]
pub struct Config {
    /// For one request with all its redirects, where the plugin names no time of its own.
    pub timeout: Duration,
    /// The most that a plugin can ask for.
    pub max_timeout: Duration,
    /// Bytes of a body, in either direction.
    pub max_body: usize,
    /// How many redirects are followed.
    pub redirects: usize,
}

/// The figures of the shipped configuration, for embedders that bring none.
impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            max_timeout: Duration::from_secs(60),
            max_body: 1 << 20,
            redirects: 3,
        }
    }
}

/// Sends what plugins ask for, each request on a connection of its own. Cheap to clone.
///
/// A plugin's worker waits for its answer before it can ask again, so there are at most as many requests at a
/// time as plugins that run, and none holds up another's.
///
/// Connections are not kept: one that was opened under one plugin's permissions must not serve another.
#[derive(Clone)]
pub struct HttpClient {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    reach: Reach,
    /// Built at the first request: it reads the system's certificates, and most plugins never ask.
    client: OnceCell<reqwest::Client>,
}

tokio::task_local! {
    /// What was checked for the request that runs. The client asks its resolver with nothing but a name, so
    /// this is how one request's addresses reach it and no other's.
    static CHECKED: Arc<[SocketAddr]>;
}

/// Hands the client the addresses that were checked, and nothing where there are none.
struct CheckedOnly;

impl Resolve for CheckedOnly {
    fn resolve(&self, _name: Name) -> Resolving {
        let checked = CHECKED.try_with(Arc::clone);
        Box::pin(async move {
            let addresses: Addrs = Box::new(checked?.to_vec().into_iter());
            Ok(addresses)
        })
    }
}

impl HttpClient {
    /// Keeps the configuration; nothing is read or opened yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self::with_reach(config, Reach::new())
    }

    fn with_reach(config: Config, reach: Reach) -> Self {
        Self { inner: Arc::new(Inner { config, reach, client: OnceCell::new() }) }
    }

    /// Runs one request with all its redirects.
    ///
    /// # Errors
    /// `Refusal::Mistake` when the plugin may not do this or asks for what no client should send,
    /// `Refusal::Failure` when the world does not answer as it should.
    pub async fn run(
        &self,
        plugin: &PluginId,
        permissions: &[Permission],
        request: HttpRequest,
    ) -> Result<HttpResponse, Refusal> {
        let config = &self.inner.config;
        let timeout =
            request.timeout_ms.map_or(config.timeout, Duration::from_millis).min(config.max_timeout);
        let hop = Hop::first(request, config.max_body)?;
        let place = hop.place();
        let asker = Asker { plugin, permissions };
        let result = match tokio::time::timeout(timeout, self.inner.follow(asker, hop)).await {
            Ok(result) => result,
            Err(_) => Err(Refusal::Failure(format!("the request to `{place}` took longer than {timeout:?}"))),
        };
        let status = result.as_ref().map(|response| response.status).ok();
        tracing::debug!(%plugin, place, status, "http request");
        result
    }
}

impl Inner {
    async fn follow(&self, asker: Asker<'_>, first: Hop) -> Result<HttpResponse, Refusal> {
        let start = first.place();
        let mut hop = first;
        for _ in 0..=self.config.redirects {
            let addresses = self.reach.allowed(asker, &hop).await?;
            let response = self.send(&hop, addresses).await?;
            let Some(next) = hop.next(response.status(), response.headers())? else {
                return self.read(&hop, response).await;
            };
            hop = next;
        }
        let limit = self.config.redirects;
        Err(Refusal::Failure(format!("`{start}` redirects more than {limit} times (`http.redirects`)")))
    }

    async fn send(&self, hop: &Hop, addresses: Arc<[SocketAddr]>) -> Result<reqwest::Response, Refusal> {
        let client = self.client.get_or_try_init(|| load_client(self.config.timeout)).await?;
        let mut request = client.request(hop.method.clone(), hop.url.clone()).headers(hop.headers.clone());
        if let Some(body) = &hop.body {
            request = request.body(body.clone());
        }
        let sent = CHECKED.scope(addresses, request.send()).await;
        sent.map_err(|error| Refusal::Failure(explain(&hop.place(), &error)))
    }

    async fn read(&self, hop: &Hop, mut response: reqwest::Response) -> Result<HttpResponse, Refusal> {
        let max = self.config.max_body;
        let too_large = || {
            Refusal::Failure(format!(
                "the answer of `{}` is longer than {max} bytes (`http.max_body`)",
                hop.place()
            ))
        };
        let headers = read_headers(response.headers()).ok_or_else(|| {
            Refusal::Failure(format!(
                "the headers of `{}` are longer than {MAX_RESPONSE_HEADERS} bytes",
                hop.place()
            ))
        })?;
        if response.content_length().is_some_and(|length| length > max as u64) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        loop {
            let chunk = response.chunk().await;
            match chunk.map_err(|error| Refusal::Failure(explain(&hop.place(), &error)))? {
                Some(chunk) if body.len() + chunk.len() > max => return Err(too_large()),
                Some(chunk) => body.extend_from_slice(&chunk),
                None => break,
            }
        }
        let body = match String::from_utf8(body) {
            Ok(text) => Payload::Text(text),
            Err(error) => Payload::Bytes(error.into_bytes()),
        };
        Ok(HttpResponse { status: response.status().as_u16(), headers, body })
    }
}

/// Joins repeated headers, or gives nothing where all of them are too long.
fn read_headers(headers: &HeaderMap) -> Option<BTreeMap<String, String>> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > MAX_RESPONSE_HEADERS {
        return None;
    }
    let mut joined = BTreeMap::<String, String>::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.as_str().to_owned())
            .and_modify(|before| {
                before.push_str(", ");
                before.push_str(&value);
            })
            .or_insert_with(|| value.clone().into_owned());
    }
    Some(joined)
}

async fn load_client(connect_timeout: Duration) -> Result<reqwest::Client, Refusal> {
    // Reading the certificates takes some milliseconds of file work.
    let loaded = tokio::task::spawn_blocking(move || {
        build_client(connect_timeout, Trust::System).or_else(|error| {
            tracing::warn!(
                %error,
                "no certificates were found on this machine: https cannot work for plugins until \
                 `ca-certificates` is installed and the bridge started again"
            );
            build_client(connect_timeout, Trust::Nobody)
        })
    });
    let failure = |error: &dyn std::fmt::Display| Refusal::Failure(format!("http cannot be used: {error}"));
    loaded.await.map_err(|error| failure(&error))?.map_err(|error| failure(&error))
}

/// Whose certificates are believed.
#[derive(Clone, Copy)]
enum Trust {
    System,
    Nobody,
}

fn build_client(connect_timeout: Duration, trust: Trust) -> reqwest::Result<reqwest::Client> {
    // Refused when another room was first, which then installed the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("jarvis-bridge/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(CheckedOnly)
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .no_proxy()
        // Divided among a host's addresses, so that one dead address leaves time for the next.
        .connect_timeout(connect_timeout)
        // Without a pool the connection is made inside the request's own task, which `CHECKED` relies on.
        .pool_max_idle_per_host(0);
    match trust {
        Trust::System => builder.build(),
        Trust::Nobody => builder.tls_certs_only([]).build(),
    }
}
