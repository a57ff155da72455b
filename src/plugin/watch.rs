//! Looks at the plugin directory whenever something moves there. What the system tells is a hint: the files
//! themselves decide, and they are looked at every minute anyway.

use std::{path::Path, time::Duration};

use notify::{RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, NoCache, new_debouncer_opt};
use tokio::sync::{mpsc, oneshot};

use super::manager::Manager;

/// How long the directory must be quiet: an editor's write, rename and chmod are one change.
const QUIET: Duration = Duration::from_millis(30);
/// When to look again where a file has vanished.
const AGAIN: Duration = Duration::from_millis(1_050);
/// How often to look without any hint: some file systems give none.
const ANYWAY: Duration = Duration::from_secs(60);

type Watcher = Debouncer<RecommendedWatcher, NoCache>;

/// Watches until `stop` is dropped.
pub(super) fn start(manager: Manager, stop: oneshot::Receiver<()>) {
    // One hint waiting says as much as a hundred.
    let (hint, hints) = mpsc::channel(1);
    let watcher = match watcher(hint.clone(), manager.directory()) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(%error, "the plugin directory cannot be watched; it is looked at every 60 s");
            None
        }
    };
    tokio::spawn(run(manager, watcher, hint, hints, stop));
}

fn watcher(hint: mpsc::Sender<()>, directory: &Path) -> notify::Result<Watcher> {
    let directory = directory.to_owned();
    let handler = move |events: DebounceEventResult| {
        // An error says that something was missed.
        let ours = events.map_or(true, |events| {
            events.iter().flat_map(|event| &event.paths).any(|path| is_ours(path, &directory))
        });
        if ours {
            let _ = hint.try_send(());
        }
    };
    new_debouncer_opt(QUIET, None, handler, NoCache, notify::Config::default())
}

/// Whether a change may be one of plugins; a log or a database beside them changes all the time.
fn is_ours(path: &Path, directory: &Path) -> bool {
    path == directory
        || (path.parent() == Some(directory) && path.extension().is_some_and(|end| end == "lua"))
}

async fn run(
    manager: Manager,
    mut watcher: Option<Watcher>,
    _hint: mpsc::Sender<()>,
    mut hints: mpsc::Receiver<()>,
    mut stop: oneshot::Receiver<()>,
) {
    let mut pause = Duration::ZERO;
    loop {
        if let Some(watcher) = &mut watcher {
            look_at(watcher, manager.directory());
        }
        tokio::select! {
            _ = &mut stop => return,
            _ = hints.recv() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = match manager.scan().await {
            Ok(scan) if scan.waiting => AGAIN,
            Ok(_) => ANYWAY,
            Err(error) => {
                tracing::error!(%error, "the plugin directory cannot be read");
                ANYWAY
            }
        };
    }
}

/// Watches the directory and its parent; again each time, since a watch ends when its directory is replaced.
fn look_at(watcher: &mut Watcher, directory: &Path) {
    // Whichever of the two is missing cannot be watched; the other one tells when it comes.
    let _ = watcher.watch(directory, RecursiveMode::NonRecursive);
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    let _ = watcher.watch(parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive);
}
