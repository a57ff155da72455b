//! What a plugin listens to, as far as others must know of it: its ears change with its calls, and the bus and the
//! registry with them.

use std::time::Duration;

use super::{actor::Actor, ears::Ears};
use crate::model::{Filter, frame::Effect};

impl Actor {
    /// Applies what changes this plugin's own ears; gives back what leaves the bridge.
    pub(super) async fn apply(&mut self, effects: Vec<Effect>) -> Vec<Effect> {
        let mut outputs = Vec::new();
        let mut heard_something = false;
        for effect in effects {
            match effect {
                Effect::On { handler, pattern, priority, once } => {
                    self.ears.on(handler, pattern, priority, once);
                    heard_something = true;
                }
                Effect::Subscribe { handler, filter, qos, retained } => {
                    self.ears.subscribe(Some(handler), filter.clone(), retained);
                    self.context.effects.bus().subscribe(self.shared.id(), &filter, qos, retained).await;
                    heard_something = true;
                }
                Effect::Off { handler } => {
                    if let Some(filter) = self.ears.off(handler) {
                        self.context.effects.bus().unsubscribe(self.shared.id(), &filter).await;
                    }
                    heard_something = true;
                }
                Effect::Timer { timer, delay_ms, repeat } => {
                    self.ears.set_timer(timer, Duration::from_millis(delay_ms), repeat);
                }
                Effect::CancelTimer { timer } => self.ears.cancel_timer(timer),
                Effect::State { .. } | Effect::Config { .. } => {}
                output @ (Effect::Emit { .. } | Effect::Publish(_) | Effect::Say(_)) => outputs.push(output),
            }
        }
        if heard_something {
            self.listen();
        }
        outputs
    }

    /// Tells the registry what this plugin listens to now.
    pub(super) fn listen(&self) {
        let mut facts = self.shared.facts();
        facts.patterns = self.ears.patterns();
        facts.filters = self.ears.filters().cloned().collect();
    }

    /// Ends the subscriptions of a worker that is gone.
    pub(super) async fn drop_ears(&mut self, ears: &Ears) {
        let filters: Vec<&Filter> = ears.filters().collect();
        for filter in filters {
            self.context.effects.bus().unsubscribe(self.shared.id(), filter).await;
        }
    }
}
