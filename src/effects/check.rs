//! The bridge's own look at what a worker wants. The worker has checked the same and told the plugin; what
//! passes there and fails here comes from a worker that cannot be trusted any more.

use crate::model::{
    Filter, Limits, Permission, PluginId, Topic,
    frame::Effect,
    message::is_event_name,
    permission::{is_request_filter, may_publish, may_subscribe},
};

/// Bytes of a state or configuration key.
const MAX_KEY: usize = 256;

/// Checks the effects of one call.
///
/// # Errors
/// A sentence that names the first one that must not be.
pub fn check(
    plugin: &PluginId,
    may: &[Permission],
    limits: &Limits,
    base: &Topic,
    effects: &[Effect],
) -> Result<(), String> {
    let outputs = effects.iter().filter(|effect| is_output(effect)).count();
    if outputs > limits.outputs {
        return Err(format!("{outputs} emits and publishes in one call"));
    }
    effects.iter().try_for_each(|effect| one(plugin, may, limits, base, effect))
}

/// Whether an effect leaves the bridge.
pub fn is_output(effect: &Effect) -> bool {
    matches!(effect, Effect::Emit { .. } | Effect::Publish(_) | Effect::Say(_))
}

fn one(
    plugin: &PluginId,
    may: &[Permission],
    limits: &Limits,
    base: &Topic,
    effect: &Effect,
) -> Result<(), String> {
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
        Effect::Publish(message) => publish(plugin, may, base, &message.topic),
        Effect::Subscribe { filter, .. } => subscribe(plugin, may, base, filter),
        Effect::Emit { .. }
        | Effect::Say(_)
        | Effect::On { .. }
        | Effect::Off { .. }
        | Effect::Timer { .. }
        | Effect::CancelTimer { .. } => Ok(()),
    }
}

/// Whether a plugin may publish to a topic.
pub(super) fn publish(
    plugin: &PluginId,
    may: &[Permission],
    base: &Topic,
    topic: &Topic,
) -> Result<(), String> {
    let reserved = [format!("{base}/bridge/#"), format!("{base}/+/response/#")];
    let matches = |text: &String| Filter::parse(text).is_ok_and(|filter| filter.matches(topic.as_str()));
    if reserved.iter().any(matches) {
        return Err(format!("`{plugin}` may not publish to `{topic}`: only the bridge itself speaks there"));
    }
    if may_publish(may, topic) {
        return Ok(());
    }
    Err(format!("`{plugin}` may not publish to `{topic}`: add `mqtt.publish:{topic}` to its @permissions"))
}

fn subscribe(plugin: &PluginId, may: &[Permission], base: &Topic, filter: &Filter) -> Result<(), String> {
    if is_request_filter(base, filter) {
        return Err(format!(
            "`{plugin}` may not subscribe to `{filter}`: requests go through the bridge's hooks"
        ));
    }
    if may_subscribe(may, filter) {
        return Ok(());
    }
    Err(format!(
        "`{plugin}` may not subscribe to `{filter}`: add `mqtt.subscribe:{filter}` to its @permissions"
    ))
}
