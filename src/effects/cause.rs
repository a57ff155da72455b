//! Why a hook runs: the thread from an inbound message to everything that it causes.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use crate::{model::PluginId, mqtt::Receipt};

/// How long a chain of events and messages may become before it is cut.
pub const MAX_HOPS: u8 = 8;
/// Emits and publishes that one inbound message may cause with everything that follows from it.
const MAX_OUTPUTS: u32 = 1_000;

/// What a call goes back to. While a clone lives, the inbound message is not acknowledged. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cause {
    message: Option<Arc<Message>>,
    hops: u8,
    caller: Option<PluginId>,
}

#[derive(Debug)]
struct Message {
    receipt: Receipt,
    outputs: AtomicU32,
}

impl Cause {
    /// No message: a timer, a start, a single call.
    #[must_use]
    pub fn none() -> Self {
        Self { message: None, hops: 0, caller: None }
    }

    /// An inbound message that came over `hops` plugins already.
    #[must_use]
    pub fn message(receipt: Receipt, hops: u8) -> Self {
        let message = Message { receipt, outputs: AtomicU32::new(0) };
        Self { message: Some(Arc::new(message)), hops, caller: None }
    }

    /// The inbound message's receipt, to be held by what it causes.
    #[must_use]
    pub fn receipt(&self) -> Receipt {
        self.message.as_ref().map(|message| message.receipt.clone()).unwrap_or_default()
    }

    /// Gives the inbound message up: it is not acknowledged, so the broker keeps it and sends it again.
    pub fn abandon(&self) {
        self.receipt().abandon();
    }

    /// Whether an inbound message at QoS 1 waits for what this causes.
    #[must_use]
    pub fn has_receipt(&self) -> bool {
        self.message.as_ref().is_some_and(|message| !message.receipt.is_empty())
    }

    /// Whether an inbound message stands at the beginning.
    #[must_use]
    pub fn has_message(&self) -> bool {
        self.message.is_some()
    }

    /// How many plugins the chain went through.
    #[must_use]
    pub fn hops(&self) -> u8 {
        self.hops
    }

    /// The cause of what follows from a call with this cause; nothing where the chain is too long.
    #[must_use]
    pub fn next(&self) -> Option<Self> {
        let hops = self.hops.checked_add(1).filter(|hops| *hops <= MAX_HOPS)?;
        Some(Self { message: self.message.clone(), hops, caller: None })
    }

    /// The cause of a command that `plugin` runs from within its hook; nothing where the chain is too long.
    #[must_use]
    pub fn called_by(&self, plugin: &PluginId) -> Option<Self> {
        Some(Self { caller: Some(plugin.clone()), ..self.next()? })
    }

    /// The plugin whose hook waits for this call to end.
    #[must_use]
    pub fn caller(&self) -> Option<&PluginId> {
        self.caller.as_ref()
    }

    /// Counts outputs against what the inbound message may cause.
    ///
    /// # Errors
    /// A sentence, where it is too much.
    pub fn spend(&self, outputs: usize) -> Result<(), String> {
        let Some(message) = &self.message else { return Ok(()) };
        let outputs = u32::try_from(outputs).unwrap_or(u32::MAX);
        let before = message.outputs.fetch_add(outputs.min(MAX_OUTPUTS), Ordering::Relaxed);
        if before.saturating_add(outputs) <= MAX_OUTPUTS {
            return Ok(());
        }
        Err(format!("one message may cause {MAX_OUTPUTS} emits and publishes in all, this one caused more"))
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, MAX_HOPS};
    use crate::mqtt::Receipt;

    #[test]
    fn chains_and_outputs_end() {
        let mut cause = Cause::message(Receipt::default(), 0);
        for _ in 0..MAX_HOPS {
            cause = cause.next().unwrap();
        }
        assert!(cause.next().is_none());
        assert!(cause.spend(1_000).is_ok());
        assert!(cause.spend(1).is_err(), "the whole chain shares one count");
        assert!(Cause::none().spend(5_000).is_ok());
    }
}
