//! The effects of the running call and the way back from them.

use std::{collections::HashMap, mem};

use serde_json::value::RawValue;

use super::{Handler, Timer};
use crate::{
    lua::{convert::escaped_length, host::Problem},
    model::{EFFECT_OVERHEAD as OVERHEAD, MAX_EFFECTS as MAX_BYTES, frame::Effect},
};

/// Where a key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::lua) enum Shelf {
    /// `jarvis.state`
    State,
    /// `jarvis.config`
    Config,
}

impl Shelf {
    /// As plugins call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::State => "jarvis.state",
            Self::Config => "jarvis.config",
        }
    }
}

/// One step back.
pub(super) enum Undo {
    Write { shelf: Shelf, key: String, old: Option<Box<RawValue>> },
    HandlerAdded(u64),
    HandlerRemoved(u64, Handler),
    TimerAdded(u64),
    TimerRemoved(u64, Timer),
}

#[derive(Default)]
pub(super) struct Journal {
    effects: Vec<Effect>,
    undo: Vec<Undo>,
    /// Where in `effects` a key's write is: a second write takes the place of the first.
    writes: HashMap<(Shelf, String), usize>,
    bytes: usize,
    outputs: usize,
}

impl Journal {
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        mem::take(self).effects
    }

    pub(super) fn take_undo(&mut self) -> Vec<Undo> {
        mem::take(self).undo
    }

    pub(super) fn undo(&mut self, step: Undo) {
        self.undo.push(step);
    }

    pub(super) fn push(&mut self, effect: Effect, bytes: usize) -> Result<(), Problem> {
        self.check(bytes + OVERHEAD)?;
        self.bytes += bytes + OVERHEAD;
        self.effects.push(effect);
        Ok(())
    }

    /// Whether two effects with so many bytes between them still fit.
    pub(super) fn check_two(&self, bytes: usize) -> Result<(), Problem> {
        self.check(bytes + 2 * OVERHEAD)
    }

    pub(super) fn count_output(&mut self, limit: usize, left: u32) -> Result<(), Problem> {
        if self.outputs >= left as usize {
            return Err(Problem::quota(
                "no more may be emitted or published here: one message may cause 1,000 emits and publishes in all; timers and \
                 start-up may emit and publish 100 times a second",
            ));
        }
        if self.outputs >= limit {
            return Err(Problem::quota(format!(
                "at most {limit} emits and publishes in one hook call (limits.outputs): send one message with a \
                 list, or go on in a timer"
            )));
        }
        self.outputs += 1;
        Ok(())
    }

    /// Whether a write still fits.
    pub(super) fn check_write(&self, key: &str, value: Option<&RawValue>) -> Result<(), Problem> {
        self.check(write_bytes(key, value))
    }

    /// Notes a write that was done, with what was there before.
    pub(super) fn write(
        &mut self,
        shelf: Shelf,
        key: String,
        value: Option<Box<RawValue>>,
        old: Option<Box<RawValue>>,
    ) {
        self.bytes += write_bytes(&key, value.as_deref());
        let place = self.writes.get(&(shelf, key.clone())).copied();
        if let Some(slot) = place.and_then(|index| self.effects.get_mut(index)) {
            self.bytes = self.bytes.saturating_sub(write_bytes(&key, old.as_deref()));
            *slot = write_effect(shelf, key, value);
            return;
        }
        self.writes.insert((shelf, key.clone()), self.effects.len());
        self.undo.push(Undo::Write { shelf, key: key.clone(), old });
        self.effects.push(write_effect(shelf, key, value));
    }

    fn check(&self, more: usize) -> Result<(), Problem> {
        if self.bytes + more <= MAX_BYTES {
            return Ok(());
        }
        Err(Problem::quota(format!(
            "the effects of one hook call would take more than {} MiB: do less in one call, or go on in a timer",
            MAX_BYTES >> 20
        )))
    }
}

fn write_bytes(key: &str, value: Option<&RawValue>) -> usize {
    // Its key stands in the effect, on the way back and in the index.
    3 * escaped_length(key) + value.map_or(0, |value| value.get().len()) + OVERHEAD
}

fn write_effect(shelf: Shelf, key: String, value: Option<Box<RawValue>>) -> Effect {
    match shelf {
        Shelf::State => Effect::State { key, value },
        Shelf::Config => Effect::Config { key, value },
    }
}
