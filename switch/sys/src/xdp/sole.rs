//! What this process may have once only.
use std::io;
use std::sync::{Mutex, PoisonError};

/// The cookies of the sockets whose rings this process uses.
static USED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// The only user in this process of a socket's rings, so that there is one [`super::Chunk`] of each chunk that comes back.
#[derive(Debug)]
pub(super) struct Sole(u64);

impl Sole {
    /// The user of the socket with this cookie.
    ///
    /// # Errors
    /// `AlreadyExists` while there is one.
    pub(super) fn new(cookie: u64) -> io::Result<Self> {
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        if used.contains(&cookie) {
            let message = "this process uses the AF_XDP socket already";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        used.push(cookie);
        Ok(Self(cookie))
    }
}

impl Drop for Sole {
    fn drop(&mut self) {
        let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
        used.retain(|cookie| *cookie != self.0);
    }
}
