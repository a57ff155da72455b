//! When to connect again, and how much to say about it in the log.

use std::time::{Duration, Instant};

use tracing::{debug, info, warn};
use uuid::Uuid;

use super::loss::{Loss, Retry};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);
/// A connection that stood this long was a good one: the next attempt comes quickly and its loss is news.
const STABLE: Duration = Duration::from_secs(10);
/// An outage is in the log once, then again at most this often.
const REMIND: Duration = Duration::from_secs(60);

/// The outages of one connection.
pub(super) struct Backoff {
    /// For the log: `session` or `outbox`.
    connection: &'static str,
    address: String,
    attempt: u32,
    connected_at: Option<Instant>,
    warned_at: Option<Instant>,
    /// Whether people were told of an outage and wait to hear of its end.
    news: bool,
}

impl Backoff {
    pub(super) fn new(connection: &'static str, address: String) -> Self {
        Self { connection, address, attempt: 0, connected_at: None, warned_at: None, news: true }
    }

    /// The connection stands.
    pub(super) fn connected(&mut self, session_present: bool) {
        let (connection, address) = (self.connection, &self.address);
        if self.news {
            info!(connection, address, session_present, "connected to the broker");
        } else {
            debug!(connection, address, session_present, "connected to the broker");
        }
        self.news = false;
        self.connected_at = Some(Instant::now());
    }

    /// The connection is lost or did not come about: says so, and for how long to wait.
    pub(super) fn lost(&mut self, loss: &Loss) -> Duration {
        let was_stable = self.connected_at.take().is_some_and(|at| at.elapsed() >= STABLE);
        if was_stable {
            self.attempt = 0;
        }
        let wait = match loss.retry {
            Retry::Soon => jittered(grown(self.attempt)),
            Retry::Later => jittered(LONGEST),
        };
        self.attempt = self.attempt.saturating_add(1);
        self.log(loss, was_stable, wait);
        wait
    }

    fn log(&mut self, loss: &Loss, was_stable: bool, wait: Duration) {
        let (connection, error) = (self.connection, &loss.sentence);
        let retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        if was_stable || self.warned_at.is_none_or(|at| at.elapsed() >= REMIND) {
            self.warned_at = Some(Instant::now());
            self.news = true;
            warn!(connection, error, retry_in_ms, "no connection to the broker");
        } else {
            debug!(connection, error, retry_in_ms, "no connection to the broker");
        }
    }
}

fn grown(attempt: u32) -> Duration {
    FIRST.saturating_mul(2_u32.saturating_pow(attempt)).min(LONGEST)
}

/// Between half and the whole of it, so that many clients of a broker that returns do not come at once.
fn jittered(wait: Duration) -> Duration {
    // The low bits of a UUIDv7 are random.
    let [.., high, low] = Uuid::now_v7().into_bytes();
    let random = f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX);
    wait.mul_f64(0.5 + random / 2.0)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{super::loss::Loss, Backoff, LONGEST, STABLE, grown, jittered};

    #[test]
    fn waits_double_up_to_half_a_minute() {
        let waits: Vec<_> = (0..10).map(|attempt| grown(attempt).as_millis()).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        assert_eq!(grown(u32::MAX), LONGEST);
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        let waits: Vec<_> = (0..100).map(|_| jittered(Duration::from_secs(10))).collect();
        assert!(waits.iter().all(|wait| (5.0..=10.0).contains(&wait.as_secs_f64())), "{waits:?}");
        assert!(waits.iter().any(|wait| wait != &waits[0]));
    }

    #[test]
    fn only_a_stable_connection_starts_the_waits_anew() {
        let mut backoff = Backoff::new("session", "nas:1883".into());
        let lost = |backoff: &mut Backoff| backoff.lost(&Loss::soon("gone".into()));
        for _ in 0..8 {
            lost(&mut backoff);
        }
        backoff.connected(true);
        assert!(lost(&mut backoff) >= LONGEST / 2);
        backoff.connected(true);
        backoff.connected_at = Instant::now().checked_sub(STABLE);
        assert!(lost(&mut backoff) <= Duration::from_millis(200));
    }
}
