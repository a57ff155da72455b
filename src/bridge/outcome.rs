//! How the results of several plugins become one envelope.

use serde_json::value::{RawValue, to_raw_value};

use super::request::Request;
use crate::{
    model::{Envelope, Failure, PluginId, PluginResult, Status},
    plugin::{Step, response_of},
};

/// What is known of a request's answer so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Outcome {
    hook: Option<&'static str>,
    name: Option<String>,
    response: Option<String>,
    /// Whose text `response` is.
    speaker: Option<PluginId>,
    data: Option<Box<RawValue>>,
    answered: bool,
    failure: Option<Failure>,
    /// Whether the failure counts although a plugin answered.
    fatal: bool,
    results: Vec<PluginResult>,
}

impl Outcome {
    /// An answer to be, of this hook.
    pub(super) fn of(hook: &'static str) -> Self {
        Self { hook: Some(hook), ..Self::default() }
    }

    /// Of what was asked for.
    pub(super) fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// A request that failed as a whole, whatever plugins said.
    pub(super) fn failed(mut self, failure: Failure) -> Self {
        self.fail_whole(failure);
        self
    }

    fn fail_whole(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.fatal = true;
    }

    /// An answer of the bridge itself.
    pub(super) fn with_data(mut self, data: &impl serde::Serialize) -> Self {
        self.data = to_raw_value(data).ok();
        self.answered = true;
        self
    }

    /// Takes plugins' results in, in the order they were asked. `response` and `data` come from the first
    /// with a string `response`; without one, `data` is the first result.
    pub(super) fn add(&mut self, steps: Vec<(PluginId, Step)>) {
        for (plugin, step) in steps {
            match step.outcome {
                Ok(None) => {}
                Ok(Some(data)) => self.answer(plugin, data, step.ran),
                Err(failure) => self.fail(plugin, failure, step.ran),
            }
        }
    }

    fn answer(&mut self, plugin: PluginId, data: Box<RawValue>, ran: std::time::Duration) {
        self.answered = true;
        if self.response.is_none() {
            self.response = response_of(&data);
            self.speaker = self.response.as_ref().map(|_| plugin.clone());
            if self.response.is_some() || self.data.is_none() {
                self.data = Some(data.clone());
            }
        }
        self.results.push(result(plugin, Status::Ok, Some(data), None, ran));
    }

    fn fail(&mut self, plugin: PluginId, failure: Failure, ran: std::time::Duration) {
        self.failure.get_or_insert_with(|| failure.clone());
        self.results.push(result(plugin, Status::Error, None, Some(failure), ran));
    }

    /// Takes results in that do not make the answer: what plugins say to an assistant's own words.
    pub(super) fn hear(&mut self, steps: Vec<(PluginId, Step)>) {
        let (response, data) = (self.response.take(), self.data.take());
        self.add(steps);
        self.answered = true;
        (self.response, self.data) = (response, data);
    }

    /// Puts what plugins said before in front: the assistant's answer, with the results of the message itself.
    pub(super) fn after(mut self, before: Self) -> Self {
        let own = std::mem::replace(&mut self.results, before.results);
        self.results.extend(own);
        self
    }

    /// Takes back what a filter stopped: nothing that was said may be read from the envelope.
    pub(super) fn withhold(&mut self, failure: Failure) {
        self.data = None;
        self.results.iter_mut().for_each(|result| result.data = None);
        self.fail_whole(failure);
    }

    /// Notes failures that did not stop anything: filters that passed a message on unchanged.
    pub(super) fn note(&mut self, steps: Vec<(PluginId, Step)>) {
        for (plugin, step) in steps {
            if let Err(failure) = step.outcome {
                self.results.push(result(plugin, Status::Error, None, Some(failure), step.ran));
            }
        }
    }

    /// Whether a plugin returned something.
    pub(super) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether anything failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    pub(super) fn response(&self) -> Option<&str> {
        self.response.as_deref()
    }

    /// The plugin whose text is the answer.
    pub(super) fn speaker(&self) -> Option<&PluginId> {
        self.speaker.as_ref()
    }

    pub(super) fn set_response(&mut self, response: Option<String>) {
        self.response = response;
    }

    /// The envelope. One plugin's failure does not fail a request that another one answered.
    pub(super) fn envelope(self, request: &Request) -> Envelope {
        let failure = self.failure.filter(|_| self.fatal || !self.answered);
        Envelope {
            echo: request.echo.clone(),
            status: if failure.is_some() { Status::Error } else { Status::Ok },
            hook: self.hook,
            name: self.name,
            response: self.response.filter(|_| failure.is_none()),
            data: self.data,
            error: failure.as_ref().map(|failure| failure.message.clone()),
            code: failure.map(|failure| failure.code),
            results: self.results,
            timestamp: crate::model::now(),
            duration_ms: milliseconds(request.arrived.elapsed()),
        }
    }
}

fn result(
    plugin: PluginId,
    status: Status,
    data: Option<Box<RawValue>>,
    failure: Option<Failure>,
    ran: std::time::Duration,
) -> PluginResult {
    let (error, code) = failure.map(|failure| (failure.message, failure.code)).unzip();
    PluginResult { plugin, status, data, error, code, duration_ms: milliseconds(ran) }
}

/// Milliseconds with three places behind the point.
fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}
