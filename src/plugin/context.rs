//! What all plugins share.

use tokio::sync::broadcast;

use super::{Notice, Registry, Settings};
use crate::{effects::Effects, worker::Spawner};

/// The doors every plugin's tasks go through.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) spawner: Spawner,
    pub(super) effects: Effects,
    pub(super) registry: Registry,
    pub(super) settings: Settings,
    pub(super) notices: broadcast::Sender<Notice>,
}

impl Context {
    /// Tells what happened to a plugin.
    pub(super) fn notice(&self, notice: Notice) {
        // Nobody need be listening.
        let _ = self.notices.send(notice);
    }
}
