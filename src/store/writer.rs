//! The one thread that touches the file.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

use super::{Kept, Parked, Sequence, Space, Write};
use crate::model::PluginId;

/// Commits taken together at most; more than the bridge has in flight at once.
const GROUP: usize = 256;

pub(super) type Reply<T> = oneshot::Sender<Result<T, String>>;

pub(super) enum Job {
    Commit(Changes),
    Kept { plugin: PluginId, done: Reply<Kept> },
    Note { key: &'static str, done: Reply<Option<String>> },
    KeepNote { key: &'static str, value: String, done: Reply<()> },
    Park { messages: Vec<Parked>, done: Reply<Vec<i64>> },
    Unpark { number: i64 },
    Flush { done: oneshot::Sender<()> },
    Parked { done: Reply<Vec<(i64, Parked)>> },
}

/// What one commit writes.
pub(super) struct Changes {
    pub(super) writes: Vec<Write>,
    pub(super) sequence: Sequence,
    pub(super) done: Reply<()>,
}

/// Starts the thread; it ends when every handle of the store is gone.
pub(super) fn start(connection: Connection, queue: mpsc::Receiver<Job>) {
    let thread = std::thread::Builder::new().name("store".into()).stack_size(512 * 1024);
    // Where no thread can be had the queue is dropped with the closure, and every call says `Closed`.
    if let Err(error) = thread.spawn(move || run(connection, queue)) {
        tracing::error!(%error, "the state writer could not start");
    }
}

fn run(mut connection: Connection, mut queue: mpsc::Receiver<Job>) {
    let mut group = Vec::new();
    let mut next = None;
    while let Some(job) = next.take().or_else(|| queue.blocking_recv()) {
        let Job::Commit(changes) = job else {
            answer(&mut connection, job);
            continue;
        };
        group.push(changes);
        while group.len() < GROUP {
            match queue.try_recv() {
                Ok(Job::Commit(changes)) => group.push(changes),
                Ok(other) => {
                    next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        commit_group(&mut connection, &mut group);
    }
}

/// One transaction for all; where that fails, one for each, so that only the culprit fails, and with it what builds
/// on it.
fn commit_group(connection: &mut Connection, group: &mut Vec<Changes>) {
    let whole = |changes: &Changes| !changes.sequence.is_broken();
    let together = apply(connection, group.iter().filter(|changes| whole(changes)).flat_map(|c| &c.writes));
    let alone = group.len() == 1;
    for changes in group.drain(..) {
        let result = match &together {
            _ if changes.sequence.is_broken() => Err(Sequence::BROKEN.to_owned()),
            Ok(()) => Ok(()),
            Err(error) if alone => Err(error.to_string()),
            Err(_) => apply(connection, changes.writes.iter()).map_err(|error| error.to_string()),
        };
        if result.is_err() {
            changes.sequence.break_off();
        }
        // A caller that is gone does not want to know.
        let _ = changes.done.send(result);
    }
}

fn apply<'a>(connection: &mut Connection, writes: impl Iterator<Item = &'a Write>) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for write in writes {
        let (put, delete) = match write.space {
            Space::State => (
                "INSERT OR REPLACE INTO state VALUES (?, ?, ?)",
                "DELETE FROM state WHERE plugin = ? AND key = ?",
            ),
            Space::Config => (
                "INSERT OR REPLACE INTO config VALUES (?, ?, ?)",
                "DELETE FROM config WHERE plugin = ? AND key = ?",
            ),
        };
        match &write.value {
            Some(value) => transaction.prepare_cached(put)?.execute(params![
                write.plugin.as_str(),
                write.key,
                value.get()
            ])?,
            None => transaction.prepare_cached(delete)?.execute(params![write.plugin.as_str(), write.key])?,
        };
    }
    transaction.commit()
}

/// Reads, and notes of the bridge's own. An answer nobody waits for any more is dropped.
fn answer(connection: &mut Connection, job: Job) {
    match job {
        Job::Commit(_) => {}
        Job::Kept { plugin, done } => {
            let _ = done.send(kept(connection, &plugin));
        }
        Job::Note { key, done } => {
            let note = connection
                .query_row("SELECT value FROM note WHERE key = ?", [key], |row| row.get(0))
                .optional()
                .map_err(|error| error.to_string());
            let _ = done.send(note);
        }
        Job::KeepNote { key, value, done } => {
            let kept = connection
                .execute("INSERT OR REPLACE INTO note VALUES (?, ?)", params![key, value])
                .map(|_| ())
                .map_err(|error| error.to_string());
            let _ = done.send(kept);
        }
        Job::Park { messages, done } => {
            let _ = done.send(park(connection, &messages).map_err(|error| error.to_string()));
        }
        Job::Unpark { number } => {
            if let Err(error) = connection.execute("DELETE FROM parked WHERE number = ?", [number]) {
                tracing::warn!(%error, "a message that was dealt with stays parked: it comes again at the next start");
            }
        }
        Job::Flush { done } => {
            let _ = done.send(());
        }
        Job::Parked { done } => {
            let _ = done.send(parked(connection).map_err(|error| error.to_string()));
        }
    }
}

fn park(connection: &mut Connection, messages: &[Parked]) -> rusqlite::Result<Vec<i64>> {
    let transaction = connection.transaction()?;
    let mut numbers = Vec::with_capacity(messages.len());
    for Parked { topic, payload, details } in messages {
        let mut insert =
            transaction.prepare_cached("INSERT INTO parked (topic, payload, details) VALUES (?, ?, ?)")?;
        numbers.push(insert.insert(params![topic, &payload[..], details])?);
    }
    transaction.commit()?;
    Ok(numbers)
}

/// Row by row: one that cannot be read keeps no other from being done.
fn parked(connection: &Connection) -> rusqlite::Result<Vec<(i64, Parked)>> {
    let mut statement =
        connection.prepare("SELECT number, topic, payload, details FROM parked ORDER BY number")?;
    let mut rows = statement.query(())?;
    let (mut parked, mut unreadable) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let read = || -> rusqlite::Result<Parked> {
            let payload: Vec<u8> = row.get(2)?;
            Ok(Parked { topic: row.get(1)?, payload: payload.into(), details: row.get(3)? })
        };
        match read() {
            Ok(message) => parked.push((number, message)),
            Err(error) => {
                tracing::error!(number, %error, "a parked message cannot be read: it is dropped");
                unreadable.push(number);
            }
        }
    }
    for number in unreadable {
        connection.execute("DELETE FROM parked WHERE number = ?", [number])?;
    }
    Ok(parked)
}

fn kept(connection: &Connection, plugin: &PluginId) -> Result<Kept, String> {
    let read = |query: &str| -> Result<_, String> {
        let mut statement = connection.prepare_cached(query).map_err(|error| error.to_string())?;
        let rows = statement
            .query_map([plugin.as_str()], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))
            .map_err(|error| error.to_string())?;
        rows.map(|row| {
            let (key, value) = row.map_err(|error| error.to_string())?;
            let value = RawValue::from_string(value).map_err(|error| format!("`{key}`: {error}"))?;
            Ok((key, value))
        })
        .collect()
    };
    Ok(Kept {
        state: read("SELECT key, value FROM state WHERE plugin = ?")?,
        config: read("SELECT key, value FROM config WHERE plugin = ?")?,
    })
}
