use super::*;

const BRIDGE: BridgeSlot = BridgeSlot(0);
const BOUNDS: Bounds = Bounds { ageing_seconds: 300, max: 10 };

fn station(n: u16) -> Station {
    Station { bridge: BRIDGE, vlan: None, mac: MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]) }
}

fn at(port: u16) -> FdbTarget {
    FdbTarget::Port(PortSlot(port))
}

fn find(fdb: &Fdb, n: u16, now: u32) -> Option<FdbTarget> {
    fdb.find(station(n), 300, now)
}

#[test]
fn learns_moves_and_ages() {
    let fdb = Fdb::new(100);
    let id = fdb.learn(station(1), at(1), BOUNDS, 10).unwrap();
    assert_eq!(find(&fdb, 1, 10), Some(at(1)));
    let before = fdb.generation();
    fdb.learn(station(1), at(1), BOUNDS, 11);
    assert_eq!(fdb.generation(), before, "nothing moved");
    fdb.learn(station(1), at(2), BOUNDS, 12);
    assert_eq!(find(&fdb, 1, 12), Some(at(2)));
    assert_ne!(fdb.generation(), before);
    assert_eq!(find(&fdb, 1, 312), None, "expired although not yet removed");
    fdb.touch(id, 200);
    assert_eq!(find(&fdb, 1, 312), Some(at(2)), "refreshed by a hit");
    fdb.age(499, 100, |_| 300);
    assert_eq!(fdb.len(), 1);
    fdb.age(500, 100, |_| 300);
    assert!(fdb.is_empty());
}

#[test]
fn eviction_takes_from_the_port_that_holds_most() {
    let fdb = Fdb::new(100);
    fdb.learn(station(1000), at(1), BOUNDS, 1);
    fdb.learn(station(1001), at(1), BOUNDS, 1);
    for n in 0..500 {
        fdb.learn(station(n), at(2), BOUNDS, 2);
    }
    assert_eq!((fdb.len(), fdb.evictions()), (10, 492));
    assert!(find(&fdb, 1000, 3).is_some() && find(&fdb, 1001, 3).is_some());
    assert!(find(&fdb, 499, 3).is_some() && find(&fdb, 400, 3).is_none());
    // A quiet third port still gets its place.
    fdb.learn(station(2000), at(3), BOUNDS, 4);
    assert!(find(&fdb, 2000, 4).is_some() && find(&fdb, 1000, 4).is_some());
    assert_eq!(fdb.len(), 10);
}

#[test]
fn eviction_spares_stations_that_hits_refreshed() {
    let fdb = Fdb::new(100);
    let ids: Vec<_> = (0..10).map(|n| fdb.learn(station(n), at(1), BOUNDS, 1).unwrap()).collect();
    fdb.touch(ids[0], 5);
    fdb.learn(station(10), at(1), BOUNDS, 6);
    assert!(find(&fdb, 0, 6).is_some(), "refreshed");
    assert!(find(&fdb, 1, 6).is_none(), "oldest not refreshed");
}

#[test]
fn the_whole_table_is_bounded_over_bridges() {
    let fdb = Fdb::new(8);
    for bridge in 0..4 {
        for n in 0..8 {
            fdb.learn(Station { bridge: BridgeSlot(bridge), ..station(n) }, at(bridge * 8 + n), BOUNDS, 1);
        }
    }
    assert_eq!(fdb.len(), 8);
    assert_eq!(fdb.learn(station(99), at(1), Bounds { max: 0, ..BOUNDS }, 1), None);
}

#[test]
fn flush_by_bridge_port_and_station() {
    let fdb = Fdb::new(100);
    for n in 0..6 {
        fdb.learn(station(n), at(n % 2), BOUNDS, 1);
    }
    assert_eq!(fdb.flush(BridgeSlot(9), None, None), 0);
    assert_eq!(fdb.flush(BRIDGE, None, Some((None, station(0).mac))), 1);
    assert_eq!(fdb.flush(BRIDGE, Some(PortSlot(0)), None), 2);
    assert_eq!(fdb.dump(4).len(), 3);
    assert_eq!(fdb.dump(4)[0].age_seconds, 3);
    assert_eq!(fdb.flush(BRIDGE, None, None), 3);
}

#[test]
fn bookkeeping_survives_random_operations() {
    let fdb = Fdb::new(16);
    let mut seed = 7u32;
    for step in 0..20_000u32 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (n, port) = ((seed >> 8) as u16 % 40, (seed >> 24) as u16 % 5);
        match seed % 11 {
            0 => fdb.age(step / 10, 4, |_| 30),
            1 => {
                fdb.flush(BRIDGE, Some(PortSlot(port)), None);
            }
            _ => {
                fdb.learn(station(n), at(port), BOUNDS, step / 10);
            }
        }
        let dump = fdb.dump(step / 10);
        assert!(dump.len() <= 10 && dump.len() == fdb.len());
        let table = fdb.lock();
        assert_eq!(table.stations_of(BRIDGE), dump.len());
        assert_eq!(table.candidate(Some(BRIDGE)).is_some(), !dump.is_empty());
        assert_eq!(table.candidate(None).is_some(), !dump.is_empty());
    }
}
