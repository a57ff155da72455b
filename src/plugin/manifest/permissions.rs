//! `@permissions`: texts with places for the operator's values, and what they become.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    Manifest,
    fault::{Fault, Faults, shortened},
};
use crate::model::Permission;

/// A permission as written, perhaps with `{config.x}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPermission {
    /// As in `mqtt.publish:{config.light}/set`.
    pub text: String,
    /// Where it stands, counted from 1.
    pub line: u32,
}

impl Manifest {
    /// Fills the operator's values into the permissions, the header's defaults where the operator has none,
    /// and adds what `@subscribe` includes.
    ///
    /// Values that the plugin itself set at run time must not be among them: it would choose its own
    /// permissions.
    ///
    /// # Errors
    /// Every permission whose value is missing, or that is none with its value in place.
    pub fn permissions(&self, config: &BTreeMap<String, Value>) -> Result<Vec<Permission>, Vec<Fault>> {
        let mut faults = Faults::of(&self.file);
        let mut permissions = Vec::new();
        for raw in &self.permissions {
            let filled = fill(&raw.text, |key| self.value_of(key, config));
            match filled.and_then(|text| Permission::parse(&text).map_err(|error| error.to_string())) {
                Ok(permission) if permissions.contains(&permission) => {}
                Ok(permission) => permissions.push(permission),
                Err(message) => faults.at(raw.line, message),
            }
        }
        for filter in &self.subscribe {
            let permission = Permission::Subscribe(filter.clone());
            if !permissions.contains(&permission) {
                permissions.push(permission);
            }
        }
        let faults = faults.into_list();
        if faults.is_empty() { Ok(permissions) } else { Err(faults) }
    }

    fn value_of(&self, key: &str, config: &BTreeMap<String, Value>) -> Result<String, String> {
        let set = format!("set `{key}` under `[plugins.{}]` in the configuration", self.id);
        match config.get(key).or_else(|| self.config.get(key)) {
            Some(Value::String(text)) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            None | Some(Value::String(_) | Value::Null) => {
                Err(format!("the permission needs `{{config.{key}}}`, which is empty: {set}"))
            }
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                Err(format!("the permission needs `{{config.{key}}}` as a text or number: {set}"))
            }
        }
    }
}

/// Checks a permission as far as that can be done before the operator's values are known.
pub(super) fn check(text: &str) -> Result<(), String> {
    if !text.contains('{') {
        return Permission::parse(text).map(drop).map_err(|error| error.to_string());
    }
    fill(text, |_| Ok(String::new())).map(drop)
}

/// Replaces each `{config.x}` by its value.
fn fill(text: &str, value_of: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
    let mut filled = String::new();
    let mut rest = text;
    while let Some((before, place)) = rest.split_once('{') {
        let key = place.strip_prefix("config.").and_then(|place| place.split_once('}'));
        let Some((key, after)) = key.filter(|(key, _)| !key.is_empty() && !key.contains('{')) else {
            let found = shortened(text);
            return Err(format!(
                "`{found}` has a `{{` that begins no value: write it as in `{{config.light}}`"
            ));
        };
        filled.push_str(before);
        filled.push_str(&value_of(key)?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
