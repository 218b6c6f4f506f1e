//! What the tests share: namespaces of their own, and the word they say without root.
use crate::link::{LinkChange, Netlink};
use crate::netns::Netns;

/// True when the test may go on; else it has said why not.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root() && Netns::create().is_ok();
    if !root {
        println!("skipped: needs CAP_NET_ADMIN");
    }
    root
}

/// A new namespace with loopback up. It has no name: the kernel removes it, with everything in it, when the last
/// descriptor goes, also after a panic.
pub(crate) fn namespace() -> Netns {
    let netns = Netns::create().unwrap();
    netns.run(|| up("lo")).unwrap();
    netns
}

/// Sets a link of the current namespace up.
pub(crate) fn up(name: &str) {
    let mut netlink = Netlink::new().unwrap();
    let index = netlink.link_by_name(name).unwrap().unwrap().index;
    netlink.link_set(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
}

/// A descriptor that this process was started with.
pub(crate) fn inherited(number: std::os::fd::RawFd) -> std::os::fd::OwnedFd {
    use std::os::fd::FromRawFd;
    // SAFETY: the process that started this one left it open, and nobody else here knows of it.
    unsafe { std::os::fd::OwnedFd::from_raw_fd(number) }
}
