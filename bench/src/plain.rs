//! The plainest userspace switch: two TAP devices of the `tun-tap` crate, and a loop each way that reads a frame and
//! writes it. No vnet header, so every frame is a packet with its checksum: what that costs is what this is here to show.

use std::io;
use std::sync::Arc;
use std::thread;

use anyhow::Context as _;
use tun_tap::{Iface, Mode};
use weft_sys::netns::Netns;

/// Longest frame: 64 KiB and an Ethernet header.
const MAX_FRAME: usize = 65_550;

/// Makes `eth0` in both namespaces, named as below `/run/netns`, and copies frames between them until a device is gone.
///
/// # Errors
/// There is no such namespace, or no device can be made.
pub fn run(one: &str, other: &str) -> anyhow::Result<()> {
    let (one, other) = (Arc::new(open(one)?), Arc::new(open(other)?));
    let back = (Arc::clone(&other), Arc::clone(&one));
    thread::spawn(move || copy(&back.0, &back.1));
    copy(&one, &other).context("the device is gone")
}

fn open(namespace: &str) -> anyhow::Result<Iface> {
    let place = Netns::by_name(namespace).with_context(|| format!("namespace {namespace}"))?;
    let device = place.run(|| Iface::without_packet_info("eth0", Mode::Tap))?;
    device.with_context(|| format!("a TAP device in {namespace}"))
}

fn copy(from: &Iface, to: &Iface) -> io::Result<()> {
    let mut frame = vec![0; MAX_FRAME];
    loop {
        let len = from.recv(&mut frame)?;
        // A device that is down takes none: dropped, as a switch does.
        let _ = to.send(&frame[..len]);
    }
}
