//! Reads a plugin's file, whatever lies there under its name. Knows nothing of what the text means.

use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags};

/// The longest source in bytes.
pub const MAX_SOURCE: u64 = 1024 * 1024;
/// What Lua's bytecode begins with; a crafted one crashes the interpreter.
const BYTECODE: u8 = 0x1b;

/// A plugin's source as Lua can take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The file below the plugin directory, for error texts, as in `weather.lua`.
    pub file_name: String,
    /// The text without a byte-order mark; a first line that begins with `#` is empty.
    pub text: String,
    /// Tells one content from another while this process runs; no two versions of Rust need agree on it.
    pub hash: u64,
}

/// Why a file is no source.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be opened or read; perhaps it is gone.
    #[error("{file}: cannot be read: {error}")]
    Unreadable {
        /// Which file.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// A symbolic link, which could lead anywhere.
    #[error("{file}: is a symbolic link: put the file itself here")]
    Link {
        /// Which file.
        file: String,
    },
    /// A directory, pipe, socket or device.
    #[error("{file}: is not a regular file")]
    NotAFile {
        /// Which file.
        file: String,
    },
    /// Longer than [`MAX_SOURCE`].
    #[error("{file}: is larger than 1 MiB, the most a plugin may have")]
    TooLarge {
        /// Which file.
        file: String,
    },
    /// Not text.
    #[error("{file}:{line}: is not UTF-8 from byte {offset} on: save the file as UTF-8")]
    NotUtf8 {
        /// Which file.
        file: String,
        /// The first bad byte, counted from 0.
        offset: usize,
        /// Its line, counted from 1.
        line: usize,
    },
    /// Compiled Lua.
    #[error("{file}: is Lua bytecode: put the source here")]
    Bytecode {
        /// Which file.
        file: String,
    },
}

/// Reads the source at `path`, which lies below `root`. Never waits for a pipe and never follows a link.
///
/// # Errors
/// When it is not a regular file of at most 1 MiB of UTF-8 text, or cannot be read.
pub fn read(path: &Path, root: &Path) -> Result<Source, SourceError> {
    let file = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    let bytes = read_bytes(path, &file)?;
    // Before the question whether it is text: bytecode never is, and that answer would not help.
    if is_bytecode(&bytes) {
        return Err(SourceError::Bytecode { file });
    }
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let text = String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let before = error.as_bytes().iter().take(offset);
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        SourceError::NotUtf8 { file: file.clone(), offset, line }
    });
    Ok(Source { file_name: file, text: without_shebang(text?), hash: hasher.finish() })
}

fn read_bytes(path: &Path, file: &str) -> Result<Vec<u8>, SourceError> {
    let unreadable = |error| SourceError::Unreadable { file: file.to_owned(), error };
    // Without `NONBLOCK` the opening of a pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(descriptor) => File::from(descriptor),
        Err(rustix::io::Errno::LOOP) => return Err(SourceError::Link { file: file.to_owned() }),
        // A socket cannot be opened at all.
        Err(rustix::io::Errno::NXIO) => return Err(SourceError::NotAFile { file: file.to_owned() }),
        Err(error) => return Err(unreadable(error.into())),
    };
    let metadata = opened.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(SourceError::NotAFile { file: file.to_owned() });
    }
    let too_large = || SourceError::TooLarge { file: file.to_owned() };
    if metadata.len() > MAX_SOURCE {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    opened.take(MAX_SOURCE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_SOURCE {
        return Err(too_large());
    }
    Ok(bytes)
}

/// Looks where Lua looks: at the beginning, or behind a first line that begins with `#`.
fn is_bytecode(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let first = if bytes.starts_with(b"#") { bytes.split(|byte| *byte == b'\n').nth(1) } else { Some(bytes) };
    first.is_some_and(|line| line.first() == Some(&BYTECODE))
}

/// Drops a byte-order mark and empties a first line such as `#!/usr/bin/lua`, whose line break stays.
fn without_shebang(text: String) -> String {
    let marked = text.strip_prefix('\u{feff}').unwrap_or(&text);
    if marked.starts_with('#') {
        return marked.find('\n').map_or_else(String::new, |end| marked[end..].to_owned());
    }
    if marked.len() < text.len() { marked.to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::net::UnixListener};

    use super::{MAX_SOURCE, Source, SourceError, read};

    fn read_content(content: &[u8]) -> Result<Source, SourceError> {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("x.lua"), content).unwrap();
        read(&root.path().join("x.lua"), root.path())
    }

    #[test]
    fn text_is_read_as_lua_takes_it() {
        let check = |content: &str, expect: &str| {
            let source = read_content(content.as_bytes()).unwrap();
            assert_eq!((source.text.as_str(), source.file_name.as_str()), (expect, "x.lua"));
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
            assert_eq!(read_content(content).unwrap_err().to_string(), expect);
        };
        check(b"-- @id a\n-- caf\xe9\n", "x.lua:2: is not UTF-8 from byte 15 on: save the file as UTF-8");
        check(b"\x1bLua\x54\0\x19\x93\r\n\x1a\n", "x.lua: is Lua bytecode: put the source here");
        check(b"\xef\xbb\xbf\x1bLua", "x.lua: is Lua bytecode: put the source here");
        check(b"#!/usr/bin/lua\n\x1bLua", "x.lua: is Lua bytecode: put the source here");
        check(&[b' '; MAX_SOURCE as usize + 1], "x.lua: is larger than 1 MiB, the most a plugin may have");
        assert_eq!(read_content(&[b' '; MAX_SOURCE as usize]).unwrap().text.len() as u64, MAX_SOURCE);
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir(path("directory.lua")).unwrap();
        let _socket = UnixListener::bind(path("socket.lua")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path("pipe.lua"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        std::os::unix::fs::symlink("/dev/zero", path("link.lua")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("dangling.lua")).unwrap();
        let check = |name: &str, expect: &str| {
            let message = read(&path(name), root.path()).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{name}: {expect}")), "{message}");
        };
        check("directory.lua", "is not a regular file");
        check("socket.lua", "is not a regular file");
        check("pipe.lua", "is not a regular file");
        check("link.lua", "is a symbolic link");
        check("dangling.lua", "is a symbolic link");
        check("gone.lua", "cannot be read: No such file");
        assert!(matches!(
            read("/dev/zero".as_ref(), "/dev".as_ref()).unwrap_err(),
            SourceError::NotAFile { file } if file == "zero"
        ));
    }
}
