//! Whether the bridge finds its plugins and may write its data. Makes nothing.

use std::{fs, io, path::Path};

use rustix::{
    fs::{Access, access},
    io::Errno,
};

use super::report::Report;
use crate::{app, config::Config};

const PLUGINS: &str = "plugins";
const DATA: &str = "data";

pub(super) fn check(config: &Config, report: &mut Report) {
    plugins(&config.paths.plugins, report);
    data(&config.paths.data, report);
}

fn plugins(directory: &Path, report: &mut Report) {
    let shown = directory.display();
    match count(directory) {
        Ok(files) => report.ok(PLUGINS, format!("{shown} can be read and has {files} `.lua` files")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => report.warn(
            PLUGINS,
            format!("{shown} does not exist, so there are no plugins"),
            "make it, or name another with --plugins or paths.plugins",
        ),
        Err(error) => report.fail(
            PLUGINS,
            format!("{shown} cannot be read: {error}"),
            "let the bridge's user read it, or name another with --plugins or paths.plugins",
        ),
    }
}

fn count(directory: &Path) -> io::Result<usize> {
    let mut files = 0;
    for entry in fs::read_dir(directory)? {
        files += usize::from(entry?.path().extension().is_some_and(|extension| extension == "lua"));
    }
    Ok(files)
}

fn data(directory: &Path, report: &mut Report) {
    let shown = directory.display();
    let there = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(directory);
    // Asked first: a file is no place for another, whoever may write to it.
    if there.exists() && !there.is_dir() {
        return report.fail(
            DATA,
            format!("{shown} cannot be a directory: {} is a file", there.display()),
            "name another with --data-dir or paths.data",
        );
    }
    if let Err(error) = access(there, Access::WRITE_OK | Access::EXEC_OK) {
        return report.fail(
            DATA,
            format!("{shown} cannot be written to: {}: {error}", there.display()),
            "let the bridge's user write there, or name another with --data-dir or paths.data",
        );
    }
    if there != directory {
        return report.ok(DATA, format!("{shown} will be made at the first start"));
    }
    match app::data_files(directory).iter().find_map(|file| Some((file, unusable(file)?))) {
        None => report.ok(DATA, format!("{shown} can be written to")),
        Some((file, error)) => report.fail(
            DATA,
            format!("{} cannot be read and written: {error}", file.display()),
            format!("give what is in there to the bridge's user, as with `chown -R <user> {shown}`: another has made it"),
        ),
    }
}

/// Why a file cannot be read and written; nothing where it can, or is not there yet.
fn unusable(file: &Path) -> Option<Errno> {
    match access(file, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) | Err(Errno::NOENT) => None,
        Err(error) => Some(error),
    }
}
