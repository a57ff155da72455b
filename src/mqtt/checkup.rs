//! Measures of a broker what its configuration does not tell: how it answers on one connection, and how much it
//! keeps for a client that is away. Leaves nothing behind; knows figures, never what is good.

use std::time::Duration;

use rumqttc::{
    Outgoing,
    v5::{
        Event, Incoming,
        mqttbytes::{
            QoS,
            v5::{Filter, PubAck, PubAckReason, SubscribeReasonCode},
        },
    },
};
use tokio::time::{Instant, timeout_at};

use super::{
    BrokerLimits, Config,
    connect::WINDOW,
    link::Link,
    loss::{Loss, Peer},
};
use crate::model::Topic;

/// Where brokers say what they are, if they do.
const VERSION: &str = "$SYS/broker/version";
/// Round trips that are measured; the kernel answers the first few at once, whatever the broker sets.
const ROUNDS: usize = 30;
/// After so much time they are enough.
const MEASURED: Duration = Duration::from_secs(3);
/// What one step gets.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than a stock Mosquitto keeps for a client that is away, which is 1,000.
pub const QUEUED: usize = 1_100;
/// A broker that says nothing for so long has nothing more.
const SILENCE: Duration = Duration::from_secs(2);
/// The broker forgets what is left of a check-up that was cut short.
const SESSION: Duration = Duration::from_secs(60);

/// Why a broker could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum CheckupError {
    /// No connection, or it broke.
    #[error("{0}")]
    Lost(String),
    /// It does not let this user publish what it is examined with; what a bridge publishes is another matter.
    #[error("the broker refuses this user's publishes to `{place}`: {reason}")]
    Refused {
        /// The filter of all that is published.
        place: String,
        /// The reason code's name.
        reason: String,
    },
    /// It does not let this user hear its own messages.
    #[error("the broker does not let this user hear what is published to `{0}`")]
    Unheard(String),
    /// It does not answer, whatever else it says.
    #[error("the broker did not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

/// A connection to a broker that is examined.
///
/// ```no_run
/// # use jarvis_bridge::{model::Topic, mqtt::{Config, checkup::Checkup}};
/// # async fn example(config: &Config) -> Result<(), Box<dyn std::error::Error>> {
/// let mut checkup = Checkup::open(config, &Topic::parse("jarvis")?).await?;
/// let echo = checkup.echo().await?;
/// println!("{:?} for a step on one connection", echo.echoed);
/// # Ok(()) }
/// ```
pub struct Checkup {
    config: Config,
    line: Line,
    /// What the broker must let this user use: `<base>/doctor/#`.
    place: String,
    /// Below it is everything that is published here.
    private: String,
    /// What it says of itself, where it does.
    pub version: Option<String>,
    /// What it takes.
    pub limits: BrokerLimits,
}

/// How long a step of one QoS 1 message takes, at the median.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Until it is acknowledged, where nobody listens.
    pub acknowledged: Duration,
    /// Until it is acknowledged and came back at QoS 0 on the same connection.
    pub echoed: Duration,
}

/// What a broker keeps for a client that is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All of [`QUEUED`] messages.
    All,
    /// So many of them.
    Some(usize),
    /// Not even the session.
    Nothing,
}

impl Checkup {
    /// Connects and hears what the broker says of itself; everything else happens below `<base>/doctor/`.
    ///
    /// # Errors
    /// See [`CheckupError`].
    pub async fn open(config: &Config, base: &Topic) -> Result<Self, CheckupError> {
        let name = format!("jarvis-bridge-doctor-{}", uuid::Uuid::now_v7().simple());
        let place = format!("{base}/doctor/#");
        let private = format!("{base}/doctor/{}", uuid::Uuid::now_v7().simple());
        let (line, _, limits) = Line::open(config, name, Session::Fresh(Duration::ZERO)).await?;
        Ok(Self { config: config.clone(), line, place, private, version: None, limits })
    }

    /// Measures steps on this one connection, one after the other. A copy at QoS 0 asks for no answer: where the
    /// broker gathers bytes (Nagle's algorithm) it holds what follows the copy back until this side's kernel
    /// acknowledges that, which waits 40 ms for something to send along.
    ///
    /// # Errors
    /// See [`CheckupError`].
    pub async fn echo(&mut self) -> Result<Echo, CheckupError> {
        let topic = format!("{}/echo", self.private);
        let granted = self.line.subscribe(&[&topic, VERSION], QoS::AtMostOnce).await?;
        self.subscribed(granted)?;
        let nobody = format!("{}/nobody", self.private);
        let acknowledged = self.measure(&nobody, 0).await?;
        let echoed = self.measure(&topic, 1).await?;
        Ok(Echo { acknowledged, echoed })
    }

    /// The median of steps that end with the acknowledgement and so many copies.
    async fn measure(&mut self, topic: &str, copies: usize) -> Result<Duration, CheckupError> {
        let mut times = Vec::with_capacity(ROUNDS);
        let end = Instant::now() + MEASURED;
        while times.len() < ROUNDS && Instant::now() < end {
            let begun = Instant::now();
            self.step(topic, copies).await?;
            times.push(begun.elapsed());
        }
        let settled = times.split_off(times.len() / 2);
        Ok(median(settled))
    }

    /// Publishes one message and waits for its acknowledgement and so many copies.
    async fn step(&mut self, topic: &str, mut copies: usize) -> Result<(), CheckupError> {
        let until = Instant::now() + PATIENCE;
        self.line.publish(topic)?;
        let mut acknowledged = false;
        while !acknowledged || copies > 0 {
            match self.line.event(until).await {
                Ok(Event::Incoming(Incoming::PubAck(ack))) => {
                    self.accepted(&ack)?;
                    acknowledged = true;
                }
                Ok(Event::Incoming(Incoming::Publish(heard))) if heard.topic == topic.as_bytes() => {
                    copies = copies.saturating_sub(1);
                }
                Ok(Event::Incoming(Incoming::Publish(heard))) if heard.topic == VERSION.as_bytes() => {
                    self.version = Some(crate::model::shown(&String::from_utf8_lossy(&heard.payload), 80));
                }
                Ok(_) => {}
                // Brokers take a subscription, acknowledge, and give away nothing, where an access list says so.
                Err(CheckupError::Silent) if acknowledged => {
                    return Err(CheckupError::Unheard(self.place.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn accepted(&self, ack: &PubAck) -> Result<(), CheckupError> {
        match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
            reason => Err(CheckupError::Refused { place: self.place.clone(), reason: format!("{reason:?}") }),
        }
    }

    fn subscribed(&self, granted: bool) -> Result<(), CheckupError> {
        if granted { Ok(()) } else { Err(CheckupError::Unheard(self.place.clone())) }
    }

    /// Lets a client of its own go away, publishes [`QUEUED`] small messages for it, and counts what is left
    /// when it comes back. Its session ends with this.
    ///
    /// # Errors
    /// See [`CheckupError`].
    pub async fn queue(&mut self) -> Result<Kept, CheckupError> {
        let topic = format!("{}/queue", self.private);
        let name = format!("jarvis-bridge-doctor-{}", uuid::Uuid::now_v7().simple());
        let (mut away, _, _) = Line::open(&self.config, name.clone(), Session::Fresh(SESSION)).await?;
        self.subscribed(away.subscribe(&[&topic], QoS::AtLeastOnce).await?)?;
        away.leave().await?;
        self.flood(&topic).await?;
        let (mut back, present, _) = Line::open(&self.config, name, Session::Resumed).await?;
        if !present {
            return Ok(Kept::Nothing);
        }
        let kept = back.count(QUEUED).await?;
        back.leave().await?;
        Ok(if kept == QUEUED { Kept::All } else { Kept::Some(kept) })
    }

    async fn flood(&mut self, topic: &str) -> Result<(), CheckupError> {
        let window = usize::from(self.limits.receive_maximum.min(WINDOW));
        let (mut sent, mut confirmed) = (0, 0);
        let mut until = Instant::now() + PATIENCE;
        while confirmed < QUEUED {
            while sent < QUEUED && sent - confirmed < window {
                self.line.publish(topic)?;
                sent += 1;
            }
            // One that is refused is one that is not kept, and the count will say so.
            if let Event::Incoming(Incoming::PubAck(_)) = self.line.event(until).await? {
                (confirmed, until) = (confirmed + 1, Instant::now() + PATIENCE);
            }
        }
        Ok(())
    }
}

/// Which session a connection gets.
enum Session {
    /// A new one, kept so long after the connection.
    Fresh(Duration),
    /// The one that was left, which ends with this connection.
    Resumed,
}

/// One connection.
struct Line(Link);

impl Line {
    /// Connects; gives also whether the session was known, and what the broker takes.
    async fn open(
        config: &Config,
        client_id: String,
        session: Session,
    ) -> Result<(Self, bool, BrokerLimits), CheckupError> {
        let (clean, expiry) = match session {
            Session::Fresh(expiry) => (true, expiry),
            Session::Resumed => (false, Duration::ZERO),
        };
        let mut options = config.options(client_id.clone(), expiry);
        options.set_clean_start(clean);
        // A subscription, a full window and the end.
        let mut line = Self(Link::open(options, usize::from(WINDOW) + 2, Peer::new(config, client_id)));
        let until = Instant::now() + 2 * PATIENCE;
        loop {
            if let Event::Incoming(Incoming::ConnAck(ack)) = line.event(until).await? {
                let limits = BrokerLimits::from_connack(&ack);
                return Ok((line, ack.session_present, limits));
            }
        }
    }

    /// The next event. Until when, and not for how long: pings are events too.
    async fn event(&mut self, until: Instant) -> Result<Event, CheckupError> {
        // An event that is there already would come before any time-out, for as long as they come without a pause.
        if Instant::now() >= until {
            return Err(CheckupError::Silent);
        }
        let event = timeout_at(until, self.0.next()).await;
        event.map_err(|_| CheckupError::Silent)?.map_err(lost)
    }

    fn publish(&self, topic: &str) -> Result<(), CheckupError> {
        let sent = self.0.client.try_publish(topic, QoS::AtLeastOnce, false, "x");
        sent.map_err(|error| CheckupError::Lost(error.to_string()))
    }

    /// Subscribes; gives whether the first filter was granted.
    async fn subscribe(&mut self, filters: &[&str], qos: QoS) -> Result<bool, CheckupError> {
        let wanted = filters.iter().map(|filter| Filter::new(*filter, qos));
        let sent = self.0.client.try_subscribe_many(wanted);
        sent.map_err(|error| CheckupError::Lost(error.to_string()))?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Event::Incoming(Incoming::SubAck(ack)) = self.event(until).await? {
                let first = ack.return_codes.first();
                return Ok(matches!(first, Some(SubscribeReasonCode::Success(granted)) if *granted == qos));
            }
        }
    }

    /// How many messages come, until there were enough or no more come.
    async fn count(&mut self, enough: usize) -> Result<usize, CheckupError> {
        let (mut count, mut until) = (0, Instant::now() + SILENCE);
        while count < enough {
            match self.event(until).await {
                Ok(Event::Incoming(Incoming::Publish(_))) => {
                    (count, until) = (count + 1, Instant::now() + SILENCE);
                }
                Ok(_) => {}
                Err(CheckupError::Silent) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Says good-bye, so that no will and no time-out is waited for.
    async fn leave(mut self) -> Result<(), CheckupError> {
        self.0.client.try_disconnect().map_err(|error| CheckupError::Lost(error.to_string()))?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Event::Outgoing(Outgoing::Disconnect) = self.event(until).await? {
                return Ok(());
            }
        }
    }
}

fn lost(loss: Loss) -> CheckupError {
    CheckupError::Lost(loss.sentence)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
