//! What all plugins share.

use super::{Registry, Settings};
use crate::{effects::Effects, worker::Spawner};

/// The doors every plugin's tasks go through.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) spawner: Spawner,
    pub(super) effects: Effects,
    pub(super) registry: Registry,
    pub(super) settings: Settings,
}
