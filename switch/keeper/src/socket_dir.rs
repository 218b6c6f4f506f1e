//! The directory of the notify socket.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PREFIX: &str = "weft-keeper-";
const SOCKET: &str = "notify";
/// A directory that is younger than this may belong to a keeper that is about to bind its socket.
const SETTLED: Duration = Duration::from_secs(60);

/// A directory of our own for the socket: its name cannot be guessed or taken, also where several containers share
/// one `/run`. Removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketDir(PathBuf);

impl SocketDir {
    /// Makes it below `base`.
    ///
    /// # Errors
    /// Those of `getrandom(2)` and `mkdir(2)`.
    pub(crate) fn make(base: &Path) -> io::Result<Self> {
        let mut random = [0u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let path = base.join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        Ok(SocketDir(path))
    }

    /// Where the socket belongs.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.join(SOCKET)
    }
}

impl Drop for SocketDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes what killed keepers left below `base`. No failure matters: the next keeper tries again.
pub(crate) fn remove_abandoned(base: &Path) {
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(is_our_name);
        if is_ours && is_abandoned(&entry.path()).unwrap_or(false) {
            let _ = std::fs::remove_file(entry.path().join(SOCKET));
            // Whatever else is in it is not a keeper's, and stays.
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn is_our_name(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == 16 && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

/// Does no process have the socket? Process ids would not tell: the keeper may be one of another container.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    let found = path.symlink_metadata()?;
    let is_settled = found.modified()?.elapsed().is_ok_and(|age| age >= SETTLED);
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() || !is_settled {
        return Ok(false);
    }
    Ok(match UnixDatagram::unbound()?.connect(path.join(SOCKET)) {
        Ok(()) => false,
        Err(error) => matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::SystemTime;

    use super::*;

    /// A directory as a keeper makes it, made so long ago; and its socket, while that is bound.
    fn made(base: &Path, ago: Duration) -> (PathBuf, UnixDatagram) {
        let dir = SocketDir::make(base).unwrap();
        let socket = UnixDatagram::bind(dir.path()).unwrap();
        let path = dir.0.clone();
        std::mem::forget(dir);
        File::open(&path).unwrap().set_modified(SystemTime::now() - ago).unwrap();
        (path, socket)
    }

    #[test]
    fn what_a_killed_keeper_left_is_removed_and_nothing_else() {
        let base = tempfile::tempdir().unwrap();
        let long_ago = 2 * SETTLED;
        let (alive, _bound) = made(base.path(), long_ago);
        let (young, socket) = made(base.path(), Duration::ZERO);
        drop(socket);
        let (dead, socket) = made(base.path(), long_ago);
        drop(socket);
        // Its keeper was killed before it bound the socket.
        let (empty, socket) = made(base.path(), long_ago);
        drop(socket);
        fs::remove_file(empty.join(SOCKET)).unwrap();
        File::open(&empty).unwrap().set_modified(SystemTime::now() - long_ago).unwrap();
        let foreign = base.path().join("weft-keeper-notes");
        fs::create_dir(&foreign).unwrap();
        File::open(&foreign).unwrap().set_modified(SystemTime::now() - long_ago).unwrap();

        remove_abandoned(base.path());
        assert!(!dead.exists() && !empty.exists());
        assert!(alive.join(SOCKET).exists() && young.join(SOCKET).exists() && foreign.exists());
    }
}
