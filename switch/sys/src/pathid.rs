//! Does a name in a directory still mean the same file, even if the directory lies in another mount namespace.
//!
//! A container runtime names a network namespace by a bind mount, maybe only in its own mount namespace. A descriptor
//! of the directory, opened there with `O_PATH` and passed over, sees that mount come and go from anywhere.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use crate::netns::NsId;

/// A directory held by an `O_PATH` descriptor.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens the directory at `path` in the current mount namespace.
    ///
    /// # Errors
    /// Those of `open(2)`.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path.as_ref(), flags, Mode::empty())?))
    }

    /// Takes a descriptor that somebody else opened.
    ///
    /// # Errors
    /// `NotADirectory` when it is something else.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
            Ok(Self(fd))
        } else {
            Err(io::ErrorKind::NotADirectory.into())
        }
    }

    /// Identity of the file called `name` here, or `None` when there is none (`fstatat(2)`, not following a link).
    ///
    /// Compare it with [`crate::netns::Netns::id`]: another identity means that the namespace's name is gone and
    /// something else (often the empty file below the mount) has its place.
    ///
    /// # Errors
    /// `InvalidInput` when `name` is not one plain component; else those of `fstatat(2)`.
    pub fn id_of(&self, name: &str) -> io::Result<Option<NsId>> {
        if name.is_empty() || name == "." || name == ".." || name.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no plain file name"),
            ));
        }
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(NsId { dev: stat.st_dev, ino: stat.st_ino })),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Another descriptor of the same directory.
    ///
    /// # Errors
    /// `EMFILE` when the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> Self {
        dir.0
    }
}

#[cfg(test)]
mod tests;
