//! Network namespaces: an owned descriptor that is known to be one, its identity, and running code inside it.
//!
//! Invariant: nothing here ever moves the caller's thread except [`Netns::enter`], whose name says so.
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::ioctl;

/// Where `ip netns` keeps the names of namespaces (iproute2 `include/namespace.h`).
pub const NAMED_DIR: &str = "/run/netns";

/// A file's identity, (device, inode) of `fstat(2)`.
///
/// Two descriptors mean the same namespace exactly when their ids are equal, for as long as one of them is open;
/// afterwards the kernel may give the inode number out again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NsId {
    /// Device number (`st_dev`; nsfs for a namespace).
    pub dev: u64,
    /// Inode number (`st_ino`).
    pub ino: u64,
}

impl fmt::Display for NsId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.dev, self.ino)
    }
}

/// File system of namespaces (`linux/magic.h`).
const NSFS_MAGIC: rustix::fs::FsWord = 0x6e73_6673;

/// An open network namespace. Holding it keeps the namespace alive.
#[derive(Debug)]
pub struct Netns(OwnedFd);

impl Netns {
    /// Opens the namespace at `path`, as the current mount namespace sees it.
    ///
    /// # Errors
    /// Those of `open(2)`, and `InvalidInput` when the file is not a network namespace.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        // The path comes from outside, and to open some files is to act: a watchdog starts, a tape rewinds. O_PATH does
        // not open; only what is known for a namespace is opened, by way of the descriptor, so that it stays the same.
        let place = rustix::fs::open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        if rustix::fs::fstatfs(&place)?.f_type != NSFS_MAGIC {
            return Err(refused("it is another kind of file"));
        }
        let known = format!("/proc/thread-self/fd/{}", place.as_raw_fd());
        Self::from_fd(rustix::fs::open(known, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Takes a descriptor that somebody else opened, after asking the kernel what it is (`NS_GET_NSTYPE`,
    /// `linux/nsfs.h`).
    ///
    /// # Errors
    /// `InvalidInput` when it is not a network namespace.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: NS_GET_NSTYPE takes no argument. Another kind of file refuses the number (ENOTTY); if one took the
        // argument for a pointer it would find null.
        match unsafe { ioctl::by_value(fd.as_fd(), libc::NS_GET_NSTYPE, 0) } {
            Ok(libc::CLONE_NEWNET) => Ok(Self(fd)),
            Ok(_) => Err(refused("it is another kind of namespace")),
            Err(error) => Err(refused(&error.to_string())),
        }
    }

    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// Those of `open(2)`; `/proc` must be mounted.
    pub fn current() -> io::Result<Self> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The namespace of process `pid`.
    ///
    /// # Errors
    /// `NotFound` when there is no such process, `PermissionDenied` without ptrace rights over it.
    pub fn of_pid(pid: u32) -> io::Result<Self> {
        Self::open(format!("/proc/{pid}/ns/net"))
    }

    /// The namespace that `ip netns` calls `name`: [`NAMED_DIR`]`/name`.
    ///
    /// # Errors
    /// `InvalidInput` for a name with a slash, `.` or `..`; else as [`Netns::open`].
    pub fn by_name(name: &str) -> io::Result<Self> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no name of a network namespace"),
            ));
        }
        Self::open(Path::new(NAMED_DIR).join(name))
    }

    /// Makes a new, nameless namespace that lives as long as this value or a device descriptor opened in it.
    ///
    /// # Errors
    /// Those of `unshare(2)`: `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn create() -> io::Result<Self> {
        in_helper(|| {
            // SAFETY: only FILES would be unsound, by giving this thread descriptors that others do not have.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
            Self::current()
        })?
    }

    /// Another descriptor of the same namespace.
    ///
    /// # Errors
    /// `EMFILE` when the process has no descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// This namespace's identity.
    ///
    /// # Errors
    /// Those of `fstat(2)`; none in practice.
    pub fn id(&self) -> io::Result<NsId> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok(NsId { dev: stat.st_dev, ino: stat.st_ino })
    }

    /// Runs `f` on a helper thread inside this namespace and returns what it returned. The calling thread never
    /// leaves its own. Costs one thread, about 50 microseconds. A panic of `f` goes on in the caller.
    ///
    /// # Errors
    /// When the thread cannot be made, or `setns(2)` fails (`PermissionDenied` without CAP_SYS_ADMIN).
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> io::Result<R> {
        in_helper(|| self.enter().map(|()| f()))?
    }

    /// Moves the *calling thread* into this namespace, for good: meant for a thread that stays there.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN.
    pub fn enter(&self) -> io::Result<()> {
        Ok(rustix::thread::move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Netns> for OwnedFd {
    fn from(netns: Netns) -> Self {
        netns.0
    }
}

/// Runs `f` on a thread of its own, so that what it does to its namespace ends with it.
fn in_helper<R: Send>(f: impl FnOnce() -> R + Send) -> io::Result<R> {
    std::thread::scope(|scope| {
        let helper = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        helper.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("not a network namespace: {why}"))
}

#[cfg(test)]
mod tests;
