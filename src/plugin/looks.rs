//! Looks at the plugin directory, one after the other, away from the bridge's own thread: a disk or file server
//! that does not answer holds up nothing but the looks themselves.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::Semaphore;

use super::shelf::Shelf;

/// How long whoever wants a look waits for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The turns of those who look, and what earlier looks have read.
#[derive(Debug)]
pub(super) struct Looks {
    /// Held by the thread that looks, also when nobody waits for it any more: one thread may hang, not all.
    turn: Arc<Semaphore>,
    shelf: Arc<Mutex<Shelf>>,
    patience: Duration,
}

impl Default for Looks {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), shelf: Arc::default(), patience: PATIENCE }
    }
}

impl Looks {
    /// Runs a look where it may block.
    ///
    /// # Errors
    /// What the look says, or that it has not come back in time.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        look: impl FnOnce(&mut Shelf) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let shelf = self.shelf.clone();
        let looked = async {
            let turn = self.turn.clone().acquire_owned().await.map_err(io::Error::other)?;
            let blocking = move || {
                let result = look(&mut shelf.lock().unwrap_or_else(PoisonError::into_inner));
                drop(turn);
                result
            };
            tokio::task::spawn_blocking(blocking).await.map_err(io::Error::other)?
        };
        let late = |_| {
            let text = format!(
                "it has not answered for {} s: is it on a disk or server that is gone?",
                self.patience.as_secs()
            );
            io::Error::new(io::ErrorKind::TimedOut, text)
        };
        tokio::time::timeout(self.patience, looked).await.map_err(late)?
    }

    /// Sees to it that a file is read at the next look. While one is under way nothing is forgotten: waiting for
    /// it might take for ever, and what it reads is as fresh.
    pub(super) fn forget(&self, file: &str) {
        if let Ok(mut shelf) = self.shelf.try_lock() {
            shelf.forget(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::mpsc, time::Duration};

    use super::Looks;

    #[test]
    fn a_look_that_hangs_keeps_the_next_from_a_thread_and_nobody_waits_for_ever() {
        // The look that hangs has one thread, and one is left for everything else.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(2)
            .build()
            .unwrap();
        runtime.block_on(async {
            let looks = Looks { patience: Duration::from_millis(50), ..Looks::default() };
            let (release, hangs) = mpsc::channel::<()>();
            let hung = looks.run(move |_| Ok(hangs.recv().is_ok())).await;
            assert_eq!(hung.unwrap_err().kind(), io::ErrorKind::TimedOut);
            for _ in 0..3 {
                let next = looks.run(|_| Ok(())).await;
                assert_eq!(next.unwrap_err().kind(), io::ErrorKind::TimedOut);
            }
            let other = tokio::task::spawn_blocking(|| ());
            tokio::time::timeout(Duration::from_secs(20), other).await.expect("no thread is left").unwrap();
            looks.forget("x.lua");
            // The disk answers again.
            release.send(()).unwrap();
            let looks = Looks { patience: Duration::from_secs(20), ..looks };
            assert!(looks.run(|_| Ok(true)).await.unwrap());
        });
    }
}
