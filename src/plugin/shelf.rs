//! What was read of the plugin files before: a file that has not changed since is not read again. Opens files
//! only through the folder they lie in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    folder::{self, Folder, Obstacle, Stamp},
    source::{self, MAX_SOURCE, Source, SourceError},
};

/// How long a stamp must have been there before a reading under it counts. Two changes within one tick of the
/// file system's clock leave one stamp; the longest tick, FAT's, is two seconds.
const SETTLED: Duration = Duration::from_secs(3);
/// After this time a file is read again, whatever its stamp says: some network file systems, and programs that
/// write through memory maps, change a content and tell late or never.
const DOUBT: Duration = Duration::from_secs(600);
/// All sources together, in bytes: what a scan reads and the bridge keeps in memory.
pub(super) const MAX_TOTAL: u64 = 64 * 1024 * 1024;

/// The source of a file, or the sentence that says why it has none.
pub(super) type Reading = Result<Source, String>;

/// What was read, by file name.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    kept: BTreeMap<String, Kept>,
}

#[derive(Debug)]
struct Kept {
    stamp: Stamp,
    /// When this stamp was first seen. Our own clock: that of a file server may be wrong.
    seen: Instant,
    read: Instant,
    reading: Reading,
}

impl Shelf {
    /// The source of a file, and how many bytes are kept of it; nothing where the file is gone. At most `room` are.
    pub(super) fn take(
        &mut self,
        folder: &Folder,
        name: &str,
        room: u64,
        now: Instant,
    ) -> Option<(Reading, u64)> {
        let about = |reason: &dyn std::fmt::Display| Some((Err(format!("{name}: {reason}")), 0));
        let stamp = match folder.look_at(name) {
            Ok(stamp) => stamp,
            Err(Obstacle::Gone) => return None,
            Err(obstacle) => return about(&obstacle),
        };
        if stamp.size > MAX_SOURCE {
            return about(&SourceError::TooLarge);
        }
        let no_room = || {
            format!(
                "with it, the plugins here would have more than {} MiB of source: remove some",
                MAX_TOTAL >> 20
            )
        };
        if stamp.size > room {
            return about(&no_room());
        }
        let before = self.kept.get(name).filter(|kept| kept.stamp == stamp);
        if let Some(kept) = before.filter(|kept| kept.holds(now)) {
            return Some((kept.reading.clone(), weight(&kept.reading)));
        }
        let seen = before.map_or(now, |kept| kept.seen);
        match read(folder, name) {
            // It may have grown meanwhile, and some file systems tell no size.
            Ok((reading, _)) if weight(&reading) > room => {
                self.forget(name);
                about(&no_room())
            }
            Ok((reading, stamp)) => {
                let size = weight(&reading);
                // Who runs it holds that text already.
                let same = self.kept.get(name).map(|kept| &kept.reading).filter(|kept| **kept == reading);
                let reading = same.cloned().unwrap_or(reading);
                let kept = Kept { stamp, seen, read: now, reading: reading.clone() };
                self.kept.insert(name.to_owned(), kept);
                Some((reading, size))
            }
            Err(Obstacle::Gone) => None,
            Err(obstacle) => about(&obstacle),
        }
    }

    /// Forgets a file: it is read at the next look in any case.
    pub(super) fn forget(&mut self, name: &str) {
        self.kept.remove(name);
    }

    /// Forgets all files but these.
    pub(super) fn keep_only(&mut self, names: &BTreeSet<&str>) {
        self.kept.retain(|name, _| names.contains(name.as_str()));
    }
}

impl Kept {
    fn holds(&self, now: Instant) -> bool {
        self.read.duration_since(self.seen) >= SETTLED && now.duration_since(self.read) < DOUBT
    }
}

/// How many bytes are kept of a file.
fn weight(reading: &Reading) -> u64 {
    reading.as_ref().map_or(0, |source| source.text.len() as u64)
}

/// Reads a file, and again where somebody wrote to it meanwhile.
fn read(folder: &Folder, name: &str) -> Result<(Reading, Stamp), Obstacle> {
    /// Whoever writes more often has his half-written text shown; the next look sees the rest.
    const TRIES: usize = 3;

    let mut tries = 1;
    loop {
        let (mut file, before) = folder.open_file(name)?;
        let reading = source::read(&mut file, name);
        if tries == TRIES || folder::stamp(&file)? == before {
            return Ok((reading.map_err(|error| error.about(name)), before));
        }
        tries += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::Path,
        time::{Duration, Instant, SystemTime},
    };

    use super::{DOUBT, Folder, SETTLED, Shelf};

    /// Whether the file is read again at each of these times.
    struct Looks {
        place: tempfile::TempDir,
        shelf: Shelf,
        begun: Instant,
        looks: u64,
    }

    impl Looks {
        fn new() -> Self {
            let place = tempfile::tempdir().unwrap();
            fs::write(place.path().join("x.lua"), "x = 1").unwrap();
            Self { place, shelf: Shelf::default(), begun: Instant::now(), looks: 0 }
        }

        fn file(&self) -> std::path::PathBuf {
            self.place.path().join("x.lua")
        }

        /// The content, and whether it was read at this very look.
        fn look(&mut self, after: Duration) -> (String, bool) {
            let folder = Folder::open(self.place.path()).unwrap();
            // Each look is a little later than the one before it.
            self.looks += 1;
            let now = self.begun + after + Duration::from_nanos(self.looks);
            let (reading, _) = self.shelf.take(&folder, "x.lua", 1000, now).unwrap();
            (reading.unwrap().text.to_string(), self.shelf.kept["x.lua"].read == now)
        }
    }

    fn old(path: &Path) -> SystemTime {
        fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn an_unchanged_file_is_read_again_only_while_its_stamp_is_fresh_and_now_and_then() {
        let mut looks = Looks::new();
        let unchanged = |anew| ("x = 1".to_owned(), anew);
        assert_eq!(looks.look(Duration::ZERO), unchanged(true));
        assert_eq!(looks.look(SETTLED / 2), unchanged(true));
        assert_eq!(looks.look(SETTLED), unchanged(true));
        assert_eq!(looks.look(SETTLED), unchanged(false));
        assert_eq!(looks.look(SETTLED + DOUBT / 2), unchanged(false));
        assert_eq!(looks.look(SETTLED + DOUBT), unchanged(true));
        assert_eq!(looks.look(SETTLED + DOUBT), unchanged(false));
        // Read again, but kept once.
        let text = |looks: &Looks| looks.shelf.kept["x.lua"].reading.clone().unwrap().text;
        let before = text(&looks);
        assert_eq!(looks.look(SETTLED + DOUBT * 2), unchanged(true));
        assert!(std::sync::Arc::ptr_eq(&before, &text(&looks)));
        looks.shelf.forget("x.lua");
        assert_eq!(looks.look(SETTLED + DOUBT * 2), unchanged(true));
    }

    #[test]
    fn a_change_is_seen_whatever_its_writer_does_to_the_time_stamp() {
        let mut looks = Looks::new();
        let late = SETTLED * 2;
        looks.look(Duration::ZERO);
        looks.look(late);
        assert!(!looks.look(late).1);
        // As many bytes, and the old time stamp.
        let modified = old(&looks.file());
        fs::write(looks.file(), "x = 2").unwrap();
        fs::File::options().write(true).open(looks.file()).unwrap().set_modified(modified).unwrap();
        assert_eq!(looks.look(late).0, "x = 2");
        // Another file in its place.
        looks.look(late * 2);
        assert!(!looks.look(late * 2).1);
        let modified = old(&looks.file());
        let next = looks.place.path().join("next");
        fs::write(&next, "x = 3").unwrap();
        fs::File::options().write(true).open(&next).unwrap().set_modified(modified).unwrap();
        fs::rename(&next, looks.file()).unwrap();
        assert_eq!(looks.look(late * 2).0, "x = 3");
    }

    /// The files of /proc have 0 bytes until they are read.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_read_counts_whatever_size_was_told() {
        let folder = Folder::open(Path::new("/proc/self")).unwrap();
        let mut shelf = Shelf::default();
        let (reading, size) = shelf.take(&folder, "limits", 1 << 20, Instant::now()).unwrap();
        assert!(size > 0 && size == reading.unwrap().text.len() as u64, "{size}");
        let (reading, size) = shelf.take(&folder, "limits", size - 1, Instant::now()).unwrap();
        assert!(reading.unwrap_err().contains("more than 64 MiB of source"));
        assert_eq!((size, shelf.kept.len()), (0, 0));
    }

    #[test]
    fn what_is_too_large_is_not_opened_and_what_has_no_room_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let file = fs::File::create(place.path().join("sparse.lua")).unwrap();
        file.set_len(1 << 40).unwrap();
        fs::write(place.path().join("x.lua"), "x = 1").unwrap();
        let folder = Folder::open(place.path()).unwrap();
        let mut shelf = Shelf::default();
        let mut take = |name, room| {
            let (reading, size) = shelf.take(&folder, name, room, Instant::now()).unwrap();
            (reading.map(|source| source.text.to_string()), size)
        };
        let (reading, size) = take("sparse.lua", u64::MAX);
        assert!(reading.unwrap_err().starts_with("sparse.lua: is larger than 1 MiB"));
        assert_eq!(size, 0);
        assert_eq!(take("x.lua", 5), (Ok("x = 1".into()), 5));
        let (reading, _) = take("x.lua", 4);
        assert!(reading.unwrap_err().contains("more than 64 MiB of source"));
        assert!(shelf.take(&folder, "gone.lua", 5, Instant::now()).is_none());
    }
}
