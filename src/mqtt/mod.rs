//! The broker door, alone in knowing rumqttc and the embedded broker. Knows topics and bytes, never what
//! they mean.
//!
//! Two connections, because acknowledgements and publishes on one wait for each other on a stock Mosquitto
//! (22 ms a message against 0.1 ms):
//! - [`Session`] subscribes, hands over what arrives as [`Inbound`], and acknowledges each message when the
//!   last clone of its [`Receipt`] is gone, in the order of arrival.
//! - [`Outbox`] publishes, forgets a message only when the broker has confirmed it, and says on
//!   `<base>/bridge/state` whether the bridge is there.
//!
//! Each TCP connection gets a client of its own (`link`): rumqttc's own reconnecting drops what it holds when
//! the broker has lost the session.

mod address;
mod backoff;
#[cfg(feature = "embedded-broker")]
pub mod broker;
pub mod checkup;
pub mod client;
mod connect;
mod flight;
mod inbound;
mod link;
mod loss;
mod outbox;
mod publisher;
mod receipt;
mod receiver;
mod session;
mod status;
mod subscriptions;
#[cfg(test)]
#[cfg(feature = "embedded-broker")]
mod tests;

pub use address::{BrokerUrl, UrlError, parse_url};
pub use connect::Config;
pub use inbound::{Inbound, InboundProperties, Inbox};
pub use outbox::{Outbox, OutboxCounters, Outgoing, OutgoingProperties, Refused};
pub use receipt::{Receipt, WeakReceipt};
pub use session::{Session, SessionCounters};
pub use status::{BrokerLimits, RefusedSubscription, State, Status};
pub use subscriptions::{LARGEST_ID, RetainHandling, Subscription};
