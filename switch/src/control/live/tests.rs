use super::*;
use crate::control::effects::testing::{namespace, root, sh};

fn host() -> HostSpec {
    HostSpec {
        ifname: "weft0".into(),
        mac: "02:00:00:00:00:11".parse().unwrap(),
        router_mac: "02:00:00:00:00:01".parse().unwrap(),
        mtu: 1450,
        local_mtu: None,
        gateways: vec!["10.244.1.1/24".parse().unwrap()],
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        masquerade: true,
        untracked: Some("192.0.2.1:4789".parse().unwrap()),
    }
}

#[test]
fn a_refused_change_of_the_hosts_network_leaves_the_old_one() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let netns = namespace();
    let refused = netns.run(|| {
        let old = host();
        let mut live = Live::new(directory.path(), Some("weft0"), Holder::default()).unwrap();
        let _device = port::create(&old.tap(), &Netns::current().unwrap()).unwrap();
        live.set_host(None, Some(&old)).unwrap();
        sh("ip route add 10.99.0.0/16 dev lo");
        let dump = || format!("{}{}{}", sh("ip -4 addr"), sh("ip route"), sh("ip neigh show nud permanent"));
        let before = dump();
        let new = HostSpec {
            mtu: 1400,
            gateways: vec!["10.99.1.1/24".parse().unwrap()],
            pod_cidrs: vec!["10.99.1.0/24".parse().unwrap()],
            cluster_cidrs: vec!["10.98.0.0/16".parse().unwrap(), "10.99.0.0/16".parse().unwrap()],
            ..old.clone()
        };
        let step = Step::Host { old: Some(Box::new(old)), new: Some(Box::new(new)) };
        let state = State::default();
        let refused =
            live.carry_out(&step, (&state, &state), &BTreeMap::new(), &mut Aside::default()).unwrap_err();
        assert_eq!(dump(), before);
        refused
    });
    let message = refused.unwrap().message;
    assert!(message.contains("another program has a route to 10.99.0.0/16"), "{message}");
}

#[test]
fn a_network_that_is_no_longer_wanted_goes_at_the_next_start() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let dump = || {
        let forwarding = sh("cat /proc/sys/net/ipv4/ip_forward");
        format!("{}{}{}{forwarding}", sh("ip -o link"), sh("ip route"), sh("nft list ruleset"))
    };
    let looked = namespace().run(|| {
        let before = dump();
        let mut live = Live::new(directory.path(), Some("weft0"), Holder::default()).unwrap();
        let device = port::create(&host().tap(), &Netns::current().unwrap()).unwrap();
        live.set_host(None, Some(&host())).unwrap();
        drop(device);
        live.close();
        assert_ne!(dump(), before);
        Live::new(directory.path(), None, Holder::default()).unwrap().start_host_network(&State::default());
        assert_eq!(dump(), before);
    });
    looked.unwrap();
}

#[test]
fn every_name_has_its_turn() {
    if !root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut live = Live::new(directory.path(), None, Holder::default()).unwrap();
    assert!(live.ended_of_next(5).is_empty());
    let path = |port: &str| directory.path().join(port);
    for number in 10..22 {
        let port = number.to_string();
        std::fs::write(path(&port), "").unwrap();
        let stat = rustix::fs::stat(path(&port)).unwrap();
        let path = path(&port).to_str().unwrap().to_owned();
        let record = NetnsRecord { path, dev: stat.st_dev, ino: stat.st_ino };
        live.names.insert(port, NetnsName::new(&record, None));
    }
    assert!((0..10).all(|_| live.ended_of_next(5).is_empty()));
    for gone in ["10", "14", "21"] {
        std::fs::remove_file(path(gone)).unwrap();
        // Names that come and go meanwhile take nobody's turn away.
        let other = live.names["15"].clone();
        let mut found = Vec::new();
        for turn in 0..6 {
            found.extend(live.ended_of_next(5));
            live.names.insert(format!("1{turn}x"), other.clone());
        }
        assert!(found.contains(&gone.to_owned()), "{gone}: {found:?}");
        live.names.retain(|name, _| name != gone && !name.ends_with('x'));
    }
    assert!(live.ended().is_empty());
}

/// A port's three descriptors, see `Live::adopt`, are of use together; so are an uplink's.
#[test]
fn an_uplink_that_is_held_in_part_is_of_no_use() {
    let directory = tempfile::tempdir().unwrap();
    let held = |names: &[&str]| {
        let one = |name: &&str| ((*name).to_owned(), tempfile::tempfile().unwrap().into());
        let holder = Holder::new(names.iter().map(one).collect());
        let mut live = Live::new(directory.path(), Some("weft0"), holder).unwrap();
        live.held_uplink().map(|parts| parts.map(|parts| parts.queues.len()))
    };
    let all = ["uplink-program", "uplink-socket-0", "uplink-memory-0", "uplink-socket-1", "uplink-memory-1"];
    assert_eq!(held(&[]), None);
    assert_eq!(held(&["tap-a-0"]), None);
    assert_eq!(held(&all), Some(Ok(2)));
    assert_eq!(held(&all[..3]), Some(Ok(1)));
    for missing in 0..all.len() {
        let names: Vec<&str> =
            all.iter().enumerate().filter(|(at, _)| *at != missing).map(|(_, name)| *name).collect();
        assert_eq!(held(&names), Some(Err("a descriptor is missing".to_owned())), "{names:?}");
    }
}

#[test]
fn an_interface_that_takes_tags_off_is_no_uplink() {
    for hidden in ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"] {
        assert!(uplink::hides_tags("ice", |feature| feature == hidden));
        assert!(!uplink::hides_tags("veth", |feature| feature == hidden));
    }
    assert!(!uplink::hides_tags("ice", |feature| feature == "tx-vlan-hw-insert"));
}
