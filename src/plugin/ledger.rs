//! How many bytes a plugin keeps in the store, key by key, so that its quota holds whatever its worker says.

use std::collections::HashMap;

use serde_json::value::RawValue;

use crate::{model::frame::Effect, store::Kept};

/// One plugin's state and configuration, in bytes.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    state: Shelf,
    config: Shelf,
}

#[derive(Debug, Default)]
struct Shelf {
    keys: HashMap<String, usize>,
    total: usize,
}

impl Ledger {
    /// What is kept now.
    pub(super) fn of(kept: &Kept) -> Self {
        let mut ledger = Self::default();
        kept.state.iter().for_each(|(key, value)| ledger.state.put(key, Some(value)));
        kept.config.iter().for_each(|(key, value)| ledger.config.put(key, Some(value)));
        ledger
    }

    /// Enters what the effects of a call write; `limit` is for state and for configuration each. Only deleting makes
    /// good what was more than that before.
    ///
    /// # Errors
    /// A sentence where it is too much; it is entered all the same.
    pub(super) fn enter(&mut self, effects: &[Effect], limit: usize) -> Result<(), String> {
        let before = [self.state.total, self.config.total];
        for effect in effects {
            match effect {
                Effect::State { key, value } => self.state.put(key, value.as_deref()),
                Effect::Config { key, value } => self.config.put(key, value.as_deref()),
                _ => {}
            }
        }
        for (total, before) in [self.state.total, self.config.total].into_iter().zip(before) {
            if total > limit.max(before) {
                return Err(format!("it keeps {total} bytes, {limit} are allowed (limits.state)"));
            }
        }
        Ok(())
    }
}

impl Shelf {
    fn put(&mut self, key: &str, value: Option<&RawValue>) {
        let old = match value {
            Some(value) => self.keys.insert(key.to_owned(), key.len() + value.get().len()),
            None => self.keys.remove(key),
        };
        let new = value.map_or(0, |value| key.len() + value.get().len());
        self.total = self.total + new - old.unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Ledger;
    use crate::{model::frame::Effect, store::Kept};

    #[test]
    fn the_quota_is_over_all_calls() {
        let mut kept = Kept::default();
        kept.state.insert("old".into(), serde_json::value::to_raw_value("12345").unwrap());
        let mut ledger = Ledger::of(&kept);
        let set = |key: &str, value: Option<&str>| -> Effect {
            serde_json::from_value(json!({"state": {"key": key, "value": value}})).unwrap()
        };
        assert_eq!(ledger.enter(&[set("a", Some("34567"))], 20), Ok(()));
        let swap = [set("b", Some("7890")), set("a", None)];
        assert_eq!(ledger.enter(&swap, 20), Ok(()), "only what is there in the end counts");
        assert!(ledger.enter(&[set("c", Some("7890"))], 20).unwrap_err().contains("keeps 24 bytes, 20"));

        let mut ledger = Ledger::of(&kept);
        assert_eq!(
            ledger.enter(&[set("old", Some("1234"))], 5),
            Ok(()),
            "a lower limit does not stop who gives back"
        );
        let config: Effect =
            serde_json::from_value(json!({"config": {"key": "k", "value": "123456"}})).unwrap();
        assert!(ledger.enter(&[config], 5).is_err(), "each has its own");
    }
}
