//! The held descriptors, by name. One a name: a new one takes the old one's place.
//!
//! They are never polled: a TAP whose link was deleted would report errors for ever.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use weft_sys::notify::is_fd_name;

/// Most descriptors held: twice the ports of the largest switch, and the sockets.
pub(crate) const MOST: usize = 8192 + 64;

/// Why a descriptor is not held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Name,
    Full,
}

#[derive(Debug, Default)]
pub(crate) struct Store {
    held: BTreeMap<String, OwnedFd>,
}

impl Store {
    /// Holds a descriptor.
    pub(crate) fn hold(&mut self, name: &str, fd: OwnedFd) -> Result<(), Refused> {
        if !is_fd_name(name) {
            return Err(Refused::Name);
        }
        if self.held.len() >= MOST && !self.held.contains_key(name) {
            return Err(Refused::Full);
        }
        self.held.insert(name.to_owned(), fd);
        Ok(())
    }

    /// Lets go of a descriptor, if it is held.
    pub(crate) fn release(&mut self, name: &str) {
        self.held.remove(name);
    }

    /// Names, in the order of [`Store::descriptors`], as `LISTEN_FDNAMES` has them.
    pub(crate) fn names(&self) -> String {
        self.held.keys().map(String::as_str).collect::<Vec<_>>().join(":")
    }

    pub(crate) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        self.held.values().map(AsFd::as_fd).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn names_are_checked_replaced_and_bounded() {
        let mut store = Store::default();
        assert_eq!(store.hold("a:b", fd()), Err(Refused::Name));
        store.hold("b", fd()).unwrap();
        store.hold("a", fd()).unwrap();
        store.hold("a", fd()).unwrap();
        assert_eq!((store.names().as_str(), store.descriptors().len()), ("a:b", 2));
        store.release("c");
        store.release("b");
        assert_eq!((store.names().as_str(), store.len()), ("a", 1));
    }
}
