//! Superframes that leave whole: two data planes in two namespaces that a virtual link joins. Needs root.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use common::*;
use weft_encap::{Gso, vnet};
use weft_switch::path::{Dataplane, Total};
use weft_switch::port::{Device, MemDevice, Underlay, UnderlayConfig};
use weft_switch::table::PeerSlot;
use weft_sys::link::{AddrFlags, LinkChange, Netlink};
use weft_sys::netns::Netns;
use weft_sys::sysctl::{self, Key};
use weft_sys::tun::Offloads;
use weft_sys::tunnel_gso::TunnelGso;

const PORT: u16 = 4789;
const MTU: u32 = 1430;

struct Node {
    plane: Dataplane,
    device: Arc<MemDevice>,
    gso: Arc<TunnelGso>,
    underlay: Arc<Underlay>,
    netns: Netns,
}

/// Two namespaces with a virtual link, and on it the addresses of family `v6`. `None`: not here.
fn joined(v6: bool) -> Option<[(Netns, IpAddr); 2]> {
    if !root() {
        return None;
    }
    let (a, b) = (Netns::create().unwrap(), Netns::create().unwrap());
    let address = |n: u16| match v6 {
        true => IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, n]),
        false => IpAddr::from([192, 0, 2, n as u8]),
    };
    a.run(|| {
        let mut netlink = Netlink::new().unwrap();
        netlink.add_veth("eth0", "other").unwrap();
        let other = netlink.link_by_name("other").unwrap().unwrap().index;
        netlink.link_move(other, &b).unwrap();
    })
    .unwrap();
    b.run(|| {
        let mut netlink = Netlink::new().unwrap();
        let index = netlink.link_by_name("other").unwrap().unwrap().index;
        netlink.link_set(index, &LinkChange { name: Some("eth0".into()), ..Default::default() }).unwrap();
    })
    .unwrap();
    for (netns, n) in [(&a, 1), (&b, 2)] {
        netns
            .run(|| {
                let mut netlink = Netlink::new().unwrap();
                let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
                let net = ipnet::IpNet::new(address(n), if v6 { 64 } else { 24 }).unwrap();
                netlink.addr_add(index, net, AddrFlags::NODAD).unwrap();
                netlink.link_set(index, &LinkChange { up: Some(true), ..Default::default() }).unwrap();
            })
            .unwrap();
    }
    Some([(a, address(1)), (b, address(2))])
}

/// The nodes of two namespaces, station 0 behind the first. `None`: this kernel has no such device.
fn pair(v6: bool) -> Option<[Node; 2]> {
    let [(a, at_a), (b, at_b)] = joined(v6)?;
    let node = |n: u8, netns: Netns, own: IpAddr, other: IpAddr| {
        let (v4, v6) = match own {
            IpAddr::V4(ip) => (Some(ip), None),
            IpAddr::V6(ip) => (None, Some(ip)),
        };
        // The device hands IPv6 on as the host's switch says.
        let switch = || sysctl::set(&Key::parse("net.ipv6.conf.all.forwarding").unwrap(), "1");
        netns.run(switch).unwrap().unwrap();
        let gso = match netns.run(TunnelGso::create).unwrap() {
            Ok(gso) => Arc::new(gso),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                println!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let underlay = netns.run(|| Underlay::open(UnderlayConfig { port: PORT, v4, v6 })).unwrap().unwrap();
        let underlay = Arc::new(underlay);
        underlay.set_tunnel_gso(Some(&gso));
        let (plane, device, mut net) = (plane(), mem(Offloads::all()), Net::default());
        net.port_with_mac(Device::Mem(device.clone()), mac(n));
        net.peer(Arc::clone(&underlay), SocketAddr::new(other, PORT), MTU, &[mac(1 - n)]);
        net.publish(&plane);
        Some(Node { plane, device, gso, underlay, netns })
    };
    Some([node(0, a, at_a, at_b)?, node(1, b, at_b, at_a)?])
}

fn change(netns: &Netns, change: &LinkChange) {
    let set = || {
        let mut netlink = Netlink::new().unwrap();
        let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
        netlink.link_set(index, change).unwrap();
    };
    netns.run(set).unwrap();
}

fn ethtool(netns: &Netns, args: &[&str]) {
    let done =
        netns.run(|| Command::new("ethtool").args(["-K", "eth0"]).args(args).output()).unwrap().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn superframes_cross_whole_over_both_families() {
    for v6 in [false, true] {
        let Some([a, b]) = pair(v6) else { return };
        // The gso size of what comes whole is what the receiver's MTU allows: nothing on the way says it.
        let size = MTU as u16 - 40;
        let tcp_payload = pattern(44 * usize::from(size));
        let (tcp_header, tcp) = owing(tcp(0, 1, &tcp_payload), Gso::Tcp { size });
        let (udp_header, udp) = owing(udp(0, 1, (5, 6), &pattern(40 * 1000)), Gso::Udp { size: 1000 });
        for _ in 0..20 {
            for (header, frame) in [(tcp_header, &tcp), (udp_header, &udp)] {
                a.device.inject(header, frame);
                assert!(next(&b.device) == (header, frame.clone()), "v6 underlay: {v6}");
            }
        }
        settled(&a.plane, Total::SuperframesSent, 40);
        settled(&a.plane, Total::SuperframesCut, 0);
        settled(&a.plane, Total::ChecksumsComputed, 0);
        settled(&b.plane, Total::SuperframesWhole, 40);
        assert_eq!(a.plane.peer_counters(PeerSlot(0)).tx_frames, 20 * (44 + 40));
        assert_eq!(a.gso.lost().unwrap(), 0);
    }
}

#[test]
fn an_underlay_that_does_not_segment_tunnels_gets_packets_of_its_mtu() {
    for v6 in [false, true] {
        let Some([a, b]) = pair(v6) else { return };
        ethtool(
            &a.netns,
            &["tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off", "tso", "off"],
        );
        ethtool(
            &a.netns,
            &["tx-gso-partial", "off", "tx-udp-segmentation", "off", "gso", "off", "tx", "off"],
        );
        ethtool(&b.netns, &["gro", "on"]);
        let payload = pattern(44 * 1300);
        let (header, frame) = owing(tcp(0, 1, &payload), Gso::Tcp { size: 1300 });
        a.device.inject(header, &frame);
        let mut received = Vec::new();
        while received.len() < payload.len() {
            let (got, frame) = next(&b.device);
            assert!(got.gso_type == vnet::GSO_NONE || got.gso_size == 1300, "{got:?}");
            received.extend_from_slice(headers(&frame).payload(&frame));
        }
        assert!(received == payload, "v6 underlay: {v6}");
        settled(&a.plane, Total::SuperframesSent, 1);
        assert_eq!(b.plane.peer_counters(PeerSlot(0)).rx_frames, 44);
        assert!(total(&b.plane, Total::SuperframesGlued) >= 1, "the receiver's kernel joins no packets");
        assert_eq!(b.plane.tunnel_drops().sum(), 0);
    }
}

#[test]
fn what_has_no_way_is_counted_and_cut_when_told() {
    let Some([a, b]) = pair(false) else { return };
    let (header, frame) = owing(tcp(0, 1, &pattern(10_000)), Gso::Tcp { size: 1300 });
    change(&a.netns, &LinkChange { mtu: Some(1400), ..Default::default() });
    let too_long = owing(tcp(0, 1, &pattern(10_000)), Gso::Tcp { size: 1390 });
    a.device.inject(too_long.0, &too_long.1);
    until("the frame that does not fit the MTU", || a.gso.lost().unwrap() == 1);
    a.underlay.set_tunnel_gso(None);
    a.device.inject(header, &frame);
    assert!(headers(&next(&b.device).1).payload(&frame).len() >= 10_000);
    settled(&a.plane, Total::SuperframesCut, 1);
    a.underlay.set_tunnel_gso(Some(&a.gso));
    change(&a.netns, &LinkChange { up: Some(false), ..Default::default() });
    a.device.inject(header, &frame);
    until("the frame without a route", || a.gso.lost().unwrap() == 2);
}

#[test]
fn the_device_is_taken_over_and_goes_with_its_last_descriptor() {
    let Some([(netns, _), _]) = joined(false) else { return };
    let names = || {
        let links = Netlink::new().unwrap().link_list().unwrap();
        links
            .into_iter()
            .map(|link| link.name)
            .filter(|name| name.starts_with("weft-gso"))
            .collect::<Vec<_>>()
    };
    netns
        .run(|| {
            use std::os::fd::AsFd;
            let first = match TunnelGso::create() {
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => return,
                other => other.unwrap(),
            };
            let kept = first.as_fd().try_clone_to_owned().unwrap();
            drop(first);
            let second = TunnelGso::adopt(kept).unwrap();
            assert_eq!(names(), ["weft-gso0"]);
            drop(second);
            until("the device to go", || names().is_empty());
        })
        .unwrap();
}
