//! What was checked and how it stands, for people and for programs.

use serde::Serialize;
use serde_json::{Value, json};

/// How a check ended; the worst is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Check {
    check: &'static str,
    status: Status,
    message: String,
    /// What to do about it.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// All of them, in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Check>);

impl Report {
    pub(super) fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.0.push(Check { check, status: Status::Ok, message: message.into(), remedy: None });
    }

    pub(super) fn warn(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = Some(remedy.into());
        self.0.push(Check { check, status: Status::Warn, message: message.into(), remedy });
    }

    pub(super) fn fail(
        &mut self,
        check: &'static str,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let remedy = Some(remedy.into());
        self.0.push(Check { check, status: Status::Fail, message: message.into(), remedy });
    }

    pub(super) fn is_failure(&self) -> bool {
        self.worst() == Status::Fail
    }

    fn worst(&self) -> Status {
        self.0.iter().map(|check| check.status).max().unwrap_or(Status::Ok)
    }

    pub(super) fn json(&self) -> Value {
        json!({ "status": self.worst(), "checks": self.0 })
    }

    /// A line for each check, and one for what to do.
    pub(super) fn text(&self) -> String {
        let width = self.0.iter().map(|check| check.check.len()).max().unwrap_or(0);
        let mut text = String::new();
        for Check { check, status, message, remedy } in &self.0 {
            let status = match status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            text.push_str(&format!("{status}  {check:width$}  {message}\n"));
            if let Some(remedy) = remedy {
                text.push_str(&format!("      {:width$}  -> {remedy}\n", ""));
            }
        }
        text.push_str(match self.worst() {
            Status::Ok => "\nall well\n",
            Status::Warn => "\nit works, and would be better with what the arrows say\n",
            Status::Fail => "\nsomething does not work: see the arrow below FAIL\n",
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Report, Status};

    #[test]
    fn a_line_for_each_check_and_an_arrow_for_what_to_do() {
        let mut report = Report::default();
        report.ok("broker", "is there");
        assert_eq!((report.worst(), report.is_failure()), (Status::Ok, false));
        report.warn("q", "is short", "make it longer");
        assert_eq!(
            report.text(),
            "ok    broker  is there\nwarn  q       is short\n              -> make it longer\n\n\
             it works, and would be better with what the arrows say\n"
        );
        report.fail("data", "is full", "empty it");
        report.ok("last", "is well");
        assert_eq!((report.worst(), report.is_failure()), (Status::Fail, true));
        let checks = &report.json()["checks"];
        assert_eq!(checks[0], json!({ "check": "broker", "status": "ok", "message": "is there" }));
        let full = json!({ "check": "data", "status": "fail", "message": "is full", "do": "empty it" });
        assert_eq!(checks[2], full);
    }
}
