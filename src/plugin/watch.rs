//! Looks at the plugin directory whenever something moves there. What the system tells is a hint: the files
//! themselves decide, and they are looked at every minute anyway.

use std::{path::Path, time::Duration};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::manager::Manager;

/// How long the directory must be quiet: an editor's write, rename and chmod are one change.
const QUIET: Duration = Duration::from_millis(30);
/// How long to wait for that where somebody writes without a pause.
const PATIENCE: Duration = Duration::from_secs(1);
/// When to look again where a file has vanished; also after what could not be loaded for a reason that is not its own,
/// and then ever less often while nothing moves.
const AGAIN: Duration = Duration::from_millis(1_050);
/// How often to look without any hint: some file systems give none.
const ANYWAY: Duration = Duration::from_secs(60);

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

fn watcher(hint: mpsc::Sender<()>, directory: &Path) -> notify::Result<RecommendedWatcher> {
    let directory = directory.to_owned();
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error says that something was missed.
        if event.map_or(true, |event| is_hint(&event, &directory)) {
            let _ = hint.try_send(());
        }
    })
}

/// Whether plugins may have changed. That somebody opened or read them is told too: looking at each of those
/// hints would give the next one, for ever.
fn is_hint(event: &Event, directory: &Path) -> bool {
    let is_change = match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    };
    event.need_rescan() || is_change && event.paths.iter().any(|path| is_ours(path, directory))
}

/// Whether a change may be one of plugins; a log or a database beside them changes all the time. `..data` is the
/// link that Kubernetes turns round when the files of a ConfigMap change.
fn is_ours(path: &Path, directory: &Path) -> bool {
    let is_plugin = || path.extension().is_some_and(|end| end == "lua") || path.ends_with("..data");
    path == directory || (path.parent() == Some(directory) && is_plugin())
}

async fn run(
    manager: Manager,
    mut watcher: Option<RecommendedWatcher>,
    _hint: mpsc::Sender<()>,
    mut hints: mpsc::Receiver<()>,
    mut stop: oneshot::Receiver<()>,
) {
    let (mut pause, mut again, mut put_off) = (Duration::ZERO, AGAIN, false);
    loop {
        if let Some(watcher) = &mut watcher {
            look_at(watcher, manager.directory());
        }
        tokio::select! {
            _ = &mut stop => return,
            () = manager.puts_off() => {
                (pause, put_off) = (pause.min(again), true);
                continue;
            }
            () = settled(&mut hints) => again = AGAIN,
            () = tokio::time::sleep(pause) => again = if put_off { ANYWAY.min(again * 2) } else { AGAIN },
        }
        put_off = false;
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

/// Waits until something has moved and all is quiet again.
async fn settled(hints: &mut mpsc::Receiver<()>) {
    if hints.recv().await.is_some() {
        let quiet = async { while let Ok(Some(())) = timeout(QUIET, hints.recv()).await {} };
        let _ = timeout(PATIENCE, quiet).await;
    }
}

/// Watches the directory and its parent; again each time, since a watch ends when its directory is replaced.
fn look_at(watcher: &mut RecommendedWatcher, directory: &Path) {
    // Whichever of the two is missing cannot be watched; the other one tells when it comes.
    let _ = watcher.watch(directory, RecursiveMode::NonRecursive);
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    let _ = watcher.watch(parent.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use notify::{
        Event, EventKind,
        event::{AccessKind, AccessMode, CreateKind, DataChange, Flag, ModifyKind, RenameMode},
    };

    use super::is_hint;

    #[test]
    fn only_changes_of_plugins_are_hints() {
        let check = |kind: EventKind, path: &str, expect: bool| {
            let event = Event::new(kind).add_path(path.into());
            assert_eq!(is_hint(&event, Path::new("/p")), expect, "{event:?}");
        };
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/p", false);
        check(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/p/a.lua", false);
        check(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/p/a.lua", true);
        check(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/p/a.lua", true);
        check(EventKind::Modify(ModifyKind::Data(DataChange::Any)), "/p/a.log", false);
        check(EventKind::Create(CreateKind::Folder), "/p", true);
        check(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/p/..data", true);
        check(EventKind::Create(CreateKind::File), "/other.lua", false);
    }

    #[test]
    fn what_was_missed_is_a_hint() {
        let missed = Event::new(EventKind::Other).set_flag(Flag::Rescan);
        assert!(is_hint(&missed, Path::new("/p")));
    }
}
