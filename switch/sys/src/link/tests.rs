use std::net::IpAddr;
use std::os::fd::AsFd;

use ipnet::IpNet;

use super::*;
use crate::testing;
use crate::tun::{Tap, TapOptions};

fn inside(f: impl FnOnce() + Send) {
    if testing::root() {
        testing::namespace().run(f).unwrap();
    }
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A veth pair `v0`, `v1`, both up; the index of `v0`.
fn pair(netlink: &mut Netlink) -> u32 {
    netlink.add_veth("v0", "v1").unwrap();
    testing::up("v0");
    testing::up("v1");
    netlink.link_by_name("v0").unwrap().unwrap().index
}

#[test]
fn links() {
    inside(|| {
        let mut netlink = Netlink::new().unwrap();
        netlink.add_veth("v0", "v1").unwrap();
        assert!(netlink.add_veth("v0", "v2").unwrap_err().is_exists());
        let index = netlink.link_by_name("v0").unwrap().unwrap().index;
        let change = LinkChange {
            mtu: Some(1450),
            mac: Some([2, 1, 2, 3, 4, 5]),
            name: Some("w0".into()),
            txqueuelen: Some(1234),
            gso_max_size: Some(61_900),
            ..LinkChange::default()
        };
        netlink.link_set(index, &change).unwrap();
        netlink.link_set(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        let link = netlink.link_by_index(index).unwrap().unwrap();
        assert_eq!((link.name.as_str(), link.mtu, link.txqueuelen), ("w0", 1450, 1234));
        assert_eq!((link.mac, link.gso_max_size, link.up), (Some([2, 1, 2, 3, 4, 5]), 61_900, true));
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert_eq!(netlink.link_by_name("v0").unwrap(), None);
        netlink.link_set(index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
        assert!(!netlink.link_by_index(index).unwrap().unwrap().up);

        netlink.add_bridge("br0").unwrap();
        let bridge = netlink.link_by_name("br0").unwrap().unwrap();
        netlink.link_set(index, &LinkChange { master: Some(bridge.index), ..LinkChange::default() }).unwrap();
        assert_eq!(netlink.link_by_index(index).unwrap().unwrap().master, Some(bridge.index));
        netlink.add_vxlan("vx0", 1, ip("127.0.0.1"), 8472).unwrap();
        let names: Vec<_> = netlink.link_list().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(names, ["lo", "v1", "w0", "br0", "vx0"]);
        netlink.link_del(index).unwrap();
        assert!(netlink.link_del(index).unwrap_err().is_missing());
        assert_eq!(netlink.link_by_name("v1").unwrap(), None, "its other end goes too");
    });
}

#[test]
fn a_tap_without_queueing_discipline() {
    inside(|| {
        let _tap = Tap::create("t0", &TapOptions::default()).unwrap();
        let mut netlink = Netlink::new().unwrap();
        testing::up("t0");
        let link = netlink.link_by_name("t0").unwrap().unwrap();
        assert!(!matches!(link.qdisc.as_deref(), None | Some("noqueue")), "{link:?}");
        for _ in 0..2 {
            netlink.link_noqueue(link.index).unwrap();
            let link = netlink.link_by_index(link.index).unwrap().unwrap();
            assert_eq!(link.qdisc.as_deref(), Some("noqueue"));
        }
        assert!(netlink.link_noqueue(9999).unwrap_err().is_missing());
    });
}

#[test]
fn errors_say_what_and_why() {
    inside(|| {
        let mut netlink = Netlink::new().unwrap();
        let index = pair(&mut netlink);
        let error =
            netlink.link_set(index, &LinkChange { mtu: Some(1), ..LinkChange::default() }).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        let text = error.to_string();
        assert!(text.contains("mtu: Some(1)") && text.contains("mtu less than device minimum"), "{text}");
        // The socket is as good as before.
        assert!(netlink.link_by_index(index).unwrap().is_some());
    });
}

#[test]
fn addresses() {
    inside(|| {
        let mut netlink = Netlink::new().unwrap();
        let index = pair(&mut netlink);
        netlink.addr_add(index, net("10.1.2.3/24"), AddrFlags::empty()).unwrap();
        netlink.addr_add(index, net("fd00::1/64"), AddrFlags::NODAD).unwrap();
        netlink.addr_add(index, net("fd00::2/64"), AddrFlags::NODAD | AddrFlags::NOPREFIXROUTE).unwrap();
        assert!(netlink.addr_add(index, net("fd00::2/64"), AddrFlags::empty()).unwrap_err().is_exists());
        let mut found = netlink.addr_list(Some(index)).unwrap();
        found.retain(|address| !address.link_scope);
        assert_eq!(found.len(), 3);
        for address in &found {
            assert!(!address.flags.contains(AddrFlags::TENTATIVE), "{address:?}");
            assert!(address.flags.contains(AddrFlags::PERMANENT));
        }
        let second = found.iter().find(|address| address.net == net("fd00::2/64")).unwrap();
        assert!(second.flags.contains(AddrFlags::NODAD | AddrFlags::NOPREFIXROUTE));
        // Usable at once.
        std::net::UdpSocket::bind("[fd00::1]:0").unwrap();
        netlink.addr_del(index, net("10.1.2.3/24")).unwrap();
        assert!(netlink.addr_del(index, net("10.1.2.3/24")).unwrap_err().is_missing());
        assert!(netlink.addr_list(None).unwrap().iter().any(|address| address.net == net("127.0.0.1/8")));
    });
}

#[test]
fn routes() {
    inside(|| {
        let mut netlink = Netlink::new().unwrap();
        let index = pair(&mut netlink);
        netlink.addr_add(index, net("10.1.0.1/24"), AddrFlags::empty()).unwrap();
        netlink.addr_add(index, net("fd00:1::1/64"), AddrFlags::NODAD).unwrap();
        let ours = |netlink: &mut Netlink| -> Vec<Route> {
            netlink
                .route_list(None)
                .unwrap()
                .into_iter()
                .filter(|route| route.protocol == RTPROT_WEFT)
                .collect()
        };
        let route = |dst: &str| Route { dev: Some(index), ..Route::new(net(dst)) };
        let wanted = [
            Route { via: Some(ip("10.1.0.2")), mtu: Some(1450), ..route("0.0.0.0/0") },
            Route { src: Some(ip("10.1.0.1")), ..route("10.7.0.0/16") },
            Route { via: Some(ip("192.0.2.1")), onlink: true, ..route("10.8.0.0/16") },
            Route { via: Some(ip("fd00:1::2")), ..route("10.9.0.0/16") },
            Route { table: 1000, metric: Some(5), ..route("10.6.0.0/16") },
        ];
        let wanted6 = [
            Route { via: Some(ip("fd00:1::2")), mtu: Some(1430), metric: Some(1024), ..route("::/0") },
            Route { src: Some(ip("fd00:1::1")), metric: Some(1024), ..route("fd00:7::/48") },
        ];
        for route in wanted.iter().chain(&wanted6) {
            netlink.route_add(route).unwrap();
            assert!(netlink.route_add(route).unwrap_err().is_exists(), "{route:?}");
        }
        let found = ours(&mut netlink);
        assert_eq!(found.len(), wanted.len() + wanted6.len());
        for route in wanted.iter().chain(&wanted6) {
            assert!(found.contains(route), "{route:?} in {found:#?}");
        }
        let all = netlink.route_list(Some(index)).unwrap();
        assert!(all.len() > found.len() && all.iter().all(|route| route.dev == Some(index)));
        let changed = Route { mtu: Some(1400), ..wanted[0].clone() };
        netlink.route_replace(&changed).unwrap();
        assert!(ours(&mut netlink).contains(&changed));
        let got = netlink.route_get(ip("10.8.1.1")).unwrap();
        assert_eq!((got.dev, got.via, got.src), (Some(index), Some(ip("192.0.2.1")), Some(ip("10.1.0.1"))));
        for route in ours(&mut netlink) {
            netlink.route_del(&route).unwrap();
            assert!(netlink.route_del(&route).unwrap_err().is_missing());
        }
        assert_eq!(ours(&mut netlink), []);
        let far = Route { via: Some(ip("192.0.2.1")), ..Route::new(net("10.5.0.0/16")) };
        assert_eq!(netlink.route_add(&far).unwrap_err().errno(), Some(libc::ENETUNREACH));
        let hole = Route { kind: RouteKind::Blackhole, ..Route::new(net("10.4.0.0/16")) };
        netlink.route_add(&hole).unwrap();
        assert_eq!(ours(&mut netlink), [hole]);
    });
}

#[test]
fn neighbours() {
    inside(|| {
        let mut netlink = Netlink::new().unwrap();
        let index = pair(&mut netlink);
        for (address, mac) in [("10.1.0.2", [2; 6]), ("fd00::2", [4; 6])] {
            let address = ip(address);
            netlink.neigh_set(index, address, [6; 6]).unwrap();
            netlink.neigh_set(index, address, mac).unwrap();
            let wanted = Neighbour {
                index,
                ip: address,
                mac: Some(mac),
                permanent: true,
                valid: true,
                confirmed: true,
            };
            assert!(netlink.neigh_list(Some(index)).unwrap().contains(&wanted));
            netlink.neigh_del(index, address).unwrap();
            assert!(netlink.neigh_del(index, address).unwrap_err().is_missing());
        }
    });
}

#[test]
fn the_monitor_hears_changes() {
    inside(|| {
        let mut monitor = LinkMonitor::new().unwrap();
        assert!(monitor.as_fd().try_clone_to_owned().is_ok());
        assert_eq!(monitor.next_event().unwrap(), None);
        let mut netlink = Netlink::new().unwrap();
        let index = pair(&mut netlink);
        netlink.link_set(index, &LinkChange { mtu: Some(1300), ..LinkChange::default() }).unwrap();
        netlink.addr_add(index, net("10.1.0.1/24"), AddrFlags::empty()).unwrap();
        netlink.route_add(&Route { dev: Some(index), ..Route::new(net("10.2.0.0/16")) }).unwrap();
        netlink.link_del(index).unwrap();
        let mut events = Vec::new();
        while let Some(event) = monitor.next_event().unwrap() {
            events.push(event);
        }
        let seen = |wanted: &dyn Fn(&Event) -> bool| assert!(events.iter().any(wanted), "{events:#?}");
        seen(&|e| matches!(e, Event::LinkChanged(link) if link.index == index && link.mtu == 1300));
        seen(&|e| matches!(e, Event::AddrChanged(address) if address.net == net("10.1.0.1/24")));
        seen(&|e| matches!(e, Event::RouteChanged(route) if route.protocol == RTPROT_WEFT));
        seen(&|e| matches!(e, Event::LinkRemoved(link) if link.index == index && link.name == "v0"));
    });
}

#[test]
fn a_socket_keeps_its_namespace() {
    if !testing::root() {
        return;
    }
    let netns = testing::namespace();
    let mut netlink = netns.run(Netlink::new).unwrap().unwrap();
    netlink.add_bridge("only-there").unwrap();
    assert_eq!(Netlink::new().unwrap().link_by_name("only-there").unwrap(), None);
    assert!(netlink.link_by_name("only-there").unwrap().is_some());
}
