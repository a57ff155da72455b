//! The bridge's side of the probe: starts it, gives it something to reach for, reads what it found.

use std::{
    fs::{self, DirBuilder, File},
    io,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    time::Duration,
};

#[cfg(target_os = "linux")]
use super::probe::abstract_name;
use super::{
    Spawner, Walls,
    probe::{DIRECTORY, FILE},
};
use crate::model::lockdown::Probe;

/// Far more than a probe takes; one that hangs is killed.
const PATIENCE: Duration = Duration::from_secs(10);
/// Far more than its report is long.
const REPORT: u64 = 64 * 1024;

/// Why nothing is known of the lock-down.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No process, or no socket for it to reach for.
    #[error("no worker could be started to look: {0}")]
    Start(#[from] io::Error),
    /// It said nothing in time.
    #[error("the worker that should look did not come back within {} s", PATIENCE.as_secs())]
    Silent,
    /// It ended without a report.
    #[error("the worker that should look failed: {0}")]
    Failed(String),
}

impl Spawner {
    /// Lets a worker lock itself down and try its walls from inside.
    ///
    /// # Errors
    /// When it could not look; that it found a hole is no error.
    pub async fn probe(&self, walls: Walls) -> Result<Probe, ProbeError> {
        // They live until the report is there.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        #[cfg(target_os = "linux")]
        let _abstract_socket = listen_abstract(port)?;
        let place = Place::make();
        let arguments = vec![walls.argument().into(), port.to_string(), place.0.display().to_string()];
        let mut process = self.spawn_with(arguments).await?;
        let read = tokio::time::timeout(PATIENCE, process.reader.rest(REPORT)).await;
        let text = read.map_err(|_| ProbeError::Silent)??;
        let how = process.ended().await.map_or_else(|| "it did not end".into(), |ending| ending.how);
        serde_json::from_slice(&text).map_err(|_| ProbeError::Failed(how))
    }
}

/// A directory in which a probe may do as it likes, with something to remove in it. Goes with this.
struct Place(PathBuf);

impl Place {
    /// Under a name that nobody can have foreseen. Where it cannot be made, nor can anything in it: the probe is
    /// refused before that shows, or says that nothing is proved.
    fn make() -> Self {
        let name = format!("jarvis-bridge-probe-{}", uuid::Uuid::now_v7().simple());
        let place = Self(std::env::temp_dir().join(name));
        if DirBuilder::new().mode(0o700).create(&place.0).is_ok() {
            // What is missing shows in the same way.
            let _ = File::create_new(place.0.join(FILE));
            let _ = fs::create_dir(place.0.join(DIRECTORY));
        }
        place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // It follows no link. What cannot be removed was not made.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(target_os = "linux")]
fn listen_abstract(port: u16) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    };
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(abstract_name(port))?)
}
