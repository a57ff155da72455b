//! The bridge's own look at what a worker wants. The worker has checked the same and told the plugin; what
//! passes there and fails here comes from a worker that cannot be trusted any more.

use crate::model::{Limits, Rights, frame::Effect, message::is_event_name};

/// Bytes of a state or configuration key.
const MAX_KEY: usize = 256;

/// Checks the effects of one call.
///
/// # Errors
/// A sentence that names the first one that must not be.
pub fn check(rights: &Rights, limits: &Limits, effects: &[Effect]) -> Result<(), String> {
    let outputs = effects.iter().filter(|effect| is_output(effect)).count();
    if outputs > limits.outputs {
        return Err(format!("{outputs} emits and publishes in one call"));
    }
    effects.iter().try_for_each(|effect| one(rights, limits, effect))
}

/// Whether an effect leaves the bridge.
pub fn is_output(effect: &Effect) -> bool {
    matches!(effect, Effect::Emit { .. } | Effect::Publish(_) | Effect::Say(_))
}

fn one(rights: &Rights, limits: &Limits, effect: &Effect) -> Result<(), String> {
    match effect {
        Effect::State { key, value } | Effect::Config { key, value } => {
            let size = key.len() + value.as_ref().map_or(0, |value| value.get().len());
            if key.is_empty() || key.len() > MAX_KEY || size > limits.state {
                return Err(format!("a key of {} bytes with a value, {size} bytes in all", key.len()));
            }
            Ok(())
        }
        Effect::Emit { name, .. } if !is_event_name(name) => Err("an event with a bad name".into()),
        Effect::Emit { data, .. } if data.get().len() > limits.result => Err("an event too large".into()),
        Effect::Publish(message) => rights.check_publish(&message.topic),
        Effect::Subscribe { filter, .. } => rights.check_subscribe(filter),
        Effect::Emit { .. }
        | Effect::Say(_)
        | Effect::On { .. }
        | Effect::Off { .. }
        | Effect::Timer { .. }
        | Effect::CancelTimer { .. } => Ok(()),
    }
}
