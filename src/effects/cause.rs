//! Why a hook runs: the thread from an inbound message to everything that it causes.

use std::sync::Arc;

use super::Budget;
use crate::{model::PluginId, mqtt::Receipt};

/// How long a chain of events and messages may become before it is cut.
pub const MAX_HOPS: u8 = 8;

/// What a call goes back to. While a clone lives, the inbound message is not acknowledged. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cause {
    message: Option<Arc<Message>>,
    /// What may still follow; nothing where the plugin's own measure counts.
    budget: Option<Budget>,
    hops: u8,
    /// The last plugin that the chain went through, behind it the ones before; none of before it came over MQTT.
    trail: Option<Arc<Trail>>,
    caller: Option<PluginId>,
}

#[derive(Debug)]
struct Trail {
    plugin: PluginId,
    before: Option<Arc<Trail>>,
}

#[derive(Debug)]
struct Message {
    receipt: Receipt,
    /// Whether it was taken in an earlier run already.
    kept: bool,
}

impl Cause {
    /// No message: a timer, a start, a single call.
    #[must_use]
    pub fn none() -> Self {
        Self { message: None, budget: None, hops: 0, trail: None, caller: None }
    }

    /// An inbound message that came over `hops` plugins already, and what may follow from it.
    #[must_use]
    pub fn message(receipt: Receipt, hops: u8, budget: Budget) -> Self {
        let message = Message { kept: receipt.is_kept(), receipt };
        Self { message: Some(Arc::new(message)), budget: Some(budget), hops, trail: None, caller: None }
    }

    /// The same with what its plugin may put out unasked, where nobody asked.
    #[must_use]
    pub fn or_unasked(self, unasked: &Budget) -> Self {
        Self { budget: self.budget.or_else(|| Some(unasked.clone())), ..self }
    }

    /// What may still follow; nothing where nobody asked.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.as_ref()
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

    /// Whether its message was taken in an earlier run already: nobody sends it again, so it is refused nowhere.
    #[must_use]
    pub fn was_kept(&self) -> bool {
        self.message.as_ref().is_some_and(|message| message.kept)
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

    /// The cause of what follows from a call of `plugin` with this cause.
    ///
    /// # Errors
    /// A sentence that names the chain's members, where it is too long.
    pub fn next(&self, plugin: &PluginId) -> Result<Self, String> {
        if let Some(cut) = self.cut(plugin) {
            return Err(cut);
        }
        let trail = Trail { plugin: plugin.clone(), before: self.trail.clone() };
        Ok(Self {
            message: self.message.clone(),
            // Where nobody asked, each plugin answers for what it puts out itself.
            budget: self.budget.clone().filter(|_| self.message.is_some()),
            hops: self.hops + 1,
            trail: Some(Arc::new(trail)),
            caller: None,
        })
    }

    /// Why nothing may follow from a call of `plugin` with this cause, where that is so.
    #[must_use]
    pub fn cut(&self, plugin: &PluginId) -> Option<String> {
        if self.hops < MAX_HOPS {
            return None;
        }
        let chain = self.chain(plugin);
        Some(format!("a chain of events is cut: it went over {MAX_HOPS} plugins already ({chain} → …)"))
    }

    /// The plugins of the chain up to `plugin`, in their order.
    fn chain(&self, plugin: &PluginId) -> String {
        let before = std::iter::successors(self.trail.as_deref(), |trail| trail.before.as_deref());
        let mut names: Vec<&str> = before.map(|trail| trail.plugin.as_str()).collect();
        names.reverse();
        names.push(plugin.as_str());
        let known = names.join(" → ");
        match usize::from(self.hops) + 1 - names.len() {
            0 => known,
            unknown => format!("{unknown} over MQTT → {known}"),
        }
    }

    /// The cause of a command that `plugin` runs from within its hook.
    ///
    /// # Errors
    /// As for [`Cause::next`].
    pub fn called_by(&self, plugin: &PluginId) -> Result<Self, String> {
        Ok(Self { caller: Some(plugin.clone()), ..self.next(plugin)? })
    }

    /// The plugin whose hook waits for this call to end.
    #[must_use]
    pub fn caller(&self) -> Option<&PluginId> {
        self.caller.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::{Cause, MAX_HOPS};
    use crate::{effects::Budget, model::PluginId, mqtt::Receipt};

    #[test]
    fn chains_and_outputs_end() {
        let [ping, pong] = ["ping", "pong"].map(|id| PluginId::parse(id).unwrap());
        let mut cause = Cause::message(Receipt::default(), 3, Budget::of_message());
        for _ in 3..MAX_HOPS {
            cause = cause.next(if cause.hops().is_multiple_of(2) { &ping } else { &pong }).unwrap();
        }
        let cut = cause.next(&ping).unwrap_err();
        assert!(cut.contains("(3 over MQTT → pong → ping → pong → ping → pong → ping → …)"), "{cut}");
        assert_eq!(cause.cut(&ping), Some(cut));
        assert!(cause.budget().unwrap().spend(1_000).is_ok());
        assert!(cause.budget().unwrap().spend(1).is_err(), "the whole chain shares one count");
        let unasked = Budget::of_plugin();
        let next = Cause::none().or_unasked(&unasked).next(&ping).unwrap();
        assert!(next.budget().is_none(), "who nobody asked has a measure of its own");
    }
}
