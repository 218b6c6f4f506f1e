//! What is kept over a restart, in two redb files: ports whose namespaces end with the boot in `ports.redb` of the run
//! directory (a tmpfs, where fsync is free), the operator's settings in `settings.redb` of the state directory.
//!
//! Every commit is durable before it returns (with less, kill -9 loses acknowledged changes). A file of another format
//! or a damaged one is moved aside; the ports' is rebuilt from its [`copies`], the settings' cannot be. Values are JSON:
//! see [`object`] for the keys.

/// From what the ports' file is rebuilt.
mod copies;
/// Keys and values.
mod object;
/// A file as it lies on disk, written in memory only.
mod overlay;

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use rustix::fs::{FlockOperation, flock};

use super::state::State;
use copies::Copies;
pub use object::{Object, Place, changes, load as load_object};
use overlay::Overlay;

/// Number of the format: a file with another one is not read.
pub const FORMAT: &str = "1";

const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");

/// Why nothing can be kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon has the run directory.
    #[error("{} is in use by another weftd (process {pid}); stop it, or give this one its own --run-dir and --state-dir", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
        /// The other's process id, or `?`.
        pid: String,
    },
    /// Another daemon has the file open.
    #[error("{} is in use by another weftd; stop it, or give this one its own --run-dir and --state-dir", path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// The directory or file cannot be used.
    #[error("{}: {source}; expected a directory that weftd may write to", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A commit failed.
    #[error("cannot keep the change in {}: {message}", path.display())]
    Commit {
        /// The file.
        path: PathBuf,
        /// What redb said.
        message: String,
    },
}

/// The lock that only one daemon per run directory can hold; released when it ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock in `run_dir`, which is made if it is missing.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another daemon has it.
    pub fn take(run_dir: &Path) -> Result<Lock, StoreError> {
        use std::io::Read;
        let path = run_dir.join("weftd.lock");
        let failed = |source| StoreError::Io { path: path.clone(), source };
        make_dir(run_dir)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "?".to_owned() } else { pid.trim().to_owned() };
            return Err(StoreError::Locked { path, pid });
        }
        let mut lock = Lock { file };
        lock.sign().map_err(failed)?;
        Ok(lock)
    }

    /// Takes over a lock together with its descriptor: while either process has it open, nobody else gets the lock.
    pub fn from_fd(fd: OwnedFd) -> Lock {
        Lock { file: fd.into() }
    }

    /// Writes this process's number into the file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn sign(&mut self) -> io::Result<()> {
        use std::io::{Seek, Write};
        self.file.set_len(0)?;
        self.file.rewind()?;
        writeln!(self.file, "{}", std::process::id())
    }

    /// Another descriptor of the lock.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        Ok(self.file.try_clone()?.into())
    }
}

/// Both files.
#[derive(Debug)]
pub struct Store {
    ports: Base,
    settings: Base,
    copies: Copies,
}

/// What was found at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The state without what configuration and cluster file add.
    pub state: State,
    /// What was wrong with the files and what became of it, for the log and the status.
    pub damaged: Vec<String>,
    /// The operator's settings are among what is lost.
    pub settings_lost: bool,
}

impl Store {
    /// Opens both files, moving aside what cannot be read. `boot_id` tells a new boot, after which pods are gone.
    ///
    /// # Errors
    /// When a directory cannot be written to.
    pub fn open(run_dir: &Path, state_dir: &Path, boot_id: &str) -> Result<(Store, Loaded), StoreError> {
        let mut loaded = Loaded::default();
        make_dir(run_dir)?;
        make_dir(state_dir)?;
        let copies = Copies::new(run_dir.join("ports.d"), boot_id);
        let (ports, found) = Base::open(run_dir.join("ports.redb"), Some(boot_id), &mut loaded.state)?;
        let damage = match found {
            Found::Whole => None,
            Found::Missing => rebuild(&ports, &copies, &mut loaded.state)?
                .map(|told| format!("{} is missing; {told}", ports.path.display())),
            Found::Refused(what) => {
                let told = rebuild(&ports, &copies, &mut loaded.state)?;
                Some(format!("{what}; {}", told.unwrap_or_else(|| "no copy of a port was found".to_owned())))
            }
        };
        loaded.damaged.extend(damage);
        copies.make_equal(&of_ports(&loaded.state));
        let (settings, found) = Base::open(state_dir.join("settings.redb"), None, &mut loaded.state)?;
        if let Found::Refused(what) = found {
            loaded.settings_lost = true;
            loaded.damaged.push(format!(
                "{what}; the operator's settings in it are lost: add bridges, ports, routes and static entries again"
            ));
        }
        for message in &loaded.damaged {
            tracing::error!("{message}");
        }
        Ok((Store { ports, settings, copies }, loaded))
    }

    /// What both files hold, seen through an overlay in memory: nothing is written, repaired on disk, or waited for. `None`
    /// when a file is missing, of another boot or format, or damaged: [`Store::open`] deals with that.
    pub fn peek(run_dir: &Path, state_dir: &Path, boot_id: &str) -> Option<State> {
        let mut state = State::default();
        let files = [(run_dir.join("ports.redb"), Some(boot_id)), (state_dir.join("settings.redb"), None)];
        for (path, boot_id) in files {
            let file = File::open(path).ok()?;
            if file.metadata().ok()?.len() == 0 {
                return None;
            }
            guarded(|| look_into(file, boot_id, &mut state)).ok()?;
        }
        Some(state)
    }

    /// Closes both files, so that another process can open them. Until [`Store::reopen`] every write fails.
    pub fn release(&mut self) {
        self.ports.database = None;
        self.settings.database = None;
    }

    /// False after [`Store::release`], until [`Store::reopen`].
    pub fn is_open(&self) -> bool {
        self.ports.database.is_some() && self.settings.database.is_some()
    }

    /// Opens both files again after [`Store::release`]. To be called again after a failure.
    ///
    /// # Errors
    /// What redb says; another process may still have them.
    pub fn reopen(&mut self) -> Result<(), StoreError> {
        let closed = |base: &&mut Base| base.database.is_none();
        for base in [&mut self.ports, &mut self.settings].into_iter().filter(closed) {
            let opened = Database::create(&base.path);
            let opened = opened.map_err(|error| StoreError::Commit {
                path: base.path.clone(),
                message: error.to_string(),
            })?;
            base.database = Some(opened);
        }
        Ok(())
    }

    /// Makes what is kept of `old` into what is to be kept of `new`.
    ///
    /// # Errors
    /// When a commit fails; the settings are committed last, so a failed change of both kinds is taken back by calling
    /// this the other way round.
    pub fn write(&self, old: &State, new: &State) -> Result<(), StoreError> {
        let changes = changes(old, new);
        let of = |place| changes.iter().filter(move |change| change.place == place).collect::<Vec<_>>();
        let (ports, settings) = (of(Place::Ports), of(Place::Settings));
        for (base, of_place) in [(&self.ports, &ports), (&self.settings, &settings)] {
            if !of_place.is_empty() {
                base.commit(of_place)?;
            }
        }
        if !ports.is_empty() {
            self.copies.follow(&ports, || of_ports(new));
        }
        Ok(())
    }
}

/// Everything that the ports' file is to hold of a state.
fn of_ports(state: &State) -> Vec<Object> {
    let mut all = changes(&State::default(), state);
    all.retain(|object| object.place == Place::Ports);
    all
}

/// Puts what the copies hold into `state`, and into the new and empty file `base`; says so. `None`: there are none.
fn rebuild(base: &Base, copies: &Copies, state: &mut State) -> Result<Option<String>, StoreError> {
    let told = copies.load(state);
    if told.objects == 0 && told.unreadable.is_empty() {
        return Ok(None);
    }
    // An address whose port is not known could never be freed.
    let State { ports, ipam, .. } = state;
    let now = super::engine::unix_now();
    ipam.leases.retain(|ip, lease| {
        let known = ports.contains_key(&lease.port);
        if !known {
            ipam.quarantine.insert(*ip, now);
        }
        known
    });
    let objects = of_ports(state);
    base.commit(&objects.iter().collect::<Vec<_>>())?;
    let mut what = format!("{} ports were rebuilt from {}", state.ports.len(), copies.dir().display());
    if !told.unreadable.is_empty() {
        what.push_str(&format!(", but these copies are unreadable: {}", told.unreadable.join(", ")));
    }
    Ok(Some(what))
}

/// How a file was found.
#[derive(Debug)]
enum Found {
    /// Good, or of an earlier boot.
    Whole,
    /// Not there.
    Missing,
    /// Of no use, and where it is now.
    Refused(String),
}

/// One file.
#[derive(Debug)]
struct Base {
    path: PathBuf,
    /// `None`: another process has the file.
    database: Option<Database>,
}

impl Base {
    /// Opens a file, or makes a new one where there is none of use; what it holds goes into `state`.
    fn open(path: PathBuf, boot_id: Option<&str>, state: &mut State) -> Result<(Base, Found), StoreError> {
        let before = state.clone();
        let existed = path.exists();
        let mut found = if existed { Found::Whole } else { Found::Missing };
        match read(&path, boot_id, state) {
            Ok(database) => return Ok((Base { path, database: Some(database) }, found)),
            Err(ReadError::Io(source)) => return Err(StoreError::Io { path, source }),
            Err(ReadError::InUse) => return Err(StoreError::Open { path }),
            Err(ReadError::OtherBoot) => {
                tracing::info!(path = %path.display(), "ports of an earlier boot are forgotten");
                fs::remove_file(&path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
            }
            Err(ReadError::Damaged(message)) if existed => {
                let aside = path.with_extension(format!("redb.damaged-{}", super::engine::unix_now()));
                fs::rename(&path, &aside).map_err(|source| StoreError::Io { path: path.clone(), source })?;
                found = Found::Refused(format!(
                    "{} cannot be read ({message}); it was moved to {}",
                    path.display(),
                    aside.display()
                ));
            }
            Err(ReadError::Damaged(message)) => return Err(StoreError::Commit { path, message }),
        }
        *state = before;
        match read(&path, boot_id, state) {
            Ok(database) => Ok((Base { path, database: Some(database) }, found)),
            Err(ReadError::Io(source)) => Err(StoreError::Io { path, source }),
            Err(ReadError::InUse) => Err(StoreError::Open { path }),
            Err(ReadError::Damaged(message)) => Err(StoreError::Commit { path, message }),
            Err(ReadError::OtherBoot) => Err(StoreError::Commit { path, message: "boot id changed".into() }),
        }
    }

    fn commit(&self, changes: &[&Object]) -> Result<(), StoreError> {
        let Some(database) = &self.database else {
            let message = "another weftd wanted to take over and still has the file; try again".to_owned();
            return Err(StoreError::Commit { path: self.path.clone(), message });
        };
        let run = || -> Result<(), redb::Error> {
            // Durability::Immediate is redb's default.
            let write = database.begin_write()?;
            {
                let mut table = write.open_table(OBJECTS)?;
                let mut meta = write.open_table(META)?;
                let mut sum = kept_sum(&meta)?;
                for change in changes {
                    let key = change.key.as_str();
                    let was = match &change.value {
                        Some(value) => table.insert(key, value.as_slice())?,
                        None => table.remove(key)?,
                    };
                    if let Some(sum) = &mut sum {
                        let gone = was.map_or(0, |was| object_sum(key, was.value()));
                        let come = change.value.as_ref().map_or(0, |value| object_sum(key, value));
                        *sum = sum.wrapping_sub(gone).wrapping_add(come);
                    }
                }
                if let Some(sum) = sum {
                    meta.insert(SUM, sum.to_string().as_str())?;
                }
            }
            write.commit()?;
            Ok(())
        };
        run().map_err(|error| StoreError::Commit { path: self.path.clone(), message: error.to_string() })
    }
}

enum ReadError {
    Io(io::Error),
    InUse,
    Damaged(String),
    OtherBoot,
}

impl<E: Into<redb::Error>> From<E> for ReadError {
    fn from(error: E) -> Self {
        match error.into() {
            redb::Error::Io(error) if error.kind() != io::ErrorKind::InvalidData => ReadError::Io(error),
            redb::Error::DatabaseAlreadyOpen => ReadError::InUse,
            other => ReadError::Damaged(other.to_string()),
        }
    }
}

/// Opens or makes a file and puts what it holds into `state`.
fn read(path: &Path, boot_id: Option<&str>, state: &mut State) -> Result<Database, ReadError> {
    guarded(|| read_unguarded(path, boot_id, state))
}

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread reads what may be damaged: a panic says so, and is caught.
pub fn is_reading() -> bool {
    READING.get()
}

/// redb asserts on some damaged pages.
fn guarded<R>(read: impl FnOnce() -> Result<R, ReadError>) -> Result<R, ReadError> {
    READING.set(true);
    let result = catch_unwind(AssertUnwindSafe(read));
    READING.set(false);
    result.unwrap_or_else(|_| Err(ReadError::Damaged("its pages are inconsistent".into())))
}

fn read_unguarded(path: &Path, boot_id: Option<&str>, state: &mut State) -> Result<Database, ReadError> {
    if fs::metadata(path).is_ok_and(|meta| meta.len() == 0) {
        // redb would take it for a new one, and all that was kept would be gone without a word.
        return Err(ReadError::Damaged("it is empty".into()));
    }
    load(Database::create(path)?, boot_id, state)
}

/// As [`read`], but nothing is written to the file.
fn look_into(file: File, boot_id: Option<&str>, state: &mut State) -> Result<(), ReadError> {
    let overlay = Overlay::new(file).map_err(ReadError::Io)?;
    load(Database::builder().create_with_backend(overlay)?, boot_id, state).map(drop)
}

/// Puts what an open file holds into `state`; a new file gets its format.
fn load(database: Database, boot_id: Option<&str>, state: &mut State) -> Result<Database, ReadError> {
    let begun = database.begin_read()?;
    match begun.open_table(META) {
        Err(redb::TableError::TableDoesNotExist(_)) => {
            let write = database.begin_write()?;
            {
                let mut meta = write.open_table(META)?;
                meta.insert("format", FORMAT)?;
                meta.insert("boot_id", boot_id.unwrap_or_default())?;
                meta.insert(SUM, "0")?;
                write.open_table(OBJECTS)?;
            }
            write.commit()?;
            return Ok(database);
        }
        Err(error) => return Err(error.into()),
        Ok(meta) => {
            let value =
                |key| Ok::<_, redb::Error>(meta.get(key)?.map(|v| v.value().to_owned()).unwrap_or_default());
            let format = value("format")?;
            if format != FORMAT {
                return Err(ReadError::Damaged(format!(
                    "format `{format}`; this weftd reads format {FORMAT}"
                )));
            }
            if boot_id.is_some_and(|id| value("boot_id").is_ok_and(|kept| kept != id)) {
                return Err(ReadError::OtherBoot);
            }
        }
    }
    let mut sum = 0u64;
    for entry in begun.open_table(OBJECTS)?.iter()? {
        let (key, value) = entry?;
        sum = sum.wrapping_add(object_sum(key.value(), value.value()));
        load_object(state, key.value(), value.value())
            .map_err(|error| ReadError::Damaged(format!("{}: {error}", key.value())))?;
    }
    if kept_sum(&begun.open_table(META)?)?.is_some_and(|kept| kept != sum) {
        return Err(ReadError::Damaged("its checksum does not match".into()));
    }
    Ok(database)
}

/// Key in META of the sum over all objects, modulo 2^64, in decimal. redb compares the checksums of its pages only after
/// a crash; `Database::check_integrity` at start is no way: with it, kills lost acknowledged commits (redb 3, measured).
const SUM: &str = "sum";

/// The sum that is kept; `None` in a file of a weftd that kept none.
fn kept_sum(meta: &impl ReadableTable<&'static str, &'static str>) -> Result<Option<u64>, redb::Error> {
    let Some(text) = meta.get(SUM)? else { return Ok(None) };
    // What is no number is no sum of anything: it matches nothing that is likely.
    Ok(Some(text.value().parse().unwrap_or(u64::MAX)))
}

/// FNV-1a over key, a separator, and value.
fn object_sum(key: &str, value: &[u8]) -> u64 {
    let bytes = key.bytes().chain([0]).chain(value.iter().copied());
    bytes.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder.create(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
