use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn text(nets: &[IpNet]) -> Vec<String> {
    nets.iter().map(ToString::to_string).collect()
}

#[test]
fn gives_one_of_each_family_in_order() {
    let mut ipam = Ipam::new(&[net("fd00::/64"), net("10.0.0.0/29")]);
    assert_eq!(text(&ipam.allocate("a", &[], 0).unwrap()), ["10.0.0.2/29", "fd00::2/64"]);
    assert_eq!(text(&ipam.allocate("b", &[], 0).unwrap()), ["10.0.0.3/29", "fd00::3/64"]);
    assert_eq!(ipam.holder(ip("10.0.0.3")), Some("b"));
    let status = ipam.status();
    assert_eq!((status[1].used, status[1].free), (2, 3));
    assert_eq!((status[0].used, status[0].free), (2, u64::MAX));
}

#[test]
fn never_gives_reserved_addresses_and_says_when_full() {
    let mut ipam = Ipam::new(&[net("10.0.0.0/29")]);
    let given: Vec<_> = (0..5).map(|i| ipam.allocate(&format!("p{i}"), &[], 0).unwrap()[0].addr()).collect();
    assert_eq!(given, (2..7).map(|i| ip(&format!("10.0.0.{i}"))).collect::<Vec<_>>());
    let error = ipam.allocate("x", &[], 0).unwrap_err();
    assert_eq!(error.to_string(), "no free address in 10.0.0.0/29");
    ipam.release("p0", SECOND);
    let error = ipam.allocate("x", &[], 2 * SECOND).unwrap_err().to_string();
    assert_eq!(error, "no free address in 10.0.0.0/29 (1 were freed less than 30 s ago)");
    assert_eq!(ipam.available(2 * SECOND).unwrap_err().to_string(), error);
    assert!(ipam.available(31 * SECOND).is_ok());
}

#[test]
fn the_longest_free_address_returns_first() {
    let mut ipam = Ipam::new(&[net("10.0.0.0/29")]);
    for i in 0..5 {
        ipam.allocate(&format!("p{i}"), &[], 0).unwrap();
    }
    ipam.release("p3", SECOND);
    ipam.release("p1", 2 * SECOND);
    assert_eq!(text(&ipam.allocate("x", &[], 60 * SECOND).unwrap()), ["10.0.0.5/29"]);
    assert_eq!(text(&ipam.allocate("y", &[], 60 * SECOND).unwrap()), ["10.0.0.3/29"]);
}

#[test]
fn a_freed_address_waits_for_all_others() {
    let mut ipam = Ipam::new(&[net("10.0.0.0/28")]);
    for round in 0..12 {
        let given = ipam.allocate("p", &[], round * SECOND).unwrap()[0].addr();
        assert_eq!(given, ip(&format!("10.0.0.{}", round + 2)));
        ipam.release("p", round * SECOND);
    }
}

#[test]
fn wanted_addresses_are_given_or_refused() {
    let mut ipam = Ipam::new(&[net("10.0.0.0/24"), net("fd00::/64")]);
    assert_eq!(text(&ipam.allocate("a", &[ip("10.0.0.77")], 0).unwrap()), ["10.0.0.77/24", "fd00::2/64"]);
    let refused = |ipam: &mut Ipam, wanted: &[&str]| {
        let wanted: Vec<_> = wanted.iter().map(|text| ip(text)).collect();
        ipam.allocate("b", &wanted, 0).unwrap_err().to_string()
    };
    assert_eq!(refused(&mut ipam, &["10.0.0.77"]), "address 10.0.0.77 is in use by port a");
    assert!(refused(&mut ipam, &["10.0.0.1"]).contains("reserved"));
    assert!(refused(&mut ipam, &["10.0.0.0"]).contains("reserved"));
    assert!(refused(&mut ipam, &["10.0.0.255"]).contains("reserved"));
    assert!(refused(&mut ipam, &["10.0.1.2"]).contains("none of this node's pod CIDRs (10.0.0.0/24, fd00::/64)"));
    assert!(refused(&mut ipam, &["10.0.0.8", "10.0.0.9"]).contains("twice"));
    // Nothing was kept of the refused ones, and the wanted one did not move the search.
    assert_eq!(text(&ipam.allocate("b", &[], 0).unwrap()), ["10.0.0.2/24", "fd00::3/64"]);
    // A freed address is given at once to who asks for it by name: a container that starts again.
    ipam.release("a", SECOND);
    assert!(ipam.allocate("a", &[ip("10.0.0.77")], SECOND).is_ok());
}

#[test]
fn pools_change_and_restart_keeps_the_order() {
    let mut ipam = Ipam::new(&[]);
    assert_eq!(ipam.allocate("a", &[], 0), Err(IpamError::NoPool));
    ipam.set_pools(&[net("10.0.0.0/24")]);
    ipam.occupy(ip("10.0.0.9"), "old");
    ipam.occupy(ip("192.0.2.1"), "elsewhere");
    assert_eq!(text(&ipam.allocate("a", &[], 0).unwrap()), ["10.0.0.10/24"]);
    ipam.set_pools(&[net("10.0.1.0/24"), net("10.0.0.0/24")]);
    assert_eq!(text(&ipam.allocate("b", &[], 0).unwrap()), ["10.0.1.2/24"]);
    ipam.forget("b");
    assert_eq!(ipam.holder(ip("10.0.1.2")), None);
    assert_eq!(ipam.release("a", 0), 1);
    assert_eq!(ipam.release("a", 0), 0);
}

#[test]
fn the_second_pool_serves_when_the_first_is_full() {
    let mut ipam = Ipam::new(&[net("10.0.0.0/30"), net("10.0.1.0/30")]);
    assert_eq!(text(&ipam.allocate("a", &[], 0).unwrap()), ["10.0.0.2/30"]);
    assert_eq!(text(&ipam.allocate("b", &[], 0).unwrap()), ["10.0.1.2/30"]);
    assert!(ipam.allocate("c", &[], 0).is_err());
}

proptest! {
    /// Whatever the order of calls: no address has two holders, none comes back within the quarantine, none is
    /// reserved, and a full pool is really full.
    #[test]
    fn leases_are_sound(ops in proptest::collection::vec((0u8..3, 0usize..24, 0u64..20), 1..300)) {
        let cidr = net("10.0.0.0/28");
        let mut ipam = Ipam::new(&[cidr]);
        let mut held: HashMap<String, IpAddr> = HashMap::new();
        let mut freed: HashMap<IpAddr, u64> = HashMap::new();
        let mut now = 0;
        for (op, port, wait) in ops {
            now += wait * SECOND;
            let port = format!("p{port}");
            if op == 0 {
                if let Some(ip) = held.remove(&port) {
                    prop_assert_eq!(ipam.release(&port, now), 1);
                    freed.insert(ip, now);
                }
            } else if !held.contains_key(&port) {
                match ipam.allocate(&port, &[], now) {
                    Ok(ips) => {
                        let ip = ips[0].addr();
                        prop_assert!(cidr.contains(&ip) && !held.values().any(|other| *other == ip));
                        prop_assert!(ip > self::ip("10.0.0.1") && ip < self::ip("10.0.0.15"));
                        prop_assert!(freed.get(&ip).is_none_or(|at| now - at >= 30 * SECOND));
                        held.insert(port, ip);
                    }
                    Err(error) => {
                        let fresh = freed.iter().filter(|(ip, at)| now - **at < 30 * SECOND && !held.values().any(|h| h == *ip));
                        let blocked: BTreeSet<_> = held.values().copied().chain(fresh.map(|(ip, _)| *ip)).collect();
                        prop_assert_eq!(blocked.len(), 13, "{}", error);
                    }
                }
            }
            prop_assert_eq!(ipam.status()[0].used, held.len() as u64);
        }
    }
}
