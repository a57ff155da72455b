//! What a plugin may reach: from a URL and its permissions to the addresses that may be connected to.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use reqwest::Url;
use tokio::sync::{Semaphore, oneshot};

use super::{
    address::{Kind, kind_of},
    hop::{Hop, shortened},
};
use crate::model::{Permission, PluginId, frame::Refusal};

/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 16;
/// Lookups of one plugin at a time. A lookup cannot be called off: without this bound a plugin that gives
/// up early and asks again would start threads without end.
const LOOKUPS: usize = 2;
/// Endings of names that no public name server knows (RFC 6762, RFC 8375, ICANN's `.internal`, and habit).
const LOCAL_ENDINGS: [&str; 4] = [".local", ".lan", ".home.arpa", ".internal"];

/// Turns a name and a port into addresses; blocks.
pub(super) type LookUp = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// Resolves names, each once per request, and refuses what the permissions do not name.
pub(super) struct Reach {
    look_up: LookUp,
    /// One entry for each plugin that ever used http.
    lookups: Mutex<HashMap<PluginId, Arc<Semaphore>>>,
}

/// Who asks, and what its `@permissions` name.
#[derive(Clone, Copy)]
pub(super) struct Asker<'call> {
    /// The plugin.
    pub(super) plugin: &'call PluginId,
    /// What it may do.
    pub(super) permissions: &'call [Permission],
}

/// A host, in one spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl Reach {
    /// Asks the system's resolver.
    pub(super) fn new() -> Self {
        Self::with(|name, port| {
            (name, port).to_socket_addrs().map(|found| found.take(MAX_ADDRESSES).collect())
        })
    }

    /// Asks a resolver of the caller's.
    pub(super) fn with(look_up: LookUp) -> Self {
        Self { look_up, lookups: Mutex::default() }
    }

    /// Finds the addresses that a request may connect to; none where its URL names an address itself, which
    /// then is allowed.
    ///
    /// # Errors
    /// `Refusal::Mistake` when a permission is missing, `Refusal::Failure` when the name is not found.
    pub(super) async fn allowed(&self, asker: Asker<'_>, hop: &Hop) -> Result<Arc<[SocketAddr]>, Refusal> {
        let port = hop.url.port_or_known_default().unwrap_or_default();
        let host = Host::of_url(&hop.url);
        if !asker.may_reach(&host, port) {
            return Err(asker.missing(&host, port, hop));
        }
        let Host::Name(name) = &host else { return Ok(Arc::default()) };
        let found = self.resolve(asker.plugin, name, port).await?;
        let allowed: Arc<[SocketAddr]> = found
            .iter()
            .filter(|address| asker.may_connect(&host, address))
            .take(MAX_ADDRESSES)
            .copied()
            .collect();
        match (allowed.first(), found.first()) {
            (Some(_), _) => Ok(allowed),
            (None, Some(refused)) => Err(asker.not_named(name, *refused)),
            (None, None) => Err(Refusal::Failure(format!("`{}` has no address", shortened(name)))),
        }
    }

    async fn resolve(&self, plugin: &PluginId, name: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
        let failure = |error: &dyn std::fmt::Display| {
            Refusal::Failure(format!("`{}` cannot be found: {error}", shortened(name)))
        };
        let turns = {
            let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(lookups.entry(plugin.clone()).or_insert_with(|| Arc::new(Semaphore::new(LOOKUPS))))
        };
        let turn = turns.acquire_owned().await.map_err(|error| failure(&error))?;
        let (look_up, owned) = (self.look_up, name.to_owned());
        let (tell, told) = oneshot::channel();
        // A thread of its own: a name server that does not answer, perhaps the plugin author's, must hold up
        // neither what else blocks nor the end of the bridge.
        let thread = thread::Builder::new().name("lookup".into()).spawn(move || {
            let found = look_up(&owned, port);
            drop(turn);
            // Who asked may have given up.
            let _ = tell.send(found);
        });
        thread.map_err(|error| failure(&error))?;
        told.await.map_err(|error| failure(&error))?.map_err(|error| failure(&error))
    }
}

impl Asker<'_> {
    /// Whether some permission names this host and port.
    fn may_reach(&self, host: &Host, port: u16) -> bool {
        self.named().any(|(named, only)| named == *host && only.is_none_or(|only| only == port))
    }

    /// Whether an address that a permitted name led to may be connected to.
    fn may_connect(&self, host: &Host, address: &SocketAddr) -> bool {
        match kind_of(address.ip()) {
            Kind::Public => true,
            Kind::Loopback if host.is_localhost() => true,
            Kind::Private if host.is_local() => true,
            Kind::Loopback
            | Kind::Private
            | Kind::LinkLocal
            | Kind::Multicast
            | Kind::Metadata
            | Kind::Reserved => self.may_reach(&Host::Address(address.ip().to_canonical()), address.port()),
        }
    }

    fn named(&self) -> impl Iterator<Item = (Host, Option<u16>)> {
        self.permissions.iter().filter_map(|permission| match permission {
            Permission::Http { host, port } => Some((Host::of_permission(host), *port)),
            Permission::Publish(_) | Permission::Subscribe(_) => None,
        })
    }

    fn missing(&self, host: &Host, port: u16, hop: &Hop) -> Refusal {
        let place = hop.place();
        // Where another port of this host is allowed, the default port too must be named to be understood.
        let other_port = self.named().any(|(named, _)| named == *host);
        let wanted = if other_port && hop.url.port().is_none() { format!("{place}:{port}") } else { place };
        let whence = match &hop.redirected_by {
            Some(from) => format!(", where `{from}` redirects to"),
            None => String::new(),
        };
        Refusal::Mistake(format!(
            "`{}` may not reach `{wanted}`{whence}: add `http:{wanted}` to its @permissions",
            self.plugin
        ))
    }

    fn not_named(&self, name: &str, refused: SocketAddr) -> Refusal {
        let address = refused.ip().to_canonical();
        let name = shortened(name);
        // What filters such as Pi-hole answer. To allow this address would be no remedy: it is this machine.
        if address.is_unspecified() {
            return Refusal::Failure(format!("`{name}` is blocked by this network's name server"));
        }
        let kind = kind_of(address);
        let permission = Permission::Http { host: address.to_string(), port: None };
        Refusal::Mistake(format!(
            "`{}` may not reach `{name}`: it leads to {address}, {kind}; if that is meant, add `{permission}` to \
             its @permissions",
            self.plugin
        ))
    }
}

impl Host {
    /// The URL parser has already turned every spelling of an IPv4 address into one.
    fn of_url(url: &Url) -> Self {
        Self::of_text(url.host_str().unwrap_or_default())
    }

    /// Takes the same way as a URL's host, so that both end in the same spelling.
    fn of_permission(host: &str) -> Self {
        let bracketed =
            if host.contains(':') { format!("http://[{host}]/") } else { format!("http://{host}/") };
        match Url::parse(&bracketed) {
            Ok(url) => Self::of_url(&url),
            Err(_) => Self::of_text(host),
        }
    }

    fn of_text(host: &str) -> Self {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => Self::Address(address.to_canonical()),
            Err(_) => Self::Name(bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase()),
        }
    }

    fn is_localhost(&self) -> bool {
        matches!(self, Self::Name(name) if name == "localhost" || name.ends_with(".localhost"))
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Name(name)
            if !name.contains('.') || LOCAL_ENDINGS.iter().any(|ending| name.ends_with(ending)))
    }
}
