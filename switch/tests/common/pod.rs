//! Pods for root-only tests: a namespace with a TAP in it, traffic by the kernel's own stack.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ipnet::IpNet;
use weft_switch::port::TapDevice;
use weft_sys::link::{AddrFlags, LinkChange, Netlink};
use weft_sys::netns::Netns;
use weft_sys::tun::{Offloads, Tap, TapOptions};

use super::mac;

/// A namespace with the TAP `eth0` in it.
pub struct Pod {
    pub netns: Netns,
    pub device: Arc<TapDevice>,
    pub ip: Ipv4Addr,
}

impl Pod {
    /// Pod number `n`: 10.0.0.n/24, `mac(n)`.
    pub fn new(n: u8, mtu: u32, offloads: Offloads) -> Pod {
        Self::make(n, mtu, offloads, 1)
    }

    /// As [`Pod::new`], with more than one queue.
    pub fn with_queues(n: u8, queues: usize) -> Pod {
        Self::make(n, 1500, Offloads::all(), queues)
    }

    fn make(n: u8, mtu: u32, offloads: Offloads, queues: usize) -> Pod {
        let netns = Netns::create().expect("root");
        let ip = Ipv4Addr::new(10, 0, 0, n);
        let taps = netns.run(|| {
            let options = TapOptions { multi_queue: queues > 1, persist: false, offloads };
            let mut taps = vec![Tap::create("eth0", &options).expect("a TAP")];
            while taps.len() < queues {
                taps.push(taps[0].add_queue().expect("another queue"));
            }
            let change =
                LinkChange { mac: Some(mac(n).0), mtu: Some(mtu), up: Some(true), ..Default::default() };
            configure("eth0", &change, ip);
            configure("lo", &LinkChange { up: Some(true), ..Default::default() }, Ipv4Addr::LOCALHOST);
            taps
        });
        let device = Arc::new(TapDevice::new(taps.expect("root")).expect("a queue"));
        Pod { netns, device, ip }
    }

    /// Deletes `eth0` inside.
    pub fn delete_link(&self) {
        let delete = || {
            let mut netlink = Netlink::new().unwrap();
            let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
            netlink.link_del(index).unwrap();
        };
        self.netns.run(delete).unwrap();
    }

    /// Sets `eth0` up or down.
    pub fn set_up(&self, up: bool) {
        let set = || {
            let mut netlink = Netlink::new().unwrap();
            let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
            netlink.link_set(index, &LinkChange { up: Some(up), ..Default::default() }).unwrap();
        };
        self.netns.run(set).unwrap();
    }

    /// Pings `to`; the output of `ping`.
    pub fn ping(&self, to: Ipv4Addr, options: &[&str]) -> String {
        let output = self.netns.run(|| Command::new("ping").args(options).arg(to.to_string()).output());
        String::from_utf8_lossy(&output.unwrap().expect("ping is installed").stdout).into_owned()
    }

    /// Takes one connection and gives back all that came.
    pub fn serve(&self) -> (SocketAddr, JoinHandle<Vec<u8>>) {
        let at = SocketAddr::from((self.ip, 5201));
        let listener = self.netns.run(|| TcpListener::bind(at)).unwrap().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            bytes
        });
        (at, thread)
    }

    /// Sends `bytes` over a new connection.
    pub fn send(&self, to: SocketAddr, bytes: &[u8]) {
        let mut stream =
            self.netns.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(10))).unwrap().unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
    }

    /// A UDP socket of the pod.
    pub fn udp(&self) -> UdpSocket {
        let socket = self.netns.run(|| UdpSocket::bind((self.ip, 5202))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }

    /// A counter of `/proc/net/snmp` in the pod, e.g. ("Tcp", "InCsumErrors").
    pub fn snmp(&self, protocol: &str, name: &str) -> u64 {
        let text = self.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).unwrap().unwrap();
        let mut rows = text.lines().filter(|line| line.starts_with(&format!("{protocol}:")));
        let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
        let at = names.split_whitespace().position(|n| n == name).unwrap();
        values.split_whitespace().nth(at).unwrap().parse().unwrap()
    }
}

/// Configures a link of the current namespace.
pub fn configure(name: &str, change: &LinkChange, ip: Ipv4Addr) {
    let mut netlink = Netlink::new().unwrap();
    let index = netlink.link_by_name(name).unwrap().unwrap().index;
    if !ip.is_loopback() {
        netlink.addr_add(index, IpNet::new(ip.into(), 24).unwrap(), AddrFlags::default()).unwrap();
    }
    netlink.link_set(index, change).unwrap();
}
