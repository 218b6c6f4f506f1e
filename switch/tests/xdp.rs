//! AF_XDP ports on veth pairs in namespaces of their own. Needs root.

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::pod::configure;
use common::*;
use weft_encap::{VnetHdr, vnet};
use weft_switch::port::{Device, XdpDevice};
use weft_sys::ethtool;
use weft_sys::link::{LinkChange, Netlink};
use weft_sys::netns::Netns;
use weft_sys::sysctl;
use weft_sys::xdp::{Attachment, Program, Want, XskMap};

/// A veth pair: the switch's end `near`, and `far` with station 1 and a UDP socket behind it.
struct Wire {
    netns: Netns,
    near: u32,
    socket: UdpSocket,
}

impl Wire {
    fn new() -> Wire {
        let netns = Netns::create().expect("root");
        let made = netns.run(|| {
            let mut netlink = Netlink::new().unwrap();
            netlink.add_veth("near", "far").unwrap();
            // A frame from there would have the worker's poll send what waits.
            for end in ["near", "far"] {
                let quiet = sysctl::Key::interface("ipv6", end, "disable_ipv6").unwrap();
                sysctl::set(&quiet, "1").unwrap();
            }
            let near = netlink.link_by_name("near").unwrap().unwrap().index;
            let up = LinkChange { up: Some(true), ..Default::default() };
            netlink.link_set(near, &up).unwrap();
            let ip = Ipv4Addr::new(10, 0, 0, 1);
            configure("far", &LinkChange { mac: Some(mac(1).0), ..up }, ip);
            let far = ethtool::Device::new("far").unwrap();
            far.set_offload(ethtool::Offload::TxChecksums, false).unwrap();
            let socket = UdpSocket::bind((ip, 5202)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            (near, socket)
        });
        let (near, socket) = made.unwrap();
        Wire { netns, near, socket }
    }

    fn open(&self) -> XdpDevice {
        self.netns.run(|| XdpDevice::open(self.near)).unwrap().unwrap()
    }

    fn set_up(&self, up: bool) {
        let set = || {
            let change = LinkChange { up: Some(up), ..Default::default() };
            Netlink::new().unwrap().link_set(self.near, &change).unwrap();
        };
        self.netns.run(set).unwrap();
    }

    /// What came, within a tenth of a second.
    fn try_receive(&self) -> Option<Vec<u8>> {
        let mut bytes = [0; 2000];
        match self.socket.recv(&mut bytes) {
            Ok(length) => Some(bytes[..length].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn receive(&self) -> Vec<u8> {
        let mut came = None;
        until("a datagram", || {
            came = self.try_receive();
            came.is_some()
        });
        came.expect("waited for it")
    }
}

/// A datagram for the socket at the far end.
fn datagram(payload: &[u8]) -> Vec<u8> {
    udp(2, 1, (1000, 5202), payload)
}

/// A worker asks again, though no frame follows.
#[test]
fn what_could_not_leave_leaves_later() {
    if !root() {
        return;
    }
    let (wire, plane, from) = (Wire::new(), plane(), mem(weft_sys::tun::Offloads::all()));
    let mut net = Net::default();
    net.port(Device::Mem(from.clone()));
    let to = net.port(Device::Xdp(Arc::new(wire.open())));
    net.publish(&plane);
    for (number, name) in (0..).zip([&b"one"[..], b"two", b"three"]) {
        wire.set_up(number == 0);
        from.inject(VnetHdr::NONE, &datagram(name));
        until("it to be sent", || plane.port_counters(to).tx_frames == number + 1);
        if number > 0 {
            assert_eq!(wire.try_receive(), None, "by a device that is down");
            wire.set_up(true);
        }
        assert_eq!(wire.receive(), name);
    }
}

/// A device above another one, whose queue holds what it is given: nothing comes back sent, and no call fails.
#[test]
fn a_device_that_does_not_send_is_noticed() {
    if !root() {
        return;
    }
    let netns = Netns::create().expect("root");
    let sh = |line: &str| {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        let done = netns.run(|| command.args(words).output()).unwrap().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
    };
    for line in [
        "ip link add below type veth peer name far",
        "ip link set below up",
        "ip link set far up",
        "ip link add near link below type macvlan mode bridge",
        "ip link set near up",
    ] {
        sh(line);
    }
    let index = || Netlink::new().unwrap().link_by_name("near").unwrap().unwrap().index;
    let device = netns.run(|| XdpDevice::open(index())).unwrap().unwrap();
    let send = || {
        let frame: Vec<u8> = [0; vnet::LEN].into_iter().chain(datagram(&[7; 1000])).collect();
        let mut out = device.outbound();
        out.send(&frame).unwrap();
        out.finish()
    };
    assert!(!send());
    until("it to be sent", || device.look() == 0);
    assert_eq!(device.look(), 0);
    sh("tc qdisc add dev below root tbf rate 8bit burst 2000 limit 1000000");
    for _ in 0..10 {
        assert!(!send());
    }
    // The first may have left.
    until("it to be noticed", || device.look() == 5);
    sh("tc qdisc del dev below root");
    until("it to send again", || device.look() == 0);
    assert!(!send());
    until("it to be sent", || device.look() == 0);
}

/// Its program cannot be attached: a device above it has one.
#[test]
fn a_device_that_could_not_be_opened_is_opened_later() {
    if !root() {
        return;
    }
    let wire = Wire::new();
    let above = |line: &str| {
        let done = wire.netns.run(|| Command::new("ip").args(line.split_whitespace()).status()).unwrap();
        assert!(done.unwrap().success(), "{line}");
    };
    above("link add above link near type macvlan mode bridge");
    let attach = || {
        let index = Netlink::new().unwrap().link_by_name("above").unwrap().unwrap().index;
        let program = Program::everything(&XskMap::new(1).unwrap()).unwrap();
        Attachment::new(&program, index, Want::Generic).unwrap()
    };
    let program = wire.netns.run(attach).unwrap();
    for _ in 0..10 {
        let refused = wire.netns.run(|| XdpDevice::open(wire.near)).unwrap().unwrap_err().to_string();
        assert!(refused.starts_with("attach the XDP program"), "{refused}");
    }
    drop(program);
    let device = wire.open();
    let mut out = device.outbound();
    let frame: Vec<u8> = [0; vnet::LEN].into_iter().chain(datagram(b"now")).collect();
    out.send(&frame).unwrap();
    out.finish();
    assert_eq!(wire.receive(), b"now");
}

/// A process that ended before the kernel took what was in the ring.
#[test]
fn what_a_process_leaves_in_the_ring_leaves_by_the_next() {
    if !root() {
        return;
    }
    let wire = Wire::new();
    let device = wire.open();
    wire.set_up(false);
    let frame: Vec<u8> = [0; vnet::LEN].into_iter().chain(datagram(b"late")).collect();
    device.outbound().send(&frame).unwrap();
    assert!(device.flush(), "sent by a device that is down");
    let parts: Vec<OwnedFd> =
        device.descriptors().iter().map(|part| part.try_clone_to_owned().unwrap()).collect();
    drop(device);
    wire.set_up(true);
    assert_eq!(wire.try_receive(), None);
    let parts = parts.try_into().unwrap();
    let next = wire.netns.run(|| XdpDevice::adopt(parts, wire.near)).unwrap().unwrap();
    assert_eq!(wire.try_receive(), None);
    next.activate().unwrap();
    assert_eq!(wire.receive(), b"late");
}
