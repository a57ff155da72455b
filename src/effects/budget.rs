//! How much may follow from one beginning: from an inbound message, also where what it caused goes through the broker
//! and comes back, or from what a plugin does unasked. Knows counts, never what is put out.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Shared, lock};

/// Emits and publishes that one inbound message may cause with everything that follows from it.
const MAX_OUTPUTS: u32 = 1_000;
/// Emits and publishes a second that one plugin may put out where no message started it.
const PER_SECOND: u32 = 100;
/// Beginnings that are remembered by name; what comes back from an older one begins anew.
const MAX_ORIGINS: usize = 10_000;

/// The outputs that are left. Cheap to clone: all clones count together.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spent: Spent,
    /// How messages name it on their way through the broker; made with the first of them.
    name: OnceLock<String>,
}

#[derive(Debug)]
enum Spent {
    /// Of an inbound message.
    Message(AtomicU32),
    /// Of a plugin that nobody asked: in this second.
    Unasked(Mutex<(Instant, u32)>),
}

impl Budget {
    /// What one inbound message may cause.
    #[must_use]
    pub fn of_message() -> Self {
        Self::over(Spent::Message(AtomicU32::new(0)))
    }

    /// What one plugin may put out unasked.
    #[must_use]
    pub fn of_plugin() -> Self {
        Self::over(Spent::Unasked(Mutex::new((Instant::now(), 0))))
    }

    fn over(spent: Spent) -> Self {
        Self(Arc::new(Inner { spent, name: OnceLock::new() }))
    }

    /// How many outputs are left.
    #[must_use]
    pub fn left(&self) -> u32 {
        match &self.0.spent {
            Spent::Message(spent) => MAX_OUTPUTS.saturating_sub(spent.load(Ordering::Relaxed)),
            Spent::Unasked(spent) => {
                let spent = lock(spent);
                if spent.0.elapsed() >= Duration::from_secs(1) {
                    PER_SECOND
                } else {
                    PER_SECOND.saturating_sub(spent.1)
                }
            }
        }
    }

    /// Counts outputs.
    ///
    /// # Errors
    /// A sentence, where it is too much.
    pub fn spend(&self, outputs: usize) -> Result<(), String> {
        let outputs = u32::try_from(outputs).unwrap_or(u32::MAX);
        match &self.0.spent {
            Spent::Message(spent) => {
                let before = spent.fetch_add(outputs.min(MAX_OUTPUTS), Ordering::Relaxed);
                if before.saturating_add(outputs) <= MAX_OUTPUTS {
                    return Ok(());
                }
                Err("one message may cause 1,000 emits and publishes in all, this one caused more".to_owned())
            }
            Spent::Unasked(spent) => {
                let mut spent = lock(spent);
                if spent.0.elapsed() >= Duration::from_secs(1) {
                    *spent = (Instant::now(), 0);
                }
                spent.1 = spent.1.saturating_add(outputs);
                if spent.1 <= PER_SECOND {
                    return Ok(());
                }
                Err(format!(
                    "timers, start-up and what follows from them may emit and publish {PER_SECOND} times a second in all"
                ))
            }
        }
    }
}

/// The beginnings of what is on its way through the broker, by name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins(Shared<Known>);

#[derive(Debug, Default)]
struct Known {
    budgets: HashMap<String, Budget>,
    /// In the order they came: the oldest is forgotten first.
    order: VecDeque<String>,
}

impl Origins {
    /// The name of a budget for a message that goes out.
    pub(super) fn name(&self, budget: &Budget) -> String {
        let name = budget.0.name.get_or_init(|| uuid::Uuid::now_v7().simple().to_string()).clone();
        let mut known = lock(&self.0);
        if !known.budgets.contains_key(&name) {
            if known.order.len() == MAX_ORIGINS
                && let Some(oldest) = known.order.pop_front()
            {
                known.budgets.remove(&oldest);
            }
            known.order.push_back(name.clone());
            known.budgets.insert(name.clone(), budget.clone());
        }
        name
    }

    /// The budget that a message which came in names.
    pub(super) fn find(&self, name: &str) -> Option<Budget> {
        lock(&self.0).budgets.get(name).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, MAX_ORIGINS, MAX_OUTPUTS, Origins, PER_SECOND};

    #[test]
    fn what_comes_back_counts_with_what_it_comes_from() {
        let origins = Origins::default();
        let budget = Budget::of_message();
        let name = origins.name(&budget);
        assert_eq!(origins.name(&budget), name);
        assert_eq!(budget.spend(MAX_OUTPUTS as usize - 1), Ok(()));
        let back = origins.find(&name).unwrap();
        assert_eq!(back.spend(1), Ok(()));
        assert!(back.spend(1).unwrap_err().contains("one message may cause 1,000"));
        assert!(origins.find("another").is_none());
    }

    #[test]
    fn a_plugin_that_nobody_asked_has_a_measure_a_second() {
        let budget = Budget::of_plugin();
        assert_eq!(budget.spend(PER_SECOND as usize), Ok(()));
        assert!(budget.spend(1).is_err());
    }

    #[test]
    fn names_are_bounded_and_the_oldest_goes() {
        let origins = Origins::default();
        let first = origins.name(&Budget::of_message());
        let second = origins.name(&Budget::of_message());
        for _ in 1..MAX_ORIGINS {
            origins.name(&Budget::of_message());
        }
        assert!(origins.find(&first).is_none() && origins.find(&second).is_some());
    }
}
