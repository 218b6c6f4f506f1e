use std::time::{Duration, Instant};

use weft_sys::link::{Address, Link};

use super::*;
use crate::control::effects::testing::{namespace, root, sh};

fn spec() -> DeviceSpec {
    DeviceSpec {
        ifname: "eth0".into(),
        mac: "02:00:00:00:00:07".parse().unwrap(),
        mtu: 1450,
        route_mtu: None,
        local: Vec::new(),
        overlay_mtu: 1450,
        ips: vec!["10.244.1.7/24".parse().unwrap(), "fd00:1::7/64".parse().unwrap()],
        gateways: vec!["10.244.1.1".parse().unwrap(), "fd00:1::1".parse().unwrap()],
        routes: vec![
            PodRoute {
                dst: "192.0.2.0/24".parse().unwrap(),
                gw: Some("10.244.1.9".parse().unwrap()),
                mtu: Some(1400),
            },
            PodRoute { dst: "198.51.100.0/24".parse().unwrap(), gw: None, mtu: None },
        ],
        queues: 1,
        offloads_off: Vec::new(),
    }
}

fn tap(port: &LivePort) -> &TapDevice {
    let Device::Tap(tap) = &port.device else { panic!("no TAP: {port:?}") };
    tap
}

fn link(netns: &Netns, name: &str) -> Option<Link> {
    netns.run(|| Netlink::new().unwrap().link_by_name(name).unwrap()).unwrap()
}

fn links(netns: &Netns) -> Vec<String> {
    let all = netns.run(|| Netlink::new().unwrap().link_list().unwrap()).unwrap();
    all.into_iter().map(|link| link.name).collect()
}

fn addresses(netns: &Netns, index: u32) -> Vec<Address> {
    netns.run(|| Netlink::new().unwrap().addr_list(Some(index)).unwrap()).unwrap()
}

/// Waits for what a helper thread does.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn superframes_fit_one_send() {
    assert_eq!(gso_max_size(1450), 61_900);
    for mtu in 600..9000 {
        // MAX_TCP_HEADER and one less, as the kernel counts (`sk_setup_caps`).
        let payload = gso_max_size(mtu) - 321;
        let segments = payload / (mtu - 52);
        assert!(segments * (mtu + 22) <= 65_507 && segments <= 128, "MTU {mtu}: {segments} segments");
        assert!(
            segments + 2 > (65_507 / (mtu + 22)).min(128).min(65_215 / (mtu - 52)),
            "MTU {mtu}: only {segments}"
        );
    }
    assert_eq!(gso_max_size(65_521), 65_536);
}

#[test]
fn ipv6_keeps_the_mtu_up() {
    let v4 = ["10.0.0.2/24".parse().unwrap()];
    let v6 = ["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
    assert_eq!(pod_mtu(None, 1450, &v6), (1450, None));
    assert_eq!(pod_mtu(Some(900), 1450, &v4), (900, None));
    let (mtu, warning) = pod_mtu(Some(900), 1450, &v6);
    assert!(mtu == 1280 && warning.unwrap().contains("1280"));
    assert_eq!(pod_mtu(Some(70_000), 1450, &v4).0, MTU_MAX);
    assert!(check(&DeviceSpec { mtu: 1279, ..spec() }).unwrap_err().to_string().contains("expected 1280"));
}

#[test]
fn offloads_have_names() {
    assert_eq!(offload_names(Offloads::all()), ["csum", "tso4", "tso6", "ecn", "uso"]);
    let off = |names: &[&str]| offloads(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    assert_eq!(off(&["csum"]).unwrap(), Offloads::empty());
    assert_eq!(offload_names(off(&["tso4", "tso6"]).unwrap()), ["csum", "uso"]);
    assert!(off(&["gro"]).unwrap_err().to_string().contains("expected csum, tso4"));
}

#[test]
fn a_port_is_made_whole_and_goes_without_a_trace() {
    if !root() {
        return;
    }
    let netns = namespace();
    let port = create(&spec(), &netns).unwrap();
    let device = link(&netns, "eth0").unwrap();
    assert_eq!(
        (device.index, device.mtu, device.mac, device.up),
        (port.index, 1450, Some([2, 0, 0, 0, 0, 7]), true)
    );
    assert!(device.txqueuelen >= 1000 && device.gso_max_size == 61_900 && device.carrier, "{device:?}");
    assert_eq!((port.offloads, device.qdisc.as_deref()), (tap(&port).offloads(), Some("noqueue")));
    // Usable at once: nothing tentative.
    let addresses = addresses(&netns, port.index);
    for ip in spec().ips {
        let found = addresses.iter().find(|address| address.net == ip).unwrap();
        assert!(!found.flags.contains(AddrFlags::TENTATIVE), "{found:?}");
    }
    let routes = netns.run(|| sh("ip route show")).unwrap();
    for part in ["default via 10.244.1.1", "192.0.2.0/24 via 10.244.1.9", "mtu 1400", "198.51.100.0/24"] {
        assert!(routes.contains(part), "{routes}");
    }
    assert!(netns.run(|| sh("ip -6 route show default")).unwrap().contains("via fd00:1::1"));
    let accept_ra = sysctl::Key::interface("ipv6", "eth0", "accept_ra").unwrap();
    assert_eq!(netns.run(|| sysctl::get(&accept_ra)).unwrap().unwrap(), "0");
    destroy(port, Some(netns.try_clone().unwrap()));
    eventually("deleting the link", || links(&netns) == ["lo"]);
}

#[test]
fn whatever_fails_leaves_nothing() {
    if !root() {
        return;
    }
    let netns = namespace();
    netns.run(|| sh("ip link add eth0 type veth peer name other")).unwrap();
    let error = create(&spec(), &netns).unwrap_err();
    assert!(matches!(&error, EffectError::Exists(name) if name == "eth0"), "{error}");
    let before = ["eth0", "lo", "other"];
    let same = || {
        let mut now = links(&netns);
        now.sort();
        now == before
    };
    eventually("undo", same);
    // The last steps fail, too: a gateway that is nobody's, a duplicate address.
    for broken in [
        DeviceSpec {
            ifname: "p1".into(),
            ips: vec!["10.1.0.1/24".parse().unwrap(); 2],
            gateways: Vec::new(),
            routes: Vec::new(),
            ..spec()
        },
        DeviceSpec {
            ifname: "p1".into(),
            routes: vec![
                PodRoute {
                    dst: "192.0.2.0/24".parse().unwrap(),
                    gw: Some("fe80::1".parse().unwrap()),
                    mtu: Some(9)
                };
                2
            ],
            ..spec()
        },
    ] {
        assert!(create(&broken, &netns).is_err());
        eventually("undo", same);
    }
    for invalid in [
        DeviceSpec { ifname: "a/b".into(), ..spec() },
        DeviceSpec { mac: MacAddr::BROADCAST, ..spec() },
        DeviceSpec { queues: 0, ..spec() },
        DeviceSpec { mtu: 70_000, ..spec() },
    ] {
        assert!(matches!(create(&invalid, &netns), Err(EffectError::Invalid(_))));
    }
}

#[test]
fn a_port_survives_and_is_attached_again() {
    if !root() {
        return;
    }
    for queues in [1, 2] {
        let (netns, spec) = (namespace(), DeviceSpec { queues, ..spec() });
        let port = create(&spec, &netns).unwrap();
        assert_eq!(port.device.queues(), usize::from(queues));
        let index = port.index;
        drop(port);
        // A child that another test has just forked has the descriptor until it is another program.
        eventually("the carrier to go", || !link(&netns, "eth0").unwrap().carrier);
        // The underlay has shrunk meanwhile.
        let spec = DeviceSpec { mtu: 1400, overlay_mtu: 1400, ..spec };
        let port = reattach(&spec, &netns).unwrap();
        assert_eq!(
            link(&netns, "eth0").map(|link| (link.mtu, link.gso_max_size)),
            Some((1400, gso_max_size(1400)))
        );
        assert!(port.index == index && link(&netns, "eth0").unwrap().carrier);
        assert_eq!(port.device.queues(), usize::from(queues));
        drop(port);
        // Other flags would change the device silently.
        let other = DeviceSpec { queues: 3 - queues, ..spec.clone() };
        assert!(
            matches!(reattach(&other, &netns), Err(EffectError::Tap(tun_error)) if tun_error.to_string().contains("flags"))
        );
        netns.run(|| sh("ip link del eth0")).unwrap();
        assert!(matches!(reattach(&spec, &netns), Err(EffectError::Missing(_))));
        assert_eq!(links(&netns), ["lo"]);
    }
}

#[test]
fn reconfiguring_changes_the_difference() {
    if !root() {
        return;
    }
    let netns = namespace();
    let port = create(&spec(), &netns).unwrap();
    let new = DeviceSpec {
        mtu: 1400,
        overlay_mtu: 1400,
        mac: "02:00:00:00:00:08".parse().unwrap(),
        ips: vec!["10.244.1.7/24".parse().unwrap(), "10.244.2.7/24".parse().unwrap()],
        gateways: vec!["10.244.2.1".parse().unwrap()],
        routes: Vec::new(),
        ..spec()
    };
    reconfigure(port.index, &netns, &spec(), &new).unwrap();
    let device = link(&netns, "eth0").unwrap();
    assert_eq!(
        (device.mtu, device.mac, device.gso_max_size),
        (1400, Some([2, 0, 0, 0, 0, 8]), gso_max_size(1400))
    );
    let addresses = addresses(&netns, port.index);
    let global: Vec<_> =
        addresses.iter().filter(|address| !address.link_scope).map(|address| address.net).collect();
    assert_eq!(global, new.ips);
    let routes = netns.run(|| sh("ip route show")).unwrap();
    assert!(routes.contains("default via 10.244.2.1") && !routes.contains("192.0.2.0"), "{routes}");
    // What cannot be leaves everything as it was.
    let group = Some("224.0.0.1".parse().unwrap());
    let routes_to_a_group = vec![PodRoute { dst: "192.0.2.0/24".parse().unwrap(), gw: group, mtu: None }];
    let broken = DeviceSpec { mtu: 1300, routes: routes_to_a_group, ..new.clone() };
    assert!(reconfigure(port.index, &netns, &new, &broken).is_err());
    assert_eq!(netns.run(|| sh("ip route show")).unwrap(), routes);
    assert_eq!(link(&netns, "eth0").unwrap().mtu, 1400);
    assert!(reconfigure(port.index, &netns, &new, &DeviceSpec { queues: 2, ..new.clone() }).is_err());
    reconfigure(port.index, &netns, &new, &spec()).unwrap();
    assert!(netns.run(|| sh("ip route show")).unwrap().contains("192.0.2.0/24 via 10.244.1.9"));
}

#[test]
fn a_bigger_device_has_smaller_routes() {
    if !root() {
        return;
    }
    let small = spec();
    let big = DeviceSpec {
        mtu: MTU_MAX,
        route_mtu: Some(1450),
        local: vec!["10.244.1.0/24".parse().unwrap(), "10.99.0.0/24".parse().unwrap()],
        ..spec()
    };
    let netns = namespace();
    let port = create(&big, &netns).unwrap();
    let all = || netns.run(|| sh("ip route show") + &sh("ip -6 route show")).unwrap();
    let line =
        |start: &str| all().lines().find(|line| line.starts_with(start)).unwrap_or_default().to_owned();
    let is_big = || {
        assert_eq!(link(&netns, "eth0").unwrap().mtu, MTU_MAX);
        assert!(line("default via 10.244.1.1").contains("mtu 1450"), "{}", all());
        assert!(line("default via fd00:1::1").contains("mtu 1450"), "{}", all());
        assert!(line("192.0.2.0/24").contains("mtu 1400") && line("198.51.100.0/24").contains("mtu 1450"));
        for local in ["10.244.1.0/24 dev eth0", "10.99.0.0/24 via 10.244.1.1", "fd00:1::/64 dev eth0"] {
            assert!(!line(local).is_empty() && !line(local).contains("mtu"), "{local}: {}", all());
        }
    };
    is_big();
    reconfigure(port.index, &netns, &big, &small).unwrap();
    assert!(link(&netns, "eth0").unwrap().mtu == 1450 && !line("default").contains("mtu"), "{}", all());
    // The kernel takes an IPv6 route of the old device's MTU along when that grows.
    reconfigure(port.index, &netns, &small, &big).unwrap();
    is_big();
    // The underlay has shrunk while nobody was there.
    drop(port);
    let narrow = DeviceSpec { route_mtu: Some(1350), overlay_mtu: 1350, ..big };
    close(reattach(&narrow, &netns).unwrap());
    assert!(line("default via 10.244.1.1").contains("mtu 1350"), "{}", all());
    assert!(line("default via fd00:1::1").contains("mtu 1350"), "{}", all());
    assert_eq!(
        link(&netns, "eth0").map(|link| (link.mtu, link.gso_max_size)),
        Some((MTU_MAX, gso_max_size(1350)))
    );
}

#[test]
fn a_second_interface_leaves_the_default_route_alone() {
    if !root() {
        return;
    }
    let netns = namespace();
    let first = create(&spec(), &netns).unwrap();
    let second = DeviceSpec {
        ifname: "eth1".into(),
        mac: "02:00:00:00:00:09".parse().unwrap(),
        ips: vec!["10.9.0.7/24".parse().unwrap()],
        gateways: vec!["10.9.0.1".parse().unwrap()],
        routes: Vec::new(),
        ..spec()
    };
    let second = create(&second, &netns).unwrap();
    let routes = netns.run(|| sh("ip route show default")).unwrap();
    assert_eq!(routes.trim(), "default via 10.244.1.1 dev eth0 proto 157");
    close((first, second));
}

#[test]
fn a_gateway_off_the_prefix_is_reached_on_link() {
    if !root() {
        return;
    }
    let netns = namespace();
    let spec = DeviceSpec {
        ips: vec!["10.1.2.3/32".parse().unwrap(), "fd00::3/128".parse().unwrap()],
        gateways: vec!["169.254.1.1".parse().unwrap(), "fe80::1".parse().unwrap()],
        routes: Vec::new(),
        ..spec()
    };
    let port = create(&spec, &netns).unwrap();
    let routes = netns.run(|| sh("ip route show default") + &sh("ip -6 route show default")).unwrap();
    assert!(
        routes.contains("via 169.254.1.1") && routes.contains("onlink") && routes.contains("via fe80::1"),
        "{routes}"
    );
    close(port);
}

#[test]
fn namespaces_are_found_by_what_specs_call_them() {
    if !root() {
        return;
    }
    let own = Netns::current().unwrap().id().unwrap();
    let pid = std::process::id().to_string();
    for name in [None, Some(pid.as_str()), Some("/proc/self/ns/net")] {
        assert_eq!(open_netns(name).unwrap().id().unwrap(), own, "{name:?}");
    }
    for (name, told) in [
        ("wefttest-eff-none", "wefttest-eff-none: there is no /run/netns/wefttest-eff-none"),
        ("4194399", "4194399: there is no /run/netns/4194399, and no process 4194399"),
        ("99999999999", "no process 99999999999"),
    ] {
        let error = open_netns(Some(name)).unwrap_err().to_string();
        assert!(error.ends_with(told), "{error}");
    }
    for name in ["wefttest-eff-none", "/nowhere", "4194399", "", ".."] {
        let error = open_netns(Some(name)).unwrap_err().to_string();
        assert!(error.starts_with("network namespace"), "{error}");
    }
}
