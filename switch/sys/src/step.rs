//! Which of several steps failed.
use std::io;

/// Puts the step's name before an error's message.
pub(crate) fn step(what: &'static str) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}
