use super::*;
use crate::control::effects::port;
use crate::control::effects::testing::{namespace, root, sh};

fn spec() -> HostSpec {
    HostSpec {
        ifname: "weft0".into(),
        mac: "02:00:00:00:00:11".parse().unwrap(),
        router_mac: "02:00:00:00:00:01".parse().unwrap(),
        mtu: 1450,
        local_mtu: None,
        gateways: vec!["10.244.1.1/24".parse().unwrap(), "fd00:1:1::1/64".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1:1::/64".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:1::/32".parse().unwrap()],
        masquerade: true,
        untracked: Some("192.0.2.1:4789".parse().unwrap()),
    }
}

/// Everything that must be the same before and after.
fn dump() -> String {
    let mut text = String::new();
    for line in [
        "ip -d addr",
        "ip route show table all",
        "ip -6 route show table all",
        "ip rule",
        "ip neigh",
        "nft list ruleset",
    ] {
        text += &format!("== {line}\n{}", sh(line));
    }
    for family in ["ipv4", "ipv6"] {
        for name in ["forwarding", "accept_ra", "accept_redirects", "rp_filter", "send_redirects"] {
            for interface in std::fs::read_dir(format!("/proc/sys/net/{family}/conf")).unwrap() {
                let interface = interface.unwrap().file_name().into_string().unwrap();
                let key = Key::interface(family, &interface, name).unwrap();
                if let Ok(value) = sysctl::get(&key) {
                    text += &format!("{key} = {value}\n");
                }
            }
        }
    }
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.contains("valid_lft")).collect();
    // Directories come in no order.
    let start = lines.iter().position(|line| line.starts_with("net/")).unwrap();
    lines[start..].sort_unstable();
    lines.join("\n")
}

fn make(network: &mut HostNetwork, spec: &HostSpec) -> port::LivePort {
    let port = port::create(&spec.tap(), &weft_sys::netns::Netns::current().unwrap()).unwrap();
    network.apply(spec).unwrap();
    port
}

#[test]
fn everything_is_made_and_put_back() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let record = record_path(directory.path());
    namespace()
        .run(|| {
            sh("ip link add up0 type veth peer name up1");
            sh("ip link set up0 up");
            sh("ip link set up1 up");
            sh("ip addr add 172.30.0.11/24 dev up0");
            sysctl::set(&Key::parse("net.ipv4.conf.all.forwarding").unwrap(), "0").unwrap();
            sysctl::set(&Key::parse("net.ipv4.conf.up1.forwarding").unwrap(), "1").unwrap();
            sysctl::set(&Key::parse("net.ipv4.conf.all.accept_redirects").unwrap(), "0").unwrap();
            sysctl::set(&Key::parse("net.ipv6.conf.all.forwarding").unwrap(), "0").unwrap();
            sysctl::set(&Key::parse("net.ipv6.conf.up0.accept_ra").unwrap(), "1").unwrap();
            // Duplicate address detection of the link-local addresses must not fall between the dumps.
            std::thread::sleep(Duration::from_millis(2500));
            let before = dump();

            let mut network = HostNetwork::open(&record, "weft0").unwrap();
            let port = make(&mut network, &spec());
            let routes = sh("ip route show dev weft0") + &sh("ip -6 route show dev weft0");
            for part in [
                "10.244.0.0/16 via 169.254.77.1 proto 157 src 10.244.1.1 onlink",
                "10.244.1.0/24 proto kernel",
                "fd00:1::/32 via fe80::77:1 proto 157 src fd00:1:1::1",
            ] {
                assert!(routes.contains(part), "{part}\n{routes}");
            }
            assert!(
                sh("ip neigh show dev weft0").contains("169.254.77.1 lladdr 02:00:00:00:00:01 PERMANENT")
            );
            assert!(sh("ip -6 neigh show dev weft0").contains("fe80::77:1 lladdr 02:00:00:00:00:01"));
            assert!(sh("nft list table inet weft").contains("masquerade fully-random"));
            let value = |key: &str| sysctl::get(&Key::parse(key).unwrap()).unwrap();
            assert_eq!(value("net.ipv4.ip_forward"), "1");
            assert_eq!(value("net.ipv6.conf.up0.accept_ra"), "2");
            assert_eq!(value("net.ipv4.conf.weft0.rp_filter"), "2");
            assert!(network.sysctls().iter().any(|change| change.key == "net/ipv4/conf/all/forwarding"));

            // A second run finds everything as it should be, and knows what was before.
            drop(network);
            let present = dump();
            let mut network = HostNetwork::open(&record, "weft0").unwrap();
            network.apply(&spec()).unwrap();
            assert_eq!(dump(), present);

            network.purge("weft0").unwrap();
            Netlink::new().unwrap().link_del(port.index).unwrap();
            drop(port);
            assert_eq!(before, dump());
            assert!(!record.exists());
            network.purge("weft0").unwrap();
        })
        .unwrap();
}

#[test]
fn a_change_touches_the_difference_only() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    namespace()
        .run(|| {
            let mut network = HostNetwork::open(record_path(directory.path()), "weft0").unwrap();
            let port = make(&mut network, &spec());
            let mut new = spec();
            new.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap(), "10.9.0.0/16".parse().unwrap()];
            new.gateways.truncate(1);
            new.pod_cidrs.truncate(1);
            new.router_mac = "02:00:00:00:00:02".parse().unwrap();
            new.mtu = 1400;
            network.apply(&new).unwrap();
            let routes = sh("ip route show dev weft0") + &sh("ip -6 route show dev weft0");
            assert!(
                routes.contains("10.9.0.0/16 via 169.254.77.1") && !routes.contains("fd00:1::/32"),
                "{routes}"
            );
            let neighbours = sh("ip neigh show dev weft0 nud permanent");
            assert!(
                neighbours.contains("02:00:00:00:00:02") && !neighbours.contains("fe80::77:1"),
                "{neighbours}"
            );
            assert!(!sh("ip addr show dev weft0").contains("fd00:1:1::1"));
            assert!(sh("ip link show dev weft0").contains("mtu 1400"));
            // Bigger packets to pods of this node alone, and back.
            new.local_mtu = Some(65_521);
            network.apply(&new).unwrap();
            let elsewhere = |mtu: &str| sh("ip route show 10.244.0.0/16").contains(mtu);
            assert!(sh("ip link show dev weft0").contains("mtu 65521") && elsewhere("mtu 1400"));
            assert!(!sh("ip route show 10.244.1.0/24").contains("mtu"));
            new.local_mtu = None;
            network.apply(&new).unwrap();
            assert!(sh("ip link show dev weft0").contains("mtu 1400") && !elsewhere("mtu"));
            // Another program's route is named, not taken.
            sh("ip route add 10.10.0.0/16 dev lo");
            new.cluster_cidrs.push("10.10.0.0/16".parse().unwrap());
            let error = network.apply(&new).unwrap_err().to_string();
            assert!(error.contains("another program has a route to 10.10.0.0/16"), "{error}");
            network.purge("weft0").unwrap();
            port::close(port);
        })
        .unwrap();
}

#[test]
fn the_record_of_another_boot_is_void() {
    let directory = tempfile::tempdir().unwrap();
    let path = record_path(directory.path());
    let old = r#"{"boot":"x","sysctls":[{"key":"net/ipv4/ip_forward","old":"0","new":"1"}]}"#;
    std::fs::write(&path, old).unwrap();
    assert!(HostNetwork::open(&path, "weft0").unwrap().sysctls().is_empty());
    std::fs::write(&path, "{").unwrap();
    // A torn one keeps nobody from starting.
    assert!(HostNetwork::open(&path, "weft0").unwrap().sysctls().is_empty());
}
