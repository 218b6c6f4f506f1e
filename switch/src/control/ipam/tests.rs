use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use weft_api::{MacAddr, Owner, PortKind, PortSpec};

use super::*;
use crate::control::state::{NodeNetwork, PortRecord, StaticNeighbour};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn state(cidrs: &[&str]) -> State {
    let mut state = State::default();
    pools(&mut state, cidrs);
    state
}

fn pools(state: &mut State, cidrs: &[&str]) {
    let pod_cidrs = cidrs.iter().map(|cidr| net(cidr)).collect();
    state.node = Arc::new(NodeNetwork { pod_cidrs, ..NodeNetwork::default() });
}

/// Allocates for a port and puts the port in.
fn add(state: &mut State, port: &str, wanted: &[&str], now: u64) -> Result<Vec<String>, IpamError> {
    let wanted: Vec<_> = wanted.iter().map(|text| ip(text)).collect();
    let ips = allocate(state, port, None, &wanted, now)?;
    let mut spec = PortSpec::new(port, "br0", PortKind::Tap, Owner::Cni);
    spec.ips.clone_from(&ips);
    state.ports.insert(port.to_owned(), Arc::new(PortRecord::new(spec)));
    Ok(ips.iter().map(ToString::to_string).collect())
}

#[test]
fn gives_one_of_each_family_in_order() {
    let mut s = state(&["fd00::/64", "10.0.0.0/29"]);
    assert_eq!(add(&mut s, "a", &[], 0).unwrap(), ["10.0.0.2/29", "fd00::2/64"]);
    assert_eq!(add(&mut s, "b", &[], 0).unwrap(), ["10.0.0.3/29", "fd00::3/64"]);
    assert_eq!(s.ipam.leases[&ip("10.0.0.3")].port, "b");
    let status = status(&s);
    assert_eq!((status[1].used, status[1].free), (2, 3));
    assert_eq!((status[0].used, status[0].free), (2, u64::MAX - 3));
}

#[test]
fn never_gives_reserved_addresses_and_says_when_full() {
    let mut s = state(&["10.0.0.0/29"]);
    for i in 0..5 {
        assert_eq!(add(&mut s, &format!("p{i}"), &[], 0).unwrap(), [format!("10.0.0.{}/29", i + 2)]);
    }
    assert_eq!(add(&mut s, "x", &[], 0).unwrap_err().to_string(), "no free address in 10.0.0.0/29");
    s.remove_port("p0", 1);
    let error = add(&mut s, "x", &[], 2).unwrap_err();
    assert_eq!(error.to_string(), "no free address in 10.0.0.0/29 (1 were freed less than 5 s ago)");
    assert_eq!(available(&s, 2), Err(error));
    assert!(available(&s, 6).is_ok());
}

#[test]
fn the_longest_free_address_returns_first() {
    let mut s = state(&["10.0.0.0/29"]);
    for i in 0..5 {
        add(&mut s, &format!("p{i}"), &[], 0).unwrap();
    }
    s.remove_port("p3", 1);
    s.remove_port("p1", 2);
    assert_eq!(add(&mut s, "x", &[], 60).unwrap(), ["10.0.0.5/29"]);
    assert_eq!(add(&mut s, "y", &[], 60).unwrap(), ["10.0.0.3/29"]);
}

#[test]
fn a_rush_takes_the_longest_free_before_its_rest_is_over() {
    let mut s = state(&["10.0.0.0/24"]);
    let (mut freed, mut now): (Vec<(String, u64)>, u64) = (Vec::new(), 0);
    // Ten a second: four times as many in 100 s as the pool has.
    for round in 0..1000 {
        now = round / 10;
        let given = add(&mut s, "p", &[], now).unwrap().remove(0);
        if round >= 253 {
            let (longest, since) = freed.remove(0);
            assert!(given == longest && now - since >= SHORTEST, "{given}, not {longest}");
        }
        s.remove_port("p", now);
        freed.push((given, now));
    }
    // A second pool's rested address comes before the first one's unrested.
    pools(&mut s, &["10.0.0.0/24", "10.0.1.0/24"]);
    assert_eq!(add(&mut s, "p", &[], now).unwrap(), ["10.0.1.2/24"]);
}

#[test]
fn a_freed_address_waits_for_all_others() {
    let mut s = state(&["10.0.0.0/28"]);
    for round in 0..12 {
        let now = round * 100;
        assert_eq!(add(&mut s, "p", &[], now).unwrap(), [format!("10.0.0.{}/28", round + 2)]);
        s.remove_port("p", now);
    }
}

#[test]
fn wanted_addresses_are_given_or_refused() {
    let mut s = state(&["10.0.0.0/24", "fd00::/64"]);
    assert_eq!(add(&mut s, "a", &["10.0.0.77"], 0).unwrap(), ["10.0.0.77/24", "fd00::2/64"]);
    let mut refused = |wanted: &[&str]| add(&mut s, "b", wanted, 0).unwrap_err().to_string();
    assert_eq!(refused(&["10.0.0.77"]), "address 10.0.0.77 is in use by port a");
    for reserved in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "fd00::", "fd00::1"] {
        assert!(refused(&[reserved]).contains("reserved"), "{reserved}");
    }
    let outside = "none of this node's pod CIDRs (10.0.0.0/24, fd00::/64)";
    assert!(refused(&["10.0.1.2"]).contains(outside));
    assert!(refused(&["10.0.0.8", "10.0.0.9"]).contains("twice"));
    // Nothing was kept of the refused ones, and the wanted one did not move the search.
    assert_eq!(add(&mut s, "b", &[], 0).unwrap(), ["10.0.0.2/24", "fd00::3/64"]);
    // A freed address is given at once to who asks for it by name: a container that starts again.
    s.remove_port("a", 1);
    assert!(add(&mut s, "a", &["10.0.0.77"], 1).is_ok());
}

#[test]
fn addresses_of_ports_without_a_lease_are_in_use() {
    let mut s = state(&["10.0.0.0/24"]);
    let mut spec = PortSpec::new("hand", "br0", PortKind::Tap, Owner::Cli);
    spec.ips = vec![net("10.0.0.2/24")];
    s.ports.insert("hand".to_owned(), Arc::new(PortRecord::new(spec)));
    assert_eq!(add(&mut s, "a", &[], 0).unwrap(), ["10.0.0.3/24"]);
    let error = add(&mut s, "b", &["10.0.0.2"], 0).unwrap_err().to_string();
    assert_eq!(error, "address 10.0.0.2 is in use by port hand");
}

#[test]
fn addresses_of_static_neighbours_are_passed_over() {
    let mut s = state(&["10.0.0.0/29"]);
    let entry = StaticNeighbour { port: "vx".into(), mac: MacAddr::derived(b"x"), owner: Owner::Cli };
    for last in [3, 4, 5] {
        s.neighbours.insert((s.node.bridge.clone(), ip(&format!("10.0.0.{last}"))), entry.clone());
        s.neighbours.insert(("another".to_owned(), ip("10.0.0.2")), entry.clone());
    }
    assert_eq!(add(&mut s, "a", &[], 0).unwrap(), ["10.0.0.2/29"]);
    assert_eq!(add(&mut s, "b", &[], 0).unwrap(), ["10.0.0.6/29"]);
    assert!(available(&s, 0).is_err());
    let error = add(&mut s, "c", &["10.0.0.3"], 0).unwrap_err().to_string();
    assert_eq!(error, "address 10.0.0.3 is that of a static neighbour behind port vx");
}

#[test]
fn pools_change_and_the_second_one_serves() {
    let mut s = state(&[]);
    assert_eq!(add(&mut s, "a", &[], 0), Err(IpamError::NoPool));
    pools(&mut s, &["10.0.0.0/30", "10.0.1.0/30"]);
    assert_eq!(add(&mut s, "a", &[], 0).unwrap(), ["10.0.0.2/30"]);
    assert_eq!(add(&mut s, "b", &[], 0).unwrap(), ["10.0.1.2/30"]);
    assert!(add(&mut s, "c", &[], 0).is_err());
    pools(&mut s, &["10.0.2.0/24"]);
    assert_eq!(add(&mut s, "c", &[], 0).unwrap(), ["10.0.2.2/24"]);
}

#[test]
fn what_is_remembered_stays_bounded_and_survives_a_clock_set_back() {
    let mut s = state(&["fd00::/64", "10.0.0.0/24"]);
    for round in 0..2000 {
        add(&mut s, "p", &[], 1_000_000 + round).unwrap();
        s.remove_port("p", 1_000_000 + round);
    }
    assert!(s.ipam.quarantine.len() < 300, "{}", s.ipam.quarantine.len());
    assert!(add(&mut s, "p", &[], 10).is_err());
    assert!(add(&mut s, "p", &[], 10 + SHORTEST).is_ok());
}

proptest! {
    /// Whatever the order of calls: no address has two holders, none comes back within the quarantine, none is
    /// reserved, and a full pool is really full.
    #[test]
    fn leases_are_sound(ops in proptest::collection::vec((0u8..3, 0usize..24, 0u64..20), 1..200)) {
        let mut s = state(&["10.0.0.0/28"]);
        let mut held: HashMap<String, IpAddr> = HashMap::new();
        let mut freed: HashMap<IpAddr, u64> = HashMap::new();
        let mut now = 0;
        for (op, port, wait) in ops {
            now += wait;
            let port = format!("p{port}");
            if op == 0 {
                if let Some(ip) = held.remove(&port) {
                    s.remove_port(&port, now);
                    freed.insert(ip, now);
                }
            } else if !held.contains_key(&port) {
                match add(&mut s, &port, &[], now) {
                    Ok(ips) => {
                        let given = net(&ips[0]).addr();
                        prop_assert!(!held.values().any(|other| *other == given));
                        prop_assert!(given > ip("10.0.0.1") && given < ip("10.0.0.15"));
                        prop_assert!(freed.get(&given).is_none_or(|at| now - at >= SHORTEST));
                        held.insert(port, given);
                    }
                    Err(error) => {
                        let fresh = freed.iter().filter(|(_, at)| now - **at < SHORTEST).map(|(ip, _)| *ip);
                        let blocked: BTreeSet<_> = held.values().copied().chain(fresh).collect();
                        prop_assert_eq!(blocked.len(), 13, "{}", error);
                    }
                }
            }
            prop_assert_eq!(status(&s)[0].used, held.len() as u64);
        }
    }
}
