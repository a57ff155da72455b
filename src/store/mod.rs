//! The state door: what outlives a restart, in one SQLite file. One thread writes; whatever waits for it is
//! one commit. Knows plugins by their id only, never what their values mean.

mod schema;
mod writer;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use crate::model::PluginId;

/// Jobs that may wait for the writer. Whoever brings one more waits: nothing is dropped.
const QUEUE: usize = 1024;

/// The store. Cheap to clone; the last clone's end closes the file.
#[derive(Debug, Clone)]
pub struct Store {
    jobs: mpsc::Sender<writer::Job>,
}

/// One change, durable with the commit it is part of.
#[derive(Debug, Clone)]
pub struct Write {
    /// Whose.
    pub plugin: PluginId,
    /// State or configuration.
    pub space: Space,
    /// The key.
    pub key: String,
    /// JSON; nothing deletes the key.
    pub value: Option<Box<RawValue>>,
}

/// What a plugin keeps: two sets of keys that do not see each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// `jarvis.state`
    State,
    /// What `jarvis.config.set` has set.
    Config,
}

/// All that is kept of one plugin.
#[derive(Debug, Clone, Default)]
pub struct Kept {
    /// `jarvis.state`
    pub state: BTreeMap<String, Box<RawValue>>,
    /// What `jarvis.config.set` has set.
    pub config: BTreeMap<String, Box<RawValue>>,
}

/// A message that the broker has given away and that is not dealt with yet.
#[derive(Debug, Clone)]
pub struct Parked {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Bytes,
    /// The rest, as whoever parks it writes it.
    pub details: String,
}

/// What can go wrong, by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or is not ours.
    #[error("cannot open the state in `{path}`: {reason}")]
    Open {
        /// The file.
        path: String,
        /// What SQLite or the system said.
        reason: String,
    },
    /// A newer version of the bridge wrote it.
    #[error(
        "the state in `{path}` was written by a newer version (schema {found}, this one knows {known}): install that version again, or move the file away to start afresh"
    )]
    TooNew {
        /// The file.
        path: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// A read or commit failed; nothing of it took effect.
    #[error("the state could not be read or written: {0}")]
    Failed(String),
    /// The writer has ended.
    #[error("the state is closed")]
    Closed,
}

/// Commits that build on each other: once one of them has failed, those behind it fail too, for what they hold was
/// worked out from what never happened. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Sequence(Arc<AtomicBool>);

/// A commit on its way. Await it to learn whether it is durable.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<(), String>>);

impl Store {
    /// Opens the file, made where it does not exist, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Open`] and [`StoreError::TooNew`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(schema::open(path)?))
    }

    /// An empty store that forgets everything at its end.
    ///
    /// # Errors
    /// [`StoreError::Open`], when there is no memory for it.
    pub fn in_memory() -> Result<Self, StoreError> {
        Ok(Self::over(schema::open_memory()?))
    }

    /// A copy of the file in memory: it can be read and written, and nothing reaches the file. Where there
    /// is no file, it is empty.
    ///
    /// # Errors
    /// [`StoreError::Open`] and [`StoreError::TooNew`].
    pub fn copy_of(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(schema::open_copy(path)?))
    }

    fn over(connection: rusqlite::Connection) -> Self {
        let (jobs, queue) = mpsc::channel(QUEUE);
        writer::start(connection, queue);
        Self { jobs }
    }

    /// Hands over changes to be committed together. Commits happen in the order of these calls.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Commit, StoreError> {
        self.commit_in(writes, &Sequence::default()).await
    }

    /// The same for changes that build on those handed over before in the same sequence.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn commit_in(&self, writes: Vec<Write>, sequence: &Sequence) -> Result<Commit, StoreError> {
        let (done, commit) = oneshot::channel();
        let sequence = sequence.clone();
        self.send(writer::Job::Commit(writer::Changes { writes, sequence, done })).await?;
        Ok(Commit(commit))
    }

    /// Reads all that is kept of a plugin, every earlier commit included.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`].
    pub async fn kept(&self, plugin: &PluginId) -> Result<Kept, StoreError> {
        let (done, kept) = oneshot::channel();
        self.send(writer::Job::Kept { plugin: plugin.clone(), done }).await?;
        kept.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Failed)
    }

    /// Reads a note of the bridge's own.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`].
    pub async fn note(&self, key: &'static str) -> Result<Option<String>, StoreError> {
        let (done, note) = oneshot::channel();
        self.send(writer::Job::Note { key, done }).await?;
        note.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Failed)
    }

    /// Keeps a note of the bridge's own.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`].
    pub async fn keep_note(&self, key: &'static str, value: String) -> Result<(), StoreError> {
        let (done, kept) = oneshot::channel();
        self.send(writer::Job::KeepNote { key, value, done }).await?;
        kept.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Failed)
    }

    /// Keeps messages in the broker's stead, in one commit; gives each its number, which grow.
    ///
    /// # Errors
    /// [`StoreError::Failed`], then none of them is kept, and [`StoreError::Closed`].
    pub async fn park(&self, messages: Vec<Parked>) -> Result<Vec<i64>, StoreError> {
        let (done, parked) = oneshot::channel();
        self.send(writer::Job::Park { messages, done }).await?;
        parked.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Failed)
    }

    /// Forgets a parked message: it is dealt with.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn unpark(&self, number: i64) -> Result<(), StoreError> {
        self.send(writer::Job::Unpark { number }).await
    }

    /// The messages that are parked, in the order they were.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`].
    pub async fn parked(&self) -> Result<Vec<(i64, Parked)>, StoreError> {
        let (done, parked) = oneshot::channel();
        self.send(writer::Job::Parked { done }).await?;
        parked.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Failed)
    }

    /// Waits until everything that was handed over before is done.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    pub async fn flush(&self) -> Result<(), StoreError> {
        let (done, flushed) = oneshot::channel();
        self.send(writer::Job::Flush { done }).await?;
        flushed.await.map_err(|_| StoreError::Closed)
    }

    async fn send(&self, job: writer::Job) -> Result<(), StoreError> {
        self.jobs.send(job).await.map_err(|_| StoreError::Closed)
    }
}

impl Sequence {
    /// What to say of that which comes behind a failed commit.
    pub(crate) const BROKEN: &str = "an earlier change of the same plugin could not be kept";

    /// Whether one of its commits has failed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn break_off(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Commit {
    /// Waits until it is durable.
    ///
    /// # Errors
    /// [`StoreError::Failed`]: nothing of it took effect. [`StoreError::Closed`]: nobody knows.
    pub async fn durable(self) -> Result<(), StoreError> {
        self.0.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Parked, PluginId, Sequence, Space, Store, StoreError, Write};
    use serde_json::value::to_raw_value;

    fn write(key: &str, value: Option<i64>) -> Write {
        let value = value.map(|value| to_raw_value(&value).unwrap());
        Write { plugin: PluginId::parse("lamp").unwrap(), space: Space::State, key: key.into(), value }
    }

    async fn keys(store: &Store) -> Vec<(String, String)> {
        let kept = store.kept(&PluginId::parse("lamp").unwrap()).await.unwrap();
        kept.state.into_iter().map(|(key, value)| (key, value.get().to_owned())).collect()
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let store = Store::open(&path).unwrap();
        let commits =
            [vec![write("a", Some(1)), write("b", Some(2))], vec![write("a", None), write("b", Some(3))]];
        for writes in commits {
            store.commit(writes).await.unwrap().durable().await.unwrap();
        }
        store.keep_note("client_id", "x".into()).await.unwrap();
        drop(store);
        let store = Store::open(&path).unwrap();
        assert_eq!(keys(&store).await, [("b".into(), "3".into())]);
        assert_eq!(store.note("client_id").await.unwrap().as_deref(), Some("x"));
    }

    #[tokio::test]
    async fn a_copy_changes_nothing_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let store = Store::open(&path).unwrap();
        store.commit(vec![write("a", Some(1))]).await.unwrap().durable().await.unwrap();
        let copy = Store::copy_of(&path).unwrap();
        copy.commit(vec![write("a", Some(2))]).await.unwrap().durable().await.unwrap();
        assert_eq!(keys(&copy).await, [("a".into(), "2".into())]);
        assert_eq!(keys(&store).await, [("a".into(), "1".into())]);
        let missing = directory.path().join("nowhere.db");
        assert!(keys(&Store::copy_of(&missing).unwrap()).await.is_empty());
        assert!(!missing.exists());
    }

    #[tokio::test]
    async fn what_builds_on_a_failed_commit_fails_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        drop(Store::open(&path).unwrap());
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON state WHEN NEW.key = 'bad' BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .unwrap();
        let store = Store::open(&path).unwrap();
        let (one, other) = (Sequence::default(), Sequence::default());
        let mut commits = Vec::new();
        for (sequence, key) in [(&one, "a"), (&one, "bad"), (&other, "b"), (&one, "c"), (&other, "d")] {
            commits.push(store.commit_in(vec![write(key, Some(1))], sequence).await.unwrap());
        }
        let mut kept = Vec::new();
        for commit in commits {
            kept.push(commit.durable().await.is_ok());
        }
        assert_eq!(kept, [true, false, true, false, true]);
        assert_eq!((one.is_broken(), other.is_broken()), (true, false));
        let late = store.commit_in(vec![write("e", Some(1))], &one).await.unwrap().durable().await;
        assert!(late.unwrap_err().to_string().ends_with(Sequence::BROKEN));
        let kept: Vec<String> = keys(&store).await.into_iter().map(|(key, _)| key).collect();
        assert_eq!(kept, ["a", "b", "d"]);
    }

    #[tokio::test]
    async fn parked_messages_outlive_the_process_until_they_are_dealt_with() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        let store = Store::open(&path).unwrap();
        let message = |payload: &'static [u8]| Parked {
            topic: "a/b".into(),
            payload: payload.into(),
            details: "{}".into(),
        };
        let numbers = store.park(vec![message(b"1"), message(b"\0\xff"), message(b"")]).await.unwrap();
        store.unpark(numbers[0]).await.unwrap();
        drop(store);
        let parked = Store::open(&path).unwrap().parked().await.unwrap();
        let parked: Vec<_> = parked.iter().map(|(number, parked)| (*number, &parked.payload[..])).collect();
        assert_eq!(parked, [(numbers[1], &b"\0\xff"[..]), (numbers[2], &b""[..])]);
    }

    #[test]
    fn a_file_of_a_newer_version_or_of_somebody_else_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.db");
        drop(Store::open(&path).unwrap());
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.pragma_update(None, "user_version", 99).unwrap();
        drop(raw);
        assert!(matches!(Store::open(&path), Err(StoreError::TooNew { found: 99, .. })));
        std::fs::write(directory.path().join("text.db"), "this is not a database, it is a text").unwrap();
        assert!(matches!(Store::open(&directory.path().join("text.db")), Err(StoreError::Open { .. })));
    }
}
