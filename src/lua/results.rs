//! What each hook may return.

use mlua::Value;

use super::failure::Blame;
use crate::model::{ErrorCode, Failure, Limits};

/// What the bridge does with a function's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// A table, or nil for nothing.
    Table,
    /// A table, nil for unchanged, or false to stop.
    Filter,
    /// True, or false and a reason.
    Health,
    /// Anything: nobody looks at it.
    Ignored,
}

impl Rule {
    /// The rule of a hook by its name.
    pub(super) fn of_hook(name: &str) -> Self {
        match name {
            "filter_message" | "filter_response" => Self::Filter,
            "health" => Self::Health,
            "on_mqtt" => Self::Ignored,
            _ => Self::Table,
        }
    }
}

/// The value to send, or nothing.
pub(super) fn check(
    blame: Blame<'_>,
    rule: Rule,
    value: Value,
    reason: &Value,
    limits: &Limits,
) -> Result<Option<Value>, Failure> {
    match (rule, &value) {
        (Rule::Ignored, _) | (Rule::Health, Value::Nil) => Ok(None),
        (Rule::Health, Value::Boolean(true)) => Ok(Some(value)),
        (Rule::Health, Value::Boolean(false)) if reason.is_nil() => {
            Err(Failure::new(ErrorCode::HookError, format!("plugin `{}` says it is not well", blame.plugin)))
        }
        (Rule::Health, Value::Boolean(false)) => Err(blame.returned(reason, limits)),
        (Rule::Health, _) => Err(blame.wrong_result(&value, "true, or false and a reason")),
        (_, Value::Nil) if reason.is_nil() => Ok(None),
        (_, Value::Nil) => Err(blame.returned(reason, limits)),
        (_, Value::Table(_)) | (Rule::Filter, Value::Boolean(false)) => Ok(Some(value)),
        (Rule::Filter, _) => {
            Err(blame.wrong_result(&value, "the message, nil to leave it as it is, or false to stop it"))
        }
        (Rule::Table, _) => {
            Err(blame.wrong_result(&value, "a table, as in `return { response = \"…\" }`, or nil"))
        }
    }
}
