//! Whole-system tests of weft: real namespaces, real devices, the real binaries, offloads on.
//!
//! Everything a test makes has a guard that removes it, also after a failure. A WARN or ERROR in a daemon's log fails
//! the test it happened in, unless the test said that it expects it.
#![forbid(unsafe_code)]

/// Where the binaries under test are; builds them when nobody did.
pub mod bin;
/// What tcpdump sees on a device.
pub mod capture;
/// Calls of the CNI plugin, as a runtime makes them.
pub mod cni;
/// Datagrams from senders with `UDP_SEGMENT`, checked one by one.
pub mod datagrams;
/// The kernel's own VXLAN device as a peer.
pub mod flannel;
/// Topologies: one node, two nodes joined by an underlay.
pub mod lab;
/// One node: a namespace with a `weftd` in it.
pub mod node;
/// Network namespaces and commands in them.
pub mod ns;
/// Single frames: sent as they are, counted where they come in.
pub mod raw;
/// Whether the machine itself stood still.
pub mod stalls;
/// ping, iperf3, hashed transfers, packets made by hand.
pub mod traffic;

pub use anyhow::{Context, Result, bail, ensure};
pub use lab::{Lab, Options};
pub use node::{Node, Pod};
pub use ns::Namespace;

/// Runs a test body as root, or says why not. One topology at a time: the machines are small.
pub fn as_root(body: impl FnOnce() -> Result<()>) {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs CAP_NET_ADMIN");
        return;
    }
    let _one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Err(error) = body() {
        panic!("{error:?}");
    }
}

/// Tries `check` until it succeeds or `seconds` have passed; then its last error.
pub fn eventually<T>(seconds: u64, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(seconds);
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if std::time::Instant::now() >= end => {
                return Err(error.context(format!("still so after {seconds} s")));
            }
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
}
