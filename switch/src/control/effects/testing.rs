//! What the tests share: namespaces of their own, programs run inside them, and the word they say without root.

use std::process::Command;

use weft_sys::link::{LinkChange, Netlink};
use weft_sys::netns::Netns;

/// True when the test may go on; else it has said why not.
pub(crate) fn root() -> bool {
    let root = rustix::process::geteuid().is_root() && Netns::create().is_ok();
    if !root {
        println!("skipped: needs CAP_NET_ADMIN");
    }
    root
}

/// A new namespace with loopback up. It has no name: it ends with its last descriptor, also after a panic.
pub(crate) fn namespace() -> Netns {
    let netns = Netns::create().unwrap();
    netns
        .run(|| {
            let mut netlink = Netlink::new().unwrap();
            let index = netlink.link_by_name("lo").unwrap().unwrap().index;
            netlink.link_set(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        })
        .unwrap();
    netns
}

/// Runs a command line (split at spaces) in the current namespace and gives what it printed. Panics if it fails.
pub(crate) fn sh(line: &str) -> String {
    let mut words = line.split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}
