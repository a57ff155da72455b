//! What one plugin listens to: its event handlers, its subscriptions, its timers. Knows numbers, no Lua.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use crate::model::{
    Filter, Limits,
    frame::Effect,
    message::{EventInfo, MqttMessage, event_matches},
};

/// Topics whose replayed value a handler has had; beyond it, replays may come again.
const MAX_REPLAYED: usize = 1_000;

/// Handlers and timers of one worker. A fresh worker starts with none.
#[derive(Debug, Default)]
pub(super) struct Ears {
    events: Vec<EventEar>,
    messages: Vec<MessageEar>,
    timers: Vec<Timer>,
}

#[derive(Debug)]
struct EventEar {
    handler: u64,
    pattern: String,
    priority: i64,
    once: bool,
}

#[derive(Debug)]
struct MessageEar {
    /// Nothing stands for the hook `on_mqtt`.
    handler: Option<u64>,
    filter: Filter,
    retained: bool,
    replayed: HashSet<String>,
}

#[derive(Debug)]
struct Timer {
    number: u64,
    due: Instant,
    every: Option<Duration>,
    busy: bool,
}

/// A handler, whatever its number: what it listens to, and how many of the same were made before it. Another
/// version of a plugin, or a fresh worker, may number its handlers otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ear {
    Event(String, usize),
    Message(Filter, usize),
}

impl Ears {
    /// `jarvis.events.on`
    pub(super) fn on(&mut self, handler: u64, pattern: String, priority: i64, once: bool) {
        self.events.push(EventEar { handler, pattern, priority, once });
        self.events.sort_by_key(|ear| (ear.priority, ear.handler));
    }

    /// `jarvis.mqtt.subscribe`, or `@subscribe` where there is no handler.
    pub(super) fn subscribe(&mut self, handler: Option<u64>, filter: Filter, retained: bool) {
        self.messages.push(MessageEar { handler, filter, retained, replayed: HashSet::new() });
    }

    /// Drops a handler; gives the filter that it listened to, where it was a subscription.
    pub(super) fn off(&mut self, handler: u64) -> Option<Filter> {
        self.events.retain(|ear| ear.handler != handler);
        let place = self.messages.iter().position(|ear| ear.handler == Some(handler))?;
        Some(self.messages.remove(place).filter)
    }

    /// The handlers an event is for, in their order. `once` ones are gone with this.
    pub(super) fn hear(&mut self, event: &EventInfo) -> Vec<(u64, Ear)> {
        let matches = |ear: &EventEar| event_matches(&ear.pattern, &event.name, event.plugin.as_deref());
        let meant = self.events.iter().filter(|ear| matches(ear));
        let handlers = meant.map(|ear| (ear.handler, self.event_ear(ear))).collect();
        self.events.retain(|ear| !(ear.once && matches(ear)));
        handlers
    }

    /// The handlers a message is for; nothing stands for `on_mqtt`. A replayed value comes once to each.
    pub(super) fn receive(&mut self, filter: &Filter, message: &MqttMessage) -> Vec<Option<(u64, Ear)>> {
        let wants = |ear: &mut MessageEar| {
            if &ear.filter != filter || !message.retained {
                return &ear.filter == filter;
            }
            let fresh = ear.replayed.len() >= MAX_REPLAYED || ear.replayed.insert(message.topic.clone());
            ear.retained && fresh
        };
        let meant = self.messages.iter_mut().filter_map(|ear| wants(ear).then_some(ear.handler));
        let meant: Vec<Option<u64>> = meant.collect();
        meant
            .into_iter()
            .map(|handler| handler.map(|number| (number, self.message_ear(number, filter))))
            .collect()
    }

    fn message_ear(&self, handler: u64, filter: &Filter) -> Ear {
        let same = |other: &&MessageEar| {
            other.filter == *filter && other.handler.is_some_and(|other| other < handler)
        };
        Ear::Message(filter.clone(), self.messages.iter().filter(same).count())
    }

    fn event_ear(&self, ear: &EventEar) -> Ear {
        let same = |other: &&EventEar| other.pattern == ear.pattern && other.handler < ear.handler;
        Ear::Event(ear.pattern.clone(), self.events.iter().filter(same).count())
    }

    /// The handler that a call of another worker's handler is for now; nothing where none listens to the same.
    pub(super) fn find(&self, number: u64, ear: &Ear) -> Option<u64> {
        let (mut same, before): (Vec<u64>, usize) = match ear {
            Ear::Event(pattern, before) => {
                let same = self.events.iter().filter(|ear| ear.pattern == *pattern);
                (same.map(|ear| ear.handler).collect(), *before)
            }
            Ear::Message(filter, before) => {
                let same = self.messages.iter().filter(|ear| ear.filter == *filter);
                (same.filter_map(|ear| ear.handler).collect(), *before)
            }
        };
        if same.contains(&number) {
            return Some(number);
        }
        same.sort_unstable();
        same.get(before).copied()
    }

    /// What a handler listens to, for who reads of it.
    pub(super) fn name(&self, handler: u64) -> Option<&str> {
        let event = self.events.iter().find(|ear| ear.handler == handler).map(|ear| ear.pattern.as_str());
        let message = || self.messages.iter().find(|ear| ear.handler == Some(handler));
        event.or_else(|| message().map(|ear| ear.filter.as_str()))
    }

    /// The event patterns, for the registry.
    pub(super) fn patterns(&self) -> Vec<String> {
        self.events.iter().map(|ear| ear.pattern.clone()).collect()
    }

    /// The filters, one for each handler.
    pub(super) fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.messages.iter().map(|ear| &ear.filter)
    }

    /// Checks that there are not too many handlers and timers once some effects are done, as the worker has done.
    pub(super) fn check(&self, effects: &[Effect], limits: &Limits) -> Result<(), String> {
        let changes = |effect: &Effect| {
            matches!(effect, Effect::On { .. } | Effect::Subscribe { .. } | Effect::Timer { .. })
        };
        if !effects.iter().any(changes) {
            return Ok(());
        }
        let mut handlers: HashSet<u64> = self.events.iter().map(|ear| ear.handler).collect();
        handlers.extend(self.messages.iter().filter_map(|ear| ear.handler));
        let mut timers: HashSet<u64> = self.timers.iter().map(|timer| timer.number).collect();
        for effect in effects {
            let fresh = match effect {
                Effect::On { handler, .. } | Effect::Subscribe { handler, .. } => handlers.insert(*handler),
                Effect::Timer { timer, .. } => timers.insert(*timer),
                Effect::Off { handler } => {
                    handlers.remove(handler);
                    true
                }
                Effect::CancelTimer { timer } => {
                    timers.remove(timer);
                    true
                }
                _ => true,
            };
            if !fresh {
                return Err("a handler or timer of a number that is taken".into());
            }
        }
        if handlers.len() > limits.handlers || timers.len() > limits.timers {
            return Err(format!("{} handlers and {} timers in all", handlers.len(), timers.len()));
        }
        Ok(())
    }

    /// `jarvis.timer.after` and `.every`.
    pub(super) fn set_timer(&mut self, number: u64, delay: Duration, repeat: bool) {
        let due = Instant::now() + delay;
        let every = repeat.then_some(delay.max(Duration::from_millis(1)));
        self.timers.push(Timer { number, due, every, busy: false });
    }

    /// `jarvis.timer.cancel`
    pub(super) fn cancel_timer(&mut self, number: u64) {
        self.timers.retain(|timer| timer.number != number);
    }

    /// When the next timer fires.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.iter().filter(|timer| !timer.busy).map(|timer| timer.due).min()
    }

    /// The timer that fires now, the first that is due. One that repeats does not fire again before it has ended.
    pub(super) fn fire(&mut self, now: Instant) -> Option<u64> {
        let due = self.timers.iter_mut().filter(|timer| !timer.busy && timer.due <= now);
        let timer = due.min_by_key(|timer| (timer.due, timer.number))?;
        timer.busy = true;
        if let Some(every) = timer.every {
            // What was missed is not made up for: the next one is the first that is still to come.
            let missed = now.duration_since(timer.due).as_nanos() / every.as_nanos() + 1;
            timer.due += every * u32::try_from(missed).unwrap_or(u32::MAX);
        }
        Some(timer.number)
    }

    /// A timer that was due is not called after all. It fires again: one that repeats at its next time.
    pub(super) fn postpone(&mut self, number: u64) {
        if let Some(timer) = self.timers.iter_mut().find(|timer| timer.number == number) {
            timer.busy = false;
        }
    }

    /// A timer's function has ended.
    pub(super) fn fired(&mut self, number: u64) {
        self.timers.retain(|timer| timer.number != number || timer.every.is_some());
        if let Some(timer) = self.timers.iter_mut().find(|timer| timer.number == number) {
            timer.busy = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Ear, Ears};
    use crate::model::{Filter, Limits, frame::Effect, message::EventInfo};

    #[test]
    fn handlers_and_timers_are_counted_over_all_calls() {
        let mut ears = Ears::default();
        ears.on(1, "a".into(), 0, false);
        ears.set_timer(2, Duration::from_secs(1), false);
        let limits = Limits { handlers: 2, timers: 2, ..Limits::default() };
        let on = |handler| Effect::On { handler, pattern: "a".into(), priority: 0, once: false };
        let timer = |timer| Effect::Timer { timer, delay_ms: 1, repeat: false };
        assert_eq!(ears.check(&[on(3), timer(4)], &limits), Ok(()));
        assert_eq!(ears.check(&[Effect::Off { handler: 1 }, on(3), on(4)], &limits), Ok(()));
        assert_eq!(ears.check(&[timer(3), Effect::CancelTimer { timer: 3 }, timer(4)], &limits), Ok(()));
        // Taking away what is not there makes no room.
        assert!(ears.check(&[Effect::Off { handler: 9 }, on(3), on(4)], &limits).is_err());
        assert!(ears.check(&[timer(3), timer(4)], &limits).is_err());
        assert!(ears.check(&[on(1)], &limits).unwrap_err().contains("a number that is taken"));
    }

    #[test]
    fn a_call_that_waited_is_for_who_listens_to_the_same() {
        let mut old = Ears::default();
        for (handler, pattern) in [(1, "rain"), (2, "door"), (3, "rain")] {
            old.on(handler, pattern.into(), 0, false);
        }
        let filter = Filter::parse("s/lamp").unwrap();
        old.subscribe(Some(4), filter.clone(), true);
        let info =
            EventInfo { name: "rain".into(), plugin: None, id: String::new(), timestamp: String::new() };
        let heard = old.hear(&info);
        let rain = |before| Ear::Event("rain".into(), before);
        assert_eq!(heard, [(1, rain(0)), (3, rain(1))]);
        // The same in another order, and one less.
        let mut new = Ears::default();
        new.subscribe(Some(1), filter.clone(), true);
        for (handler, pattern) in [(2, "door"), (3, "door"), (4, "rain")] {
            new.on(handler, pattern.into(), 0, false);
        }
        let found = heard.iter().map(|(number, ear)| new.find(*number, ear)).collect::<Vec<_>>();
        assert_eq!(found, [Some(4), None]);
        assert_eq!(new.find(4, &Ear::Message(filter, 0)), Some(1));
        assert_eq!(old.find(3, &rain(0)), Some(3), "the same number for the same is the same");
    }

    #[test]
    fn a_replay_is_for_the_handler_that_wanted_it() {
        let filter = Filter::parse("s/lamp").unwrap();
        let mut ears = Ears::default();
        ears.subscribe(Some(1), filter.clone(), false);
        ears.subscribe(Some(2), filter.clone(), true);
        let message = serde_json::json!({
            "topic": "s/lamp", "payload": "on", "levels": [], "qos": 1, "retained": true, "properties": {},
        });
        let message = serde_json::from_value(message).unwrap();
        assert_eq!(ears.receive(&filter, &message), [Some((2, Ear::Message(filter.clone(), 1)))]);
    }

    #[test]
    fn a_repeating_timer_waits_for_itself_and_skips_what_it_missed() {
        let mut ears = Ears::default();
        ears.set_timer(1, Duration::from_secs(1), true);
        ears.set_timer(2, Duration::from_secs(2), false);
        let now = Instant::now() + Duration::from_secs(5);
        assert_eq!((ears.fire(now), ears.fire(now)), (Some(1), Some(2)));
        assert_eq!(ears.next_timer(), None, "both are busy");
        ears.fired(1);
        ears.fired(2);
        let next = ears.next_timer().unwrap();
        assert!(next > now && next <= now + Duration::from_secs(1));
        assert_eq!(ears.fire(now), None);
    }

    #[test]
    fn a_timer_that_was_not_called_fires_again() {
        let mut ears = Ears::default();
        ears.set_timer(1, Duration::from_secs(1), false);
        let now = Instant::now() + Duration::from_secs(5);
        assert_eq!(ears.fire(now), Some(1));
        ears.postpone(1);
        assert_eq!(ears.fire(now), Some(1));
        ears.fired(1);
        ears.postpone(1);
        assert_eq!(ears.fire(now), None);
    }
}
