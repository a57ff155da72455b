//! `doctor`: looks at everything that a bridge needs and nobody sees, and says what to do about it.

mod broker;
mod lockdown;
mod paths;
mod report;

use std::process::ExitCode;

use clap::Args;

use super::{Ended, output};
use crate::config::Config;
use report::Report;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the checks as one line of JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn doctor(config: &Config, arguments: &Arguments) -> Ended {
    let mut report = Report::default();
    broker::check(config, &mut report).await;
    lockdown::check(&mut report).await;
    paths::check(config, &mut report);
    match arguments.json {
        true => output::line(&report.json().to_string()),
        false => output::print(&report.text()),
    }
    Ok(if report.is_failure() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
