//! `/proc/sys` as the calling thread's namespace sees it (`sysctl(8)`).
//!
//! The kernel resolves `net.*` by the namespace of the thread that opens the file; use [`crate::netns::Netns::run`]
//! for another one.
use std::fmt;
use std::io;
use std::path::PathBuf;

/// The root of the tree.
const ROOT: &str = "/proc/sys";

/// The name of one setting. Its parts may contain dots, as names of network interfaces do.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(Vec<String>);

impl Key {
    /// From its parts: `["net", "ipv4", "conf", "eth0.5", "forwarding"]`.
    ///
    /// # Errors
    /// `InvalidInput` for no parts, or one that is empty, `.`, `..` or has a slash.
    pub fn from_parts<S: AsRef<str>>(parts: impl IntoIterator<Item = S>) -> io::Result<Self> {
        let parts: Vec<String> = parts.into_iter().map(|p| p.as_ref().to_owned()).collect();
        let bad = |p: &String| p.is_empty() || p == "." || p == ".." || p.contains(['/', '\0']);
        if parts.is_empty() || parts.iter().any(bad) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{:?} names no sysctl", parts.join("/")),
            ));
        }
        Ok(Self(parts))
    }

    /// From one string as `sysctl(8)` reads it: the separator that comes first separates, and the other one is part
    /// of a name (`net.ipv4.conf.eth0/5.forwarding` is `net/ipv4/conf/eth0.5/forwarding`).
    ///
    /// # Errors
    /// As [`Key::from_parts`].
    pub fn parse(name: &str) -> io::Result<Self> {
        let separator =
            name.find(['.', '/']).map_or('.', |at| if name[at..].starts_with('/') { '/' } else { '.' });
        Self::from_parts(name.split(separator).map(|part| match separator {
            '.' => part.replace('/', "."),
            _ => part.to_owned(),
        }))
    }

    /// A setting of one network interface: `net/FAMILY/conf/INTERFACE/NAME`, `family` being `ipv4` or `ipv6`.
    ///
    /// # Errors
    /// As [`Key::from_parts`].
    pub fn interface(family: &str, interface: &str, name: &str) -> io::Result<Self> {
        Self::from_parts(["net", family, "conf", interface, name])
    }

    /// Its file.
    fn path(&self) -> PathBuf {
        let mut path = PathBuf::from(ROOT);
        path.extend(&self.0);
        path
    }
}

impl fmt::Display for Key {
    /// With slashes, which [`Key::parse`] reads back whatever the parts are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

/// The value, without its line end.
///
/// # Errors
/// `NotFound` when the kernel has no such setting, `PermissionDenied`; the message names it.
pub fn get(key: &Key) -> io::Result<String> {
    let value = std::fs::read_to_string(key.path()).map_err(|e| named(key, "read", &e))?;
    Ok(value.trim_end().to_owned())
}

/// Sets the value.
///
/// # Errors
/// As [`get`]; `InvalidInput` when the kernel refuses the value.
pub fn set(key: &Key, value: &str) -> io::Result<()> {
    // Not `fs::write`: it would create a file where the name is wrong and the tree is a test's plain directory.
    let mut file =
        std::fs::OpenOptions::new().write(true).open(key.path()).map_err(|e| named(key, "set", &e))?;
    io::Write::write_all(&mut file, value.as_bytes()).map_err(|e| named(key, "set", &e))
}

/// Sets the value and returns the old one, for putting it back. Writes nothing when they are equal.
///
/// # Errors
/// As [`set`].
pub fn replace(key: &Key, value: &str) -> io::Result<String> {
    let old = get(key)?;
    if old != value {
        set(key, value)?;
    }
    Ok(old)
}

fn named(key: &Key, what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} sysctl {key}: {error}"))
}

#[cfg(test)]
mod tests;
