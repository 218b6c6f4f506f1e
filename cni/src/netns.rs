//! The container's namespace as descriptors. The plugin opens it, because the path may exist only in the mount namespace
//! of its caller.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, fstatfs, openat, stat};
use rustix::io::Errno;
use weft_api::cni::{CniError, code};

/// NSFS_MAGIC (linux/magic.h).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace.
#[derive(Debug)]
pub(crate) struct Netns {
    namespace: OwnedFd,
    directory: OwnedFd,
}

impl Netns {
    /// Opens the namespace at `path` and, to watch the name die, the directory that holds the path.
    pub(crate) fn open(path: &str) -> Result<Netns, CniError> {
        let refuse = |error: Errno| {
            CniError::new(code::INVALID_NETNS, format!("failed to open netns \"{path}\": {error}"))
        };
        let path = Path::new(path);
        let namespace = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(refuse)?;
        let kind = fstatfs(&namespace).map_err(refuse)?.f_type;
        if u64::try_from(kind) != Ok(NSFS_MAGIC) {
            let msg = format!("\"{}\" is not a network namespace", path.display());
            return Err(CniError::new(code::INVALID_NETNS, msg));
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, parent, flags, Mode::empty()).map_err(refuse)?;
        Ok(Netns { namespace, directory })
    }

    /// True if it is the namespace that the plugin itself runs in.
    pub(crate) fn is_own(&self) -> bool {
        match (fstat(&self.namespace), stat("/proc/self/ns/net")) {
            (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
            _ => false,
        }
    }

    /// In the order that the daemon expects.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.namespace.as_fd(), self.directory.as_fd()]
    }
}
