use super::*;

/// The names of what is held, in order, when there are these and so much room.
fn held(room: usize) -> (Vec<String>, bool) {
    let xdp = |name: &str| (name.to_owned(), (Of::Xdp(Weak::new()), ()));
    let tap = |name: &str| (name.to_owned(), (Of::Tap(Weak::new()), ()));
    let mut missing = vec![tap("tap-a-0"), tap("tap-a-1")];
    missing.extend(port_names("p", PortKind::Afxdp, 1).iter().map(|name| xdp(name)));
    let uplink = (0..2).flat_map(uplink_names).chain([UPLINK.to_owned()]);
    missing.extend(uplink.map(|name| (name, (Of::Uplink(Weak::new()), ()))));
    missing.push(("udp4-rx-4789".to_owned(), (Of::Underlay(Weak::new()), ())));
    // As they come from a map.
    missing.sort_by(|(a, _), (b, _)| a.cmp(b));
    let (fitting, all) = whole_devices(missing.into_iter(), room);
    (fitting.into_iter().map(|(name, ..)| name).collect(), all)
}

#[test]
fn all_descriptors_of_a_device_are_held_or_none() {
    let (everything, all) = held(usize::MAX);
    assert!(all);
    assert_eq!(
        everything,
        [
            "udp4-rx-4789",
            "uplink-memory-0",
            "uplink-memory-1",
            "uplink-socket-0",
            "uplink-socket-1",
            "uplink-program",
            "xdp-p-memory",
            "xdp-p-program",
            "xdp-p-socket",
            "tap-a-0",
            "tap-a-1",
        ]
    );
    let enough = names_len(everything.iter().map(String::as_str));
    assert_eq!(held(enough), (everything, true));
    for room in 0..enough {
        let (names, all) = held(room);
        assert!(!all && names_len(names.iter().map(String::as_str)) <= room);
        for (prefix, whole) in [("udp4", 1), ("uplink", 5), ("xdp", 3), ("tap", 2)] {
            let count = names.iter().filter(|name| name.starts_with(prefix)).count();
            assert!([0, whole].contains(&count), "{room}: {names:?}");
        }
    }
}
