//! Which plugin waits for which with `jarvis.command`. A plugin runs one call at a time, so a circle of these
//! would wait until its time is over; it is refused before it closes, also where it closes over two calls.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::model::PluginId;

/// Who waits for whom; each plugin for one at most. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits(Arc<Mutex<BTreeMap<PluginId, PluginId>>>);

/// A plugin that waits, until this is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    waits: Waits,
    caller: PluginId,
}

impl Waits {
    /// Notes that `caller` waits for `owner`.
    ///
    /// # Errors
    /// The plugins from `owner` to `caller`, each of which waits for the next, where there are such.
    pub(super) fn begin(&self, caller: &PluginId, owner: &PluginId) -> Result<Waiting, Vec<PluginId>> {
        let mut waits = self.lock();
        let mut chain = vec![owner.clone()];
        while let Some(last) = chain.last() {
            if last == caller {
                return Err(chain);
            }
            match waits.get(last) {
                Some(next) if !chain.contains(next) => chain.push(next.clone()),
                _ => break,
            }
        }
        waits.insert(caller.clone(), owner.clone());
        drop(waits);
        Ok(Waiting { waits: self.clone(), caller: caller.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PluginId, PluginId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waits.lock().remove(&self.caller);
    }
}

#[cfg(test)]
mod tests {
    use super::Waits;
    use crate::model::PluginId;

    #[test]
    fn a_circle_is_refused_and_forgotten_with_its_calls() {
        let [a, b, c] = ["a", "b", "c"].map(|id| PluginId::parse(id).unwrap());
        let waits = Waits::default();
        assert_eq!(waits.begin(&a, &a).unwrap_err(), std::slice::from_ref(&a));
        let first = waits.begin(&a, &b).unwrap();
        let _second = waits.begin(&b, &c).unwrap();
        assert_eq!(waits.begin(&c, &a).unwrap_err(), [a.clone(), b.clone(), c.clone()]);
        drop(first);
        assert!(waits.begin(&c, &a).is_ok());
    }
}
