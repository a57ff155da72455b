//! A plugin directory as its owner fills it.

use std::path::Path;

/// A whole plugin file: a header with this id, more header lines where `code` begins with some, and the code.
pub(crate) fn plugin_source(id: &str, code: &str) -> String {
    format!(
        "-- @id {id}\n-- @name The plugin {id}\n-- @version 1.0.0\n-- @author Somebody\n-- @description Is tried\n{}",
        code.trim_start()
    )
}

/// Writes a file as an editor that writes in place.
pub(super) fn write(directory: &Path, file: &str, text: &str) {
    std::fs::write(directory.join(file), text).unwrap();
}
