//! The composition root: builds the rooms in order, runs them, drains them. The only file that knows all.

use std::{
    collections::BTreeMap,
    fs::File,
    future::Future,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    bridge::{self, Desk, Router},
    config::{self, Config},
    effects::{Bus, Effects, HttpClient, bus::REQUESTS, http},
    model::{Filter, lockdown::Probe},
    mqtt::{self, Inbox, Outbox, RetainHandling, Session, Subscription},
    plugin::{BreakerSettings, PluginManager, Settings},
    store::Store,
    worker::{ProbeError, Spawner, Walls},
};

/// The state's file in the data directory.
const STATE: &str = "state.db";
/// What keeps two bridges out of one data directory.
const LOCK: &str = "lock";
/// The note under which the client id made at the first start is kept.
const CLIENT_ID: &str = "client_id";
/// The note with the filters that the broker's session may still have.
const FILTERS: &str = "filters";
/// What our own broker gets to deliver the last messages before it ends.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// The embedded broker sends this many QoS 1 messages ahead of their acknowledgement, whatever we allow.
const SMALLEST_WINDOW: u16 = 64;
/// What `on_shutdown` gets at least, also where running hooks have taken all the time there was.
const FAREWELL: Duration = Duration::from_secs(2);
/// What the outbox gets to send its rest at shutdown.
const FLUSH: Duration = Duration::from_secs(5);

/// A running bridge.
pub struct App {
    plugins: PluginManager,
    desk: Desk,
    bus: Bus,
    outbox: Outbox,
    session: Session,
    inbox: Inbox,
    /// Says that this process owns the data directory until it is closed.
    _lock: File,
    broker: EmbeddedBroker,
    connection: mqtt::Config,
    shutdown_timeout: Duration,
    watch: bool,
}

#[cfg(feature = "embedded-broker")]
type EmbeddedBroker = Option<mqtt::broker::Broker>;
#[cfg(not(feature = "embedded-broker"))]
type EmbeddedBroker = Option<std::convert::Infallible>;

impl App {
    /// Opens the state, starts the embedded broker where no other is set, and connects. Plugins come with
    /// [`App::load`]; messages are not taken before [`App::run`].
    ///
    /// # Errors
    /// With a sentence that says what to change.
    pub async fn start(config: &Config, worker: Option<PathBuf>) -> anyhow::Result<Self> {
        let (lock, store) = open_data(&config.paths.data)?;
        let (broker, host) = broker(config)?;
        let client_id = client_id(config, &store).await?;
        let connection = connection(config, host, client_id)?;
        let (session, inbox) = connect(config, &connection, &store).await?;
        let outbox = Outbox::start_behind(&connection, session.status());
        let bus = Bus::over(outbox.clone(), session.clone());
        let effects =
            Effects::new(http_client(config), store.clone(), bus.clone(), config.mqtt.base_topic.clone());
        let plugins = plugin_manager(config, effects, worker).await?;
        let desk = Desk::new(
            bridge_config(config, &connection),
            plugins.clone(),
            outbox.clone(),
            session.clone(),
            bus.clone(),
            store.clone(),
        );
        tokio::spawn(keep_filters(session.clone(), store));
        let (shutdown_timeout, watch) = (config.bridge.shutdown_timeout, config.reload.watch);
        let app = Self {
            plugins,
            desk,
            bus,
            outbox,
            session,
            inbox,
            _lock: lock,
            broker,
            connection,
            shutdown_timeout,
            watch,
        };
        Ok(app)
    }

    /// Loads the plugins; returns when each is ready or refused.
    ///
    /// # Errors
    /// When their directory is there and cannot be read.
    pub async fn load(&self) -> anyhow::Result<()> {
        let directory = self.plugins.directory();
        let unreadable = || format!("the plugin directory `{}` cannot be read", directory.display());
        self.plugins.scan().await.with_context(unreadable)?;
        // Now it is known what the plugins still listen to of all that they listened to in the last run.
        self.session.forget_unwanted().await;
        Ok(())
    }

    /// The plugins.
    #[must_use]
    pub fn plugins(&self) -> &PluginManager {
        &self.plugins
    }

    /// The broker's host and port, and whether it is our own.
    #[must_use]
    pub fn broker(&self) -> (String, bool) {
        (self.connection.address(), self.broker.is_some())
    }

    /// How another client reaches the same broker.
    #[must_use]
    pub fn connection(&self) -> mqtt::Config {
        self.connection.clone()
    }

    /// Takes messages until `stop` comes; then drains, tells plugins and broker, and ends.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let (stop_router, router_stopped) = oneshot::channel();
        let (stop_announcing, announcing_stopped) = oneshot::channel();
        let (stop_watching, watching_stopped) = oneshot::channel();
        let (stop_parking, parking_stopped) = oneshot::channel();
        if self.watch {
            self.plugins.watch(watching_stopped);
        }
        tokio::spawn(self.desk.clone().announce(announcing_stopped));
        let parking = tokio::spawn(self.desk.clone().park(parking_stopped));
        let router = tokio::spawn(Router::new(self.desk.clone()).run(self.inbox, router_stopped));
        stop.await;
        tracing::info!("shutting down");
        drop(stop_watching);
        drop(stop_router);
        // A panic in the router has been printed; there is nothing more to take either way.
        let _ = router.await;
        let by = Instant::now() + self.shutdown_timeout;
        if tokio::time::timeout_at(by, self.desk.drained()).await.is_err() {
            tracing::warn!("hooks still run; their requests stay unacknowledged and come again");
        }
        self.desk.close();
        self.bus.close();
        if tokio::time::timeout_at(by.max(Instant::now() + FAREWELL), self.plugins.stop()).await.is_err() {
            tracing::warn!("a plugin did not end in time; its worker is killed");
        }
        drop(stop_parking);
        // Else a message could be kept here that the broker sends again; a panic in it has been printed.
        let _ = parking.await;
        drop(stop_announcing);
        self.outbox.stop(FLUSH).await;
        self.session.stop().await;
        self.desk.finish().await;
        if self.broker.is_some() {
            // What the broker has confirmed to us is still on its way to its other clients.
            tokio::time::sleep(LAST_WORDS).await;
        }
        end(self.broker);
        tracing::info!("bye");
    }
}

/// Ends our own broker by taking it; where the build has none there is nothing that could be dropped.
fn end(_: EmbeddedBroker) {}

/// What the http client of all plugins is set by.
fn http_client(config: &Config) -> HttpClient {
    HttpClient::new(http::Config {
        timeout: config.http.timeout,
        max_timeout: config.http.max_timeout,
        max_body: config.http.max_body,
        redirects: config.http.redirects,
    })
}

/// A manager that runs plugins on a copy of the state and publishes nothing, and the bus that notes what
/// would have been published.
///
/// # Errors
/// When the state or the plugin directory cannot be read.
pub async fn dry(config: &Config, worker: Option<PathBuf>) -> anyhow::Result<(PluginManager, Bus)> {
    let store = Store::copy_of(&config.paths.data.join(STATE))?;
    let bus = Bus::notebook();
    let effects = Effects::new(http_client(config), store, bus.clone(), config.mqtt.base_topic.clone());
    Ok((plugin_manager(config, effects, worker).await?, bus))
}

async fn plugin_manager(
    config: &Config,
    effects: Effects,
    worker: Option<PathBuf>,
) -> anyhow::Result<PluginManager> {
    let values = config.plugins.iter().map(|(id, values)| (id.clone(), values.0.clone()));
    let settings = Settings {
        limits: config.limits.plugin.clone(),
        max_timeout_ms: config.limits.max_timeout_ms,
        max_memory: config.limits.max_memory,
        max_plugins: config.limits.plugins,
        timezone: config.location.timezone.clone(),
        base: config.mqtt.base_topic.clone(),
        values: values.collect::<BTreeMap<_, _>>(),
        health_interval: config.bridge.health_interval,
        breaker: BreakerSettings {
            failures: config.breaker.failures,
            pause: config.breaker.pause,
            kills: config.breaker.kills,
            kills_within: config.breaker.kills_within,
        },
    };
    let builder = PluginManager::builder(&config.paths.plugins).settings(settings).effects(effects);
    let builder = match worker {
        Some(executable) => builder.worker_executable(executable),
        None => builder,
    };
    Ok(builder.build().await?)
}

/// Lets a worker lock itself down as for a plugin, try its walls from inside and say what came of it.
///
/// # Errors
/// When it could not look.
pub async fn probe_worker(worker: Option<PathBuf>) -> Result<Probe, ProbeError> {
    Spawner::start(worker)?.probe(Walls::All).await
}

/// The files that a bridge writes in its data directory: the lock, and the state with what SQLite keeps beside it.
pub(crate) fn data_files(data: &Path) -> [PathBuf; 4] {
    [LOCK.to_owned(), STATE.to_owned(), format!("{STATE}-wal"), format!("{STATE}-shm")]
        .map(|name| data.join(name))
}

fn open_data(data: &Path) -> anyhow::Result<(File, Store)> {
    std::fs::create_dir_all(data).with_context(|| {
        format!(
            "the data directory `{}` cannot be made; set another with --data-dir or paths.data",
            data.display()
        )
    })?;
    let lock = File::create(data.join(LOCK))
        .with_context(|| format!("the data directory `{}` cannot be written to", data.display()))?;
    if !locked(&lock) {
        bail!(
            "another bridge runs with the data directory `{}`: stop it, or give this one its own with \
             --data-dir (and its own mqtt.base_topic)",
            data.display()
        );
    }
    Ok((lock, Store::open(&data.join(STATE))?))
}

/// Takes the lock. One that was killed a moment ago may still be about to let it go.
fn locked(lock: &File) -> bool {
    (0..20).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(50));
        }
        lock.try_lock().is_ok()
    })
}

/// Where the broker is; our own is started where none is set.
fn broker(config: &Config) -> anyhow::Result<(EmbeddedBroker, mqtt::BrokerUrl)> {
    if let Some(url) = &config.mqtt.url {
        return Ok((None, mqtt::parse_url(url)?));
    }
    let own = own_broker(config.broker.listen)?;
    Ok((own.0, own.1))
}

#[cfg(feature = "embedded-broker")]
fn own_broker(listen: std::net::SocketAddr) -> anyhow::Result<(EmbeddedBroker, mqtt::BrokerUrl)> {
    let broker = mqtt::broker::start(listen)?;
    let url = mqtt::parse_url(&format!("mqtt://{}", broker.address()))?;
    Ok((Some(broker), url))
}

#[cfg(not(feature = "embedded-broker"))]
fn own_broker(_: std::net::SocketAddr) -> anyhow::Result<(EmbeddedBroker, mqtt::BrokerUrl)> {
    bail!("this build has no broker of its own: set mqtt.url, for example with --broker mqtt://127.0.0.1")
}

/// The id that the broker's session is kept under: the setting, or one made once for this data directory.
async fn client_id(config: &Config, store: &Store) -> anyhow::Result<String> {
    if let Some(id) = &config.mqtt.client_id {
        return Ok(id.clone());
    }
    if let Some(id) = store.note(CLIENT_ID).await? {
        return Ok(id);
    }
    let made = uuid::Uuid::now_v7().simple().to_string();
    let id = format!("jarvis-bridge-{}", &made[made.len() - 12..]);
    store.keep_note(CLIENT_ID, id.clone()).await?;
    Ok(id)
}

fn connection(config: &Config, url: mqtt::BrokerUrl, client_id: String) -> anyhow::Result<mqtt::Config> {
    let settings = &config.mqtt;
    Ok(mqtt::Config {
        host: url.host,
        port: url.port,
        username: url.username.or_else(|| settings.username.clone()),
        password: url.password.or_else(|| settings.password.clone()),
        client_id,
        state_topic: crate::model::Topic::parse(&format!("{}/bridge/state", settings.base_topic))?,
        keep_alive: settings.keep_alive,
        session_expiry: settings.session_expiry,
        receive_maximum: settings.receive_maximum,
        max_packet_size: settings.max_packet_size,
    })
}

/// How a client of the command line reaches the broker of a running bridge.
///
/// # Errors
/// When `mqtt.url` is not understood.
pub fn client_connection(config: &Config) -> anyhow::Result<mqtt::Config> {
    let url = match &config.mqtt.url {
        Some(url) => mqtt::parse_url(url)?,
        None => mqtt::parse_url(&format!("mqtt://{}", config.broker.listen))?,
    };
    connection(config, url, String::new())
}

async fn connect(
    config: &Config,
    connection: &mqtt::Config,
    store: &Store,
) -> anyhow::Result<(Session, Inbox)> {
    let requests = Subscription {
        filter: Filter::parse(&format!("{}/+/request/#", config.mqtt.base_topic))?,
        id: REQUESTS,
        qos: 1,
        // What was retained before we came is no request; what is retained now says so.
        retain_handling: RetainHandling::Never,
        retain_as_published: true,
    };
    let known = store.note(FILTERS).await?.unwrap_or_default();
    let known = known.lines().filter_map(|filter| Filter::parse(filter).ok()).collect();
    Ok(Session::start(connection, vec![requests], known))
}

/// Notes which filters the broker's session has, so that a later start can take back what it no longer wants.
async fn keep_filters(session: Session, store: Store) {
    let mut filters = session.filters();
    while filters.changed().await.is_ok() {
        let text: Vec<String> = filters.borrow_and_update().iter().map(ToString::to_string).collect();
        if let Err(error) = store.keep_note(FILTERS, text.join("\n")).await {
            tracing::warn!(%error, "the subscriptions could not be noted");
        }
    }
}

fn bridge_config(config: &Config, connection: &mqtt::Config) -> bridge::Config {
    let local =
        matches!(connection.host.as_str(), "localhost" | "::1") || connection.host.starts_with("127.");
    bridge::Config {
        base: config.mqtt.base_topic.clone(),
        instance: connection.client_id.clone(),
        payload: config.limits.payload,
        reply_topics: config.mqtt.reply_topics.clone(),
        admin: match config.bridge.admin_over_mqtt {
            config::Admin::Auto if local => bridge::Admin::Full,
            config::Admin::Full => bridge::Admin::Full,
            config::Admin::Auto | config::Admin::Read => bridge::Admin::Read,
            config::Admin::Off => bridge::Admin::Off,
        },
        waiting: usize::from(config.mqtt.receive_maximum.min(SMALLEST_WINDOW) / 2).max(1),
        assistant: match config.chat.assistant {
            config::Assistant::None => bridge::Assistant::None,
            config::Assistant::External => bridge::Assistant::External,
        },
        chat_timeout: config.chat.timeout,
        park_after: config.delivery.park_after,
        slash_commands: config.chat.slash_commands,
        health_interval: config.bridge.health_interval,
        shown: config::show_json(config),
    }
}
