//! How the file is laid out, and how an older one becomes a newer one.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::StoreError;

/// Each entry takes the schema one version further; the file's `user_version` counts them.
const MIGRATIONS: [&str; 2] = [
    "
    CREATE TABLE note (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE state (plugin TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
                        PRIMARY KEY (plugin, key)) WITHOUT ROWID;
    CREATE TABLE config (plugin TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
                         PRIMARY KEY (plugin, key)) WITHOUT ROWID;
",
    "
    CREATE TABLE parked (number INTEGER PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL,
                         details TEXT NOT NULL);
",
];

pub(super) fn open(path: &Path) -> Result<Connection, StoreError> {
    let mut connection = Connection::open(path).map_err(|error| failed(path, &error))?;
    // WAL with `synchronous = NORMAL` survives a kill of every process; only a power cut can take the last
    // commits with it.
    connection
        .pragma_update(None, "journal_mode", "WAL")
        .and_then(|()| connection.pragma_update(None, "synchronous", "NORMAL"))
        .and_then(|()| connection.busy_timeout(std::time::Duration::from_secs(5)))
        .map_err(|error| failed(path, &error))?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

pub(super) fn open_memory() -> Result<Connection, StoreError> {
    let path = Path::new(":memory:");
    let mut connection = Connection::open_in_memory().map_err(|error| failed(path, &error))?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

pub(super) fn open_copy(path: &Path) -> Result<Connection, StoreError> {
    let connection = open_memory()?;
    if !path.exists() {
        return Ok(connection);
    }
    let source = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(|error| failed(path, &error))?;
    let known = version(&source).map_err(|error| failed(path, &error))?;
    check_version(known, path)?;
    copy_rows(&source, &connection).map_err(|error| failed(path, &error))?;
    Ok(connection)
}

fn copy_rows(source: &Connection, target: &Connection) -> rusqlite::Result<()> {
    for table in ["state", "config"] {
        let mut rows = source.prepare(&format!("SELECT plugin, key, value FROM {table}"))?;
        let mut insert = target.prepare(&format!("INSERT INTO {table} VALUES (?, ?, ?)"))?;
        let mut rows = rows.query(())?;
        while let Some(row) = rows.next()? {
            insert.execute((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))?;
        }
    }
    Ok(())
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = version(connection).map_err(|error| failed(path, &error))?;
    check_version(found, path)?;
    let apply = |connection: &mut Connection| -> rusqlite::Result<()> {
        for (version, migration) in (1_i64..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
            let transaction = connection.transaction()?;
            transaction.execute_batch(migration)?;
            transaction.pragma_update(None, "user_version", version)?;
            transaction.commit()?;
        }
        Ok(())
    };
    apply(connection).map_err(|error| failed(path, &error))
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn check_version(found: i64, path: &Path) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found <= known {
        return Ok(());
    }
    Err(StoreError::TooNew { path: path.display().to_string(), found, known })
}

fn failed(path: &Path, error: &rusqlite::Error) -> StoreError {
    StoreError::Open { path: path.display().to_string(), reason: error.to_string() }
}
