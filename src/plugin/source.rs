//! Turns a plugin file's bytes into source, or says why they are none. Knows nothing of what the text means.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    sync::Arc,
};

/// The longest source in bytes.
pub(super) const MAX_SOURCE: u64 = 1024 * 1024;
/// What Lua's bytecode begins with; a crafted one crashes the interpreter.
const BYTECODE: u8 = 0x1b;

/// A plugin's source as Lua can take it. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    /// The file below the plugin directory, for error texts, as in `weather.lua`.
    pub(super) file_name: String,
    /// The text without a byte-order mark; a first line that begins with `#` is empty.
    pub(super) text: Arc<str>,
    /// Tells one content from another while this process runs; no two versions of Rust need agree on it.
    pub(super) hash: u64,
}

/// Why a file's content is no source.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    /// Reading failed half-way.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// Longer than [`MAX_SOURCE`].
    #[error("is larger than 1 MiB, the most a plugin may have: put data elsewhere, or split the plugin")]
    TooLarge,
    /// Not text.
    #[error("is not UTF-8 from byte {offset} on: save the file as UTF-8")]
    NotUtf8 {
        /// The first bad byte, counted from 0.
        offset: usize,
        /// Its line, counted from 1.
        line: usize,
    },
    /// A NUL byte, which no text has but UTF-16 read as something else.
    #[error("has a NUL byte, a control character that no text has: save the file as UTF-8, not UTF-16")]
    Nul {
        /// Its line, counted from 1.
        line: usize,
    },
    /// Compiled Lua.
    #[error("is Lua bytecode: put the source here")]
    Bytecode,
}

impl SourceError {
    /// The sentence about a file, with the line where one is known.
    pub(super) fn about(&self, file: &str) -> String {
        match self {
            Self::NotUtf8 { line, .. } | Self::Nul { line } => format!("{file}:{line}: {self}"),
            Self::Unreadable(_) | Self::TooLarge | Self::Bytecode => format!("{file}: {self}"),
        }
    }
}

/// Reads the source from an open file, however much longer it has become since it was looked at.
///
/// # Errors
/// When it is not at most 1 MiB of UTF-8 text, or cannot be read.
pub(super) fn read(file: &mut File, file_name: &str) -> Result<Source, SourceError> {
    let mut bytes = Vec::new();
    file.take(MAX_SOURCE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SOURCE {
        return Err(SourceError::TooLarge);
    }
    parse(bytes, file_name)
}

fn parse(bytes: Vec<u8>, file_name: &str) -> Result<Source, SourceError> {
    // Before the question whether it is text: bytecode never is, and that answer would not help.
    if is_bytecode(&bytes) {
        return Err(SourceError::Bytecode);
    }
    let line_of = |bytes: &[u8], offset| 1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        SourceError::NotUtf8 { offset, line: line_of(error.as_bytes(), offset) }
    })?;
    if let Some(offset) = text.find('\0') {
        return Err(SourceError::Nul { line: line_of(text.as_bytes(), offset) });
    }
    Ok(Source { file_name: file_name.to_owned(), text: without_shebang(&text).into(), hash: hasher.finish() })
}

/// Looks where Lua looks: at the beginning, or behind a first line that begins with `#`.
fn is_bytecode(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let first = if bytes.starts_with(b"#") { bytes.split(|byte| *byte == b'\n').nth(1) } else { Some(bytes) };
    first.is_some_and(|line| line.first() == Some(&BYTECODE))
}

/// Drops a byte-order mark and empties a first line such as `#!/usr/bin/lua`, whose line break stays.
fn without_shebang(text: &str) -> &str {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.starts_with('#') {
        return text;
    }
    text.find('\n').map_or("", |end| &text[end..])
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::{MAX_SOURCE, Source, SourceError, read};

    fn read_content(content: &[u8]) -> Result<Source, SourceError> {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("x.lua"), content).unwrap();
        read(&mut fs::File::open(root.path().join("x.lua")).unwrap(), "x.lua")
    }

    #[test]
    fn text_is_read_as_lua_takes_it() {
        let check = |content: &str, expect: &str| {
            let source = read_content(content.as_bytes()).unwrap();
            assert_eq!((&*source.text, source.file_name.as_str()), (expect, "x.lua"));
        };
        check("", "");
        check("-- @id a\r\nx = 1\r\n", "-- @id a\r\nx = 1\r\n");
        check("\u{feff}-- @id a\n", "-- @id a\n");
        check("#!/usr/bin/lua\n-- @id a\n", "\n-- @id a\n");
        check("\u{feff}#!/usr/bin/lua\n-- @id a\n", "\n-- @id a\n");
        check("#!/usr/bin/lua", "");
        check("x = #t", "x = #t");
    }

    #[test]
    fn the_hash_tells_contents_apart() {
        let hash = |content: &[u8]| read_content(content).unwrap().hash;
        assert_eq!(hash(b"x = 1"), hash(b"x = 1"));
        assert_ne!(hash(b"x = 1"), hash(b"x = 2"));
        assert_ne!(hash(b"#a\n"), hash(b"#b\n"));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        let check = |content: &[u8], expect: &str| {
            assert_eq!(read_content(content).unwrap_err().about("x.lua"), expect);
        };
        check(b"-- @id a\n-- caf\xe9\n", "x.lua:2: is not UTF-8 from byte 15 on: save the file as UTF-8");
        check(
            b"-\0-\0 \0",
            "x.lua:1: has a NUL byte, a control character that no text has: save the file as UTF-8, not UTF-16",
        );
        check(
            b"x = 1\ny = 'a\0b'",
            "x.lua:2: has a NUL byte, a control character that no text has: save the file as UTF-8, not UTF-16",
        );
        check(b"\x1bLua\x54\0\x19\x93\r\n\x1a\n", "x.lua: is Lua bytecode: put the source here");
        check(b"\xef\xbb\xbf\x1bLua", "x.lua: is Lua bytecode: put the source here");
        check(b"#!/usr/bin/lua\n\x1bLua", "x.lua: is Lua bytecode: put the source here");
        let long = read_content(&[b' '; MAX_SOURCE as usize + 1]).unwrap_err().to_string();
        assert!(long.starts_with("is larger than 1 MiB"), "{long}");
        assert_eq!(read_content(&[b' '; MAX_SOURCE as usize]).unwrap().text.len() as u64, MAX_SOURCE);
    }

    #[test]
    fn a_file_that_never_ends_is_read_no_further_than_the_bound() {
        assert!(matches!(
            read(&mut fs::File::open("/dev/zero").unwrap(), "zero"),
            Err(SourceError::TooLarge)
        ));
        let mut grown = tempfile::tempfile().unwrap();
        grown.write_all(b"x").unwrap();
        // Sparse: a terabyte that takes no room on the disk.
        grown.set_len(1 << 40).unwrap();
        assert!(matches!(read(&mut grown, "sparse"), Err(SourceError::TooLarge)));
    }
}
