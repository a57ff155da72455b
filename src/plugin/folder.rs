//! The plugin directory as the kernel shows it: the names in it, and the files below it. Nothing outside of it
//! is ever opened, whatever links lie there; what is no regular file is never opened at all. Knows no Lua.

use std::{
    ffi::{OsStr, OsString},
    fs::{File, Metadata},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
};

use rustix::{
    fd::OwnedFd,
    fs::{Dir, Mode, OFlags},
    io::Errno,
};

/// What a file looks like from outside. A file whose content changes gets another one, unless that happens
/// within one tick of the file system's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    /// Nobody but the clock sets this one.
    changed: (i64, i64),
    /// In bytes.
    pub(super) size: u64,
}

/// Why nothing can be read under a name.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "only there links are followed"))]
pub(super) enum Obstacle {
    /// Nothing is there, perhaps not any more.
    #[error("does not exist")]
    Gone,
    /// A link of a chain leads out of the directory, or is absolute.
    #[error(
        "is a symbolic link that leads out of the plugin directory: put the file itself here, or a relative link \
         that stays inside"
    )]
    Outside,
    /// A chain of links without an end.
    #[error("is a symbolic link that leads in a circle: put the file itself here")]
    Circle,
    /// A chain of links that ends nowhere.
    #[error("is a symbolic link to a file that does not exist: mend or remove it")]
    Dangling,
    /// A link where the system cannot keep it inside the directory (Linux before 5.6, others, old containers).
    #[error("is a symbolic link, which this system cannot follow safely: put the file itself here")]
    Link,
    /// A directory, pipe, socket or device.
    #[error("is not a regular file: move it elsewhere, or rename it so that it does not end in `.lua`")]
    NotAFile,
    /// It may not be read.
    #[error("may not be read: let the user that runs jarvis-bridge read it, as with `chmod a+r`")]
    Forbidden,
    /// Anything else.
    #[error("cannot be read: {0}")]
    Other(io::Error),
}

/// What becomes of symbolic links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    /// Those that stay inside are followed, where the kernel can see to it.
    #[cfg(target_os = "linux")]
    Inside,
    /// All are refused.
    #[cfg(any(test, not(target_os = "linux")))]
    Never,
}

/// An open plugin directory.
#[derive(Debug)]
pub(super) struct Folder {
    directory: OwnedFd,
    links: Links,
}

/// For opening without waiting: a pipe's writer, a terminal.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

impl Folder {
    /// Opens a directory, which may itself be a link.
    ///
    /// # Errors
    /// When it is none or may not be read.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())?;
        #[cfg(target_os = "linux")]
        let links = Links::Inside;
        #[cfg(not(target_os = "linux"))]
        let links = Links::Never;
        Ok(Self { directory, links })
    }

    /// The names in it, in no order.
    ///
    /// # Errors
    /// When the directory cannot be read; later ones come with the names.
    pub(super) fn names(&self) -> io::Result<impl Iterator<Item = io::Result<OsString>>> {
        let entries = Dir::read_from(&self.directory)?;
        Ok(entries.map(|entry| Ok(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned())))
    }

    /// Looks at what lies under a name without opening it: opening a device may do something.
    ///
    /// # Errors
    /// What there is instead of a regular file.
    pub(super) fn look_at(&self, name: &str) -> Result<Stamp, Obstacle> {
        #[cfg(target_os = "linux")]
        let handle = self.open_below(name, OFlags::PATH | OFlags::CLOEXEC)?;
        // Where a file cannot be looked at without being opened, at least it is not waited for.
        #[cfg(not(target_os = "linux"))]
        let handle = self.open_below(name, READ)?;
        stamp(&File::from(handle))
    }

    /// Opens the regular file under a name for reading; what it is is looked at again, since it may have changed.
    ///
    /// # Errors
    /// As for [`Folder::look_at`].
    pub(super) fn open_file(&self, name: &str) -> Result<(File, Stamp), Obstacle> {
        let file = File::from(self.open_below(name, READ)?);
        let stamp = stamp(&file)?;
        Ok((file, stamp))
    }

    fn open_below(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Obstacle> {
        match self.links {
            #[cfg(target_os = "linux")]
            Links::Inside => self.open_inside(name, flags),
            #[cfg(any(test, not(target_os = "linux")))]
            Links::Never => self.open_itself(name, flags),
        }
    }

    /// Follows links as far as they stay inside. The kernel checks each step of the way that it goes, so nobody
    /// can change a link between the check and the opening.
    #[cfg(target_os = "linux")]
    fn open_inside(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Obstacle> {
        use rustix::fs::{ResolveFlags, openat2};
        /// How often the kernel may say that something was renamed meanwhile.
        const TRIES: usize = 8;

        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut result = Err(Errno::AGAIN);
        for _ in 0..TRIES {
            result = openat2(&self.directory, name, flags, Mode::empty(), resolve);
            if !matches!(result, Err(Errno::AGAIN)) {
                break;
            }
        }
        match result {
            Ok(opened) => Ok(opened),
            Err(Errno::NOSYS | Errno::PERM) => self.open_itself(name, flags),
            Err(Errno::XDEV) => Err(Obstacle::Outside),
            Err(Errno::LOOP) => Err(Obstacle::Circle),
            Err(Errno::NOENT | Errno::NOTDIR) if self.is_link(name) => Err(Obstacle::Dangling),
            Err(error) => Err(Obstacle::of(error)),
        }
    }

    /// Follows no link.
    fn open_itself(&self, name: &str, flags: OFlags) -> Result<OwnedFd, Obstacle> {
        let opened = rustix::fs::openat(&self.directory, name, flags | OFlags::NOFOLLOW, Mode::empty());
        match opened.map(File::from) {
            // The handle of `look_at` may be one of the link itself.
            Ok(file) if file.metadata().is_ok_and(|metadata| metadata.is_symlink()) => Err(Obstacle::Link),
            Ok(file) => Ok(file.into()),
            Err(Errno::LOOP | Errno::MLINK) => Err(Obstacle::Link),
            Err(error) => Err(Obstacle::of(error)),
        }
    }

    #[cfg(target_os = "linux")]
    fn is_link(&self, name: &str) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.directory, name, flags, Mode::empty());
        let metadata = opened.ok().and_then(|opened| File::from(opened).metadata().ok());
        metadata.is_some_and(|metadata| metadata.is_symlink())
    }
}

impl Obstacle {
    fn of(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Gone,
            // A socket cannot be opened at all, nor a device without its driver.
            Errno::NXIO | Errno::NODEV | Errno::OPNOTSUPP => Self::NotAFile,
            Errno::ACCESS => Self::Forbidden,
            error => Self::Other(error.into()),
        }
    }
}

/// The stamp of an open file. Whoever reads it compares the stamps before and after.
///
/// # Errors
/// When it is no regular file.
pub(super) fn stamp(file: &File) -> Result<Stamp, Obstacle> {
    let metadata = file.metadata().map_err(Obstacle::Other)?;
    if metadata.is_file() { Ok(Stamp::of(&metadata)) } else { Err(Obstacle::NotAFile) }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        os::unix::{fs::symlink, net::UnixListener},
        path::Path,
        sync::atomic::{AtomicBool, Ordering},
    };

    use rustix::fs::{CWD, FileType, Mode};

    use super::{Folder, Links, Obstacle};

    /// What is read under a name.
    fn content(folder: &Folder, name: &str) -> Result<String, Obstacle> {
        folder.look_at(name)?;
        let mut text = String::new();
        folder.open_file(name)?.0.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    fn pipe(path: &Path) {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    #[track_caller]
    fn refused(folder: &Folder, name: &str, expect: &str) {
        let looked = folder.look_at(name).unwrap_err().to_string();
        let opened = folder.open_file(name).unwrap_err().to_string();
        assert!(looked.starts_with(expect), "{name}: {looked}");
        assert!(opened.starts_with(expect), "{name}: {opened}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn links_are_followed_as_far_as_they_stay_inside() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("plugins"), place.path().join("outside.lua"));
        fs::create_dir_all(root.join("..2026_11_25")).unwrap();
        fs::create_dir(root.join("sub")).unwrap();
        fs::write(&outside, "secret").unwrap();
        fs::write(root.join("..2026_11_25/x.lua"), "inside").unwrap();
        let link = |to: &str, name: &str| symlink(to, root.join(name)).unwrap();
        // As Kubernetes mounts a ConfigMap.
        link("..2026_11_25", "..data");
        link("..data/x.lua", "x.lua");
        link("sub/../x.lua", "around.lua");
        link("../outside.lua", "out.lua");
        link("sub/../../outside.lua", "far.lua");
        link("../plugins/x.lua", "back.lua");
        link("/dev/zero", "zero.lua");
        link("/proc/self/fd/0", "magic.lua");
        link("circle.lua", "circle.lua");
        link("b.lua", "a.lua");
        link("a.lua", "b.lua");
        link("nowhere.lua", "dangling.lua");
        link("x.lua/y", "through.lua");
        link("sub", "directory.lua");
        // The directory may be a link itself.
        symlink(&root, place.path().join("linked")).unwrap();
        let folder = Folder::open(&place.path().join("linked")).unwrap();
        assert_eq!(content(&folder, "x.lua").unwrap(), "inside");
        assert_eq!(content(&folder, "around.lua").unwrap(), "inside");
        for name in ["out.lua", "far.lua", "back.lua", "zero.lua", "magic.lua"] {
            refused(&folder, name, "is a symbolic link that leads out of the plugin directory");
        }
        for name in ["circle.lua", "a.lua"] {
            refused(&folder, name, "is a symbolic link that leads in a circle");
        }
        for name in ["dangling.lua", "through.lua"] {
            refused(&folder, name, "is a symbolic link to a file that does not exist");
        }
        refused(&folder, "directory.lua", "is not a regular file");
        refused(&folder, "gone.lua", "does not exist");
    }

    #[test]
    fn where_the_kernel_cannot_keep_links_inside_none_is_followed() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("x.lua"), "inside").unwrap();
        symlink("x.lua", place.path().join("link.lua")).unwrap();
        let folder = Folder { links: Links::Never, ..Folder::open(place.path()).unwrap() };
        assert_eq!(content(&folder, "x.lua").unwrap(), "inside");
        refused(&folder, "link.lua", "is a symbolic link, which this system cannot follow safely");
        refused(&folder, "gone.lua", "does not exist");
    }

    /// Takes the call that keeps links inside from this thread, as an old kernel or an old container does.
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn take_away_openat2(error: rustix::io::Errno) {
        use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
        const OPENAT2: i64 = 437;
        let refuse = SeccompAction::Errno(error.raw_os_error().unsigned_abs());
        let rules = [(OPENAT2, Vec::new())].into_iter().collect();
        let processor = std::env::consts::ARCH.try_into().unwrap();
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, processor).unwrap();
        seccompiler::apply_filter(&BpfProgram::try_from(filter).unwrap()).unwrap();
    }

    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    #[test]
    fn an_old_kernel_or_container_follows_no_link_and_reads_the_rest() {
        for error in [rustix::io::Errno::NOSYS, rustix::io::Errno::PERM] {
            let tried = std::thread::spawn(move || {
                let place = tempfile::tempdir().unwrap();
                fs::write(place.path().join("x.lua"), "inside").unwrap();
                symlink("x.lua", place.path().join("link.lua")).unwrap();
                let folder = Folder::open(place.path()).unwrap();
                assert_eq!(content(&folder, "link.lua").unwrap(), "inside");
                take_away_openat2(error);
                assert_eq!(content(&folder, "x.lua").unwrap(), "inside");
                refused(&folder, "link.lua", "is a symbolic link, which this system cannot follow safely");
            });
            tried.join().unwrap();
        }
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::create_dir(path("directory.lua")).unwrap();
        let _socket = UnixListener::bind(path("socket.lua")).unwrap();
        pipe(&path("pipe.lua"));
        let folder = Folder::open(place.path()).unwrap();
        for name in ["directory.lua", "socket.lua", "pipe.lua"] {
            refused(&folder, name, "is not a regular file");
        }
        let devices = Folder::open("/dev".as_ref()).unwrap();
        refused(&devices, "zero", "is not a regular file");
        assert!(Folder::open(&path("pipe.lua")).is_err());
    }

    /// Root may read everything, so there the sentence itself is looked at.
    #[test]
    fn what_may_not_be_read_says_so() {
        let message = Obstacle::of(rustix::io::Errno::ACCESS).to_string();
        assert!(message.contains("let the user that runs jarvis-bridge read it"), "{message}");
    }

    /// Somebody turns a link round between inside and outside while it is opened, thousands of times.
    #[cfg(target_os = "linux")]
    #[test]
    fn no_race_lets_anything_out() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("plugins");
        fs::create_dir(&root).unwrap();
        fs::write(place.path().join("outside.lua"), "secret").unwrap();
        fs::write(root.join("inside.txt"), "inside").unwrap();
        symlink("inside.txt", root.join("x.lua")).unwrap();
        let folder = Folder::open(&root).unwrap();
        struct Done<'flag>(&'flag AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Also where an assertion fails, or the other thread would go on for ever.
            let _end = Done(&done);
            scope.spawn(|| {
                for target in ["../outside.lua", "inside.txt"].iter().cycle() {
                    let _ = fs::remove_file(root.join("next"));
                    symlink(target, root.join("next")).unwrap();
                    fs::rename(root.join("next"), root.join("x.lua")).unwrap();
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let (mut inside, mut refused) = (0, 0);
            for _ in 0..20_000 {
                match content(&folder, "x.lua") {
                    Ok(text) => {
                        assert_eq!(text, "inside");
                        inside += 1;
                    }
                    Err(Obstacle::Outside) => refused += 1,
                    Err(other) => assert!(matches!(other, Obstacle::Other(_)), "{other}"),
                }
                if inside > 500 && refused > 500 {
                    break;
                }
            }
            assert!(inside > 0 && refused > 0, "{inside} inside, {refused} refused");
        });
    }
}
