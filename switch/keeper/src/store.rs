//! The held descriptors, by name. One a name: a new one takes the old one's place.
//!
//! They are never polled: a TAP whose link was deleted would report errors for ever.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use weft_sys::notify::{MOST_NAMES, is_fd_name, names_len};

/// Most descriptors held: twice the ports of the largest switch, and the sockets.
pub(crate) const MOST: usize = 8192 + 64;

/// Why a descriptor is not held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Name,
    Full,
}

#[derive(Debug)]
pub(crate) struct Store {
    held: BTreeMap<String, OwnedFd>,
    most: usize,
}

impl Store {
    /// Holds up to so many descriptors, if their names fit, too.
    pub(crate) fn new(most: usize) -> Self {
        Store { held: BTreeMap::new(), most }
    }

    /// Holds a descriptor.
    pub(crate) fn hold(&mut self, name: &str, fd: OwnedFd) -> Result<(), Refused> {
        if !is_fd_name(name) {
            return Err(Refused::Name);
        }
        let fits = || names_len(self.held.keys().map(String::as_str).chain([name])) <= MOST_NAMES;
        if !self.held.contains_key(name) && (self.held.len() >= self.most || !fits()) {
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
        let mut store = Store::new(MOST);
        assert_eq!(store.hold("a:b", fd()), Err(Refused::Name));
        store.hold("b", fd()).unwrap();
        store.hold("a", fd()).unwrap();
        store.hold("a", fd()).unwrap();
        assert_eq!((store.names().as_str(), store.descriptors().len()), ("a:b", 2));
        store.release("c");
        store.release("b");
        assert_eq!((store.names().as_str(), store.len()), ("a", 1));
    }

    #[test]
    fn no_more_is_held_than_can_be_passed_on() {
        let mut store = Store::new(2);
        store.hold("a", fd()).unwrap();
        store.hold("b", fd()).unwrap();
        assert_eq!((store.hold("a", fd()), store.hold("c", fd())), (Ok(()), Err(Refused::Full)));
        let mut store = Store::new(MOST);
        let held = (0..MOST).take_while(|number| store.hold(&format!("{number:0255}"), fd()) == Ok(()));
        assert_eq!(held.count(), MOST_NAMES / 256);
        // One string of the environment, with its name and its end (`MAX_ARG_STRLEN`).
        assert!("LISTEN_FDNAMES=".len() + store.names().len() < 131_072);
    }
}
