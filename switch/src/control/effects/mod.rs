//! What changes the kernel: devices, addresses, routes, sysctls, firewall.
//!
//! Every function here is synchronous, takes plain specs with all defaults resolved, and either does all of what it
//! says or nothing: what was done before an error is undone. Nothing here knows the desired state or the snapshot.

/// Accept rules in foreign forward chains that drop.
pub mod forward;
/// The node's own port and everything in the host's network around it.
pub mod host;
/// The nftables table `inet weft`.
pub mod nft;
/// TAP ports of pods.
pub mod port;
/// The underlay: local address, device, MTU.
pub mod underlay;
/// AF_XDP ports of pods.
pub mod veth;

#[cfg(test)]
pub(crate) mod testing;

use std::io;

use weft_sys::{link, tun};

/// Why an effect did not take place. Whatever of it was done has been undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EffectError {
    /// The namespace cannot be opened or entered.
    #[error("network namespace {name}: {source}")]
    Netns {
        /// Its name, path or process id.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// The device's name is taken in its namespace.
    #[error("interface {0} exists already in the namespace; delete it, or choose another name")]
    Exists(String),
    /// The device to attach to again is gone.
    #[error("interface {0} is gone from its namespace")]
    Missing(String),
    /// The spec asks for what cannot be.
    #[error("{0}")]
    Invalid(String),
    /// A TAP call failed.
    #[error(transparent)]
    Tap(tun::Error),
    /// A netlink request failed.
    #[error(transparent)]
    Netlink(#[from] link::Error),
    /// A sysctl, file or socket failed.
    #[error("{what}: {source}")]
    Io {
        /// What was attempted.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program failed.
    #[error("{program}: {message}")]
    Program {
        /// Which one.
        program: &'static str,
        /// What it said, or how to install it.
        message: String,
    },
}

impl EffectError {
    /// An I/O error with what was attempted.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| EffectError::Io { what, source }
    }
}

impl From<tun::Error> for EffectError {
    fn from(error: tun::Error) -> Self {
        match error {
            tun::Error::Exists(name) => EffectError::Exists(name),
            tun::Error::Missing(name) => EffectError::Missing(name),
            tun::Error::Netlink(error) => EffectError::Netlink(error),
            other => EffectError::Tap(other),
        }
    }
}
