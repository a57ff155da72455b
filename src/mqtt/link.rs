//! One TCP connection: a rumqttc client and its event loop, thrown away together when anything goes wrong.
//! Knows nothing of what is sent.

use std::{mem, pin::Pin, time::Duration};

use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions};
use tokio::time::{Instant, timeout_at};

use super::{
    connect::CONNECT_TIMEOUT,
    loss::{Loss, Peer, Phase},
};

/// A connection that is being opened or stands.
pub(super) struct Link {
    /// Only its `try_` functions may be used: whoever polls must not wait for the queue that polling drains.
    pub(super) client: AsyncClient,
    peer: Peer,
    polling: Polling,
    phase: Phase,
    keep_alive: Duration,
    /// Without any event until then, the link is dead.
    deadline: Instant,
}

/// A running `EventLoop::poll`, which gives the event loop back. It lives here and not on somebody's stack
/// because `poll` loses packets when it is dropped half way, and its users wait for other things as well.
type Polling = Pin<Box<dyn Future<Output = (EventLoop, Result<Event, ConnectionError>)> + Send>>;

impl Link {
    /// Begins to open a connection; `next` does it. `queue` is how many requests the client can hold.
    pub(super) fn open(options: MqttOptions, queue: usize, peer: Peer) -> Self {
        let keep_alive = options.keep_alive();
        let (client, events) = AsyncClient::new(options, queue);
        Self {
            client,
            peer,
            polling: poll(events),
            phase: Phase::Opening,
            keep_alive,
            deadline: Instant::now() + 2 * CONNECT_TIMEOUT,
        }
    }

    /// The next event. Can be dropped and called again without losing one. After a loss it is of no more use.
    pub(super) async fn next(&mut self) -> Result<Event, Loss> {
        let Ok((mut events, result)) = timeout_at(self.deadline, &mut self.polling).await else {
            return Err(Loss::silent(&self.peer));
        };
        let event = match result {
            Ok(event) => event,
            Err(error) => {
                self.polling = Box::pin(std::future::pending());
                let rest = mem::take(&mut events.state.events);
                return Err(Loss { rest, ..self.peer.explain(&error, self.phase) });
            }
        };
        if let Event::Incoming(Incoming::ConnAck(_)) = &event {
            self.phase = Phase::Open;
            self.adopt_keep_alive(&mut events);
        }
        self.polling = poll(events);
        self.heard();
        Ok(event)
    }

    /// Starts the wait for signs of life anew, after a pause in which nobody asked for events.
    pub(super) fn heard(&mut self) {
        self.deadline = Instant::now() + self.keep_alive.mul_f32(1.5);
    }

    /// Follows the broker's keep-alive, which rumqttc has adopted; but with 0, "none", rumqttc would ping
    /// without a pause: ours is no shorter than what the broker waits for.
    fn adopt_keep_alive(&mut self, events: &mut EventLoop) {
        if events.options.keep_alive().is_zero() {
            events.options.set_keep_alive(self.keep_alive);
        }
        self.keep_alive = events.options.keep_alive();
    }
}

fn poll(mut events: EventLoop) -> Polling {
    Box::pin(async move {
        let result = events.poll().await;
        (events, result)
    })
}
