//! A second copy of what the ports' file holds, from which it is rebuilt when it is damaged: one plain file an object
//! in `ports.d` of the run directory, so that damage to one costs no other.
//!
//! A file is written beside and renamed, after the commit and before the change is acknowledged: what was acknowledged
//! is in both. It is good for one boot, like the file it stands in for. A copy that cannot be written fails nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::object::{Object, load};
use super::{make_dir, object_sum};
use crate::control::state::State;

/// First word of every copy; another one is another format.
const MAGIC: &str = "weft-object-1";
/// While it is being written.
const UNFINISHED: &str = ".new";

/// The directory of copies.
#[derive(Debug)]
pub(super) struct Copies {
    dir: PathBuf,
    boot_id: String,
    /// Some copy could not be written: all are compared at the next occasion.
    behind: AtomicBool,
}

/// What the copies told.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    /// Objects found.
    pub(super) objects: usize,
    /// Files that are of no use.
    pub(super) unreadable: Vec<String>,
}

impl Copies {
    pub(super) fn new(dir: PathBuf, boot_id: &str) -> Self {
        Copies { dir, boot_id: boot_id.to_owned(), behind: AtomicBool::new(false) }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts what the copies of this boot hold into `state`.
    pub(super) fn load(&self, state: &mut State) -> Rebuilt {
        let mut rebuilt = Rebuilt::default();
        for (name, path) in self.files() {
            let read = fs::read(&path).map_err(|error| error.to_string());
            let put = read.and_then(|bytes| {
                let Some((key, value)) = self.parse(&bytes)? else { return Ok(false) };
                load(state, key, value).map(|()| true)
            });
            match put {
                Ok(of_this_boot) => rebuilt.objects += usize::from(of_this_boot),
                Err(why) => rebuilt.unreadable.push(format!("{name} ({why})")),
            }
        }
        rebuilt
    }

    /// Makes the directory hold `all` and nothing else.
    pub(super) fn make_equal(&self, all: &[Object]) {
        let mut wanted: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for object in all {
            if let Some(value) = &object.value {
                wanted.insert(file_name(&object.key), self.content(&object.key, value));
            }
        }
        self.note(self.replace_all(&wanted));
    }

    /// Carries changes out that are committed; `all` tells everything, should it be needed.
    pub(super) fn follow(&self, changes: &[&Object], all: impl FnOnce() -> Vec<Object>) {
        // Relaxed: only the engine's thread writes.
        if self.behind.load(Ordering::Relaxed) {
            return self.make_equal(&all());
        }
        let done = changes.iter().try_for_each(|change| {
            let name = file_name(&change.key);
            match &change.value {
                Some(value) => self.put(&name, &self.content(&change.key, value)),
                None => match fs::remove_file(self.dir.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                },
            }
        });
        self.note(done);
    }

    fn replace_all(&self, wanted: &BTreeMap<String, Vec<u8>>) -> io::Result<()> {
        make_dir(&self.dir).map_err(io::Error::other)?;
        for (name, path) in self.files() {
            if !wanted.contains_key(&name) {
                fs::remove_file(path)?;
            }
        }
        for (name, content) in wanted {
            if fs::read(self.dir.join(name)).ok().as_ref() != Some(content) {
                self.put(name, content)?;
            }
        }
        Ok(())
    }

    fn put(&self, name: &str, content: &[u8]) -> io::Result<()> {
        // One writer: one name serves for all.
        let unfinished = self.dir.join(UNFINISHED);
        fs::write(&unfinished, content)?;
        fs::rename(&unfinished, self.dir.join(name))
    }

    fn note(&self, done: io::Result<()>) {
        let was_behind = self.behind.swap(done.is_err(), Ordering::Relaxed);
        if let (Err(error), false) = (done, was_behind) {
            let dir = self.dir.display();
            tracing::warn!(%error, "{dir}: what would replace a damaged ports.redb cannot be written; tried again");
        }
    }

    fn files(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
    }

    fn content(&self, key: &str, value: &[u8]) -> Vec<u8> {
        let sum = object_sum(key, value);
        let mut content = format!("{MAGIC} {} {sum:016x} {key}\n", self.boot_id).into_bytes();
        content.extend_from_slice(value);
        content
    }

    /// Key and value; `None` if they are of another boot.
    fn parse<'a>(&self, bytes: &'a [u8]) -> Result<Option<(&'a str, &'a [u8])>, String> {
        let head = bytes.iter().position(|byte| *byte == b'\n').ok_or("no first line")?;
        let (head, value) = (std::str::from_utf8(&bytes[..head]), &bytes[head + 1..]);
        let head = head.map_err(|_| "its first line is no text")?;
        let mut words = head.splitn(4, ' ');
        let mut word = || words.next().ok_or("its first line is too short");
        let (magic, boot_id, sum, key) = (word()?, word()?, word()?, word()?);
        if magic != MAGIC {
            return Err(format!("it begins with `{magic}`, not `{MAGIC}`"));
        }
        if u64::from_str_radix(sum, 16) != Ok(object_sum(key, value)) {
            return Err("its checksum does not match".to_owned());
        }
        Ok((boot_id == self.boot_id).then_some((key, value)))
    }
}

/// The name of a key's file: keys are ASCII, and only the slash cannot stand in a name.
fn file_name(key: &str) -> String {
    key.replace('%', "%25").replace('/', "%2F")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::store::Place;

    fn object(key: &str, value: &str) -> Object {
        Object { place: Place::Ports, key: key.into(), value: Some(value.as_bytes().to_vec()) }
    }

    #[test]
    fn one_damaged_copy_costs_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().join("ports.d"), "boot");
        let all = [
            object("quarantine/10.0.0.2", "7"),
            object("quarantine/fd00::2", "8"),
            object("last/10.0.0.0/24", "\"10.0.0.2\""),
        ];
        copies.make_equal(&all);
        let mut state = State::default();
        let told = copies.load(&mut state);
        assert_eq!((told.objects, told.unreadable.len()), (3, 0), "{told:?}");
        assert_eq!((state.ipam.quarantine.len(), state.ipam.last.len()), (2, 1));
        let path = dir.path().join("ports.d/quarantine%2F10.0.0.2");
        fs::write(&path, "weft-object-1 boot 00 quarantine/10.0.0.2\n9").unwrap();
        fs::write(dir.path().join("ports.d/.new"), "we").unwrap();
        let mut state = State::default();
        let told = copies.load(&mut state);
        assert_eq!((told.objects, told.unreadable.len()), (2, 2), "{told:?}");
        assert_eq!(state.ipam.quarantine.len(), 1);
        // What comes later, and what goes.
        let (come, gone) = (object("quarantine/10.0.0.3", "9"), Object { value: None, ..all[2].clone() });
        copies.follow(&[&come, &gone], Vec::new);
        let mut state = State::default();
        copies.load(&mut state);
        assert_eq!((state.ipam.quarantine.len(), state.ipam.last.len()), (2, 0));
        // Of another boot nothing counts, and it goes with the next comparison.
        let later = Copies::new(dir.path().join("ports.d"), "later");
        assert_eq!(later.load(&mut State::default()).objects, 0);
        later.make_equal(&all[..1]);
        let told = later.load(&mut State::default());
        assert_eq!((told.objects, told.unreadable.len()), (1, 0), "{told:?}");
    }

    #[test]
    fn a_copy_that_cannot_be_written_is_made_up_for() {
        let dir = tempfile::tempdir().unwrap();
        let copies = Copies::new(dir.path().join("ports.d"), "boot");
        let (one, two) = (object("quarantine/10.0.0.2", "7"), object("quarantine/10.0.0.3", "7"));
        // There is no directory.
        copies.follow(&[&one], Vec::new);
        copies.follow(&[&two], || vec![one.clone(), two.clone()]);
        assert_eq!(copies.load(&mut State::default()).objects, 2);
    }
}
