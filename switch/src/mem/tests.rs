use super::*;

#[test]
fn frames_grow_and_shrink_within_their_buffer() {
    let mut pool = Pool::new(2);
    let mut frame = pool.take().unwrap();
    frame.fill(b"payload");
    assert!(frame.push_front(8));
    assert_eq!(frame.len(), 15);
    frame.pull_front(8);
    assert_eq!(frame.bytes(), b"payload");
    assert!(!frame.push_front(HEADROOM + STAGGER_BYTES * STAGGER_COUNT));
    assert!(frame.push_front(HEADROOM - vnet::LEN), "the whole headroom but a vnet header");
    frame.set_len(usize::MAX);
    assert!(frame.len() >= MAX_FRAME);
    frame.pull_front(usize::from(u16::MAX) * 2);
    assert!(frame.is_empty());
}

#[test]
fn vnet_header_round_trips_through_the_headroom() {
    let mut pool = Pool::new(1);
    let mut frame = pool.take().unwrap();
    frame.fill(b"x");
    let header = VnetHdr { flags: vnet::NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..VnetHdr::NONE };
    assert_eq!(frame.with_vnet(header).len(), vnet::LEN + 1);
    frame.take_vnet();
    assert_eq!(frame.vnet, header);
}

#[test]
fn pool_is_bounded_and_gives_the_warmest_frame_first() {
    let mut pool = Pool::new(2);
    let (mut a, b) = (pool.take().unwrap(), pool.take().unwrap());
    assert!(pool.available() == 0 && pool.take().is_none() && pool.copy(&a).is_none());
    a.fill(b"warm");
    let home = a.bytes().as_ptr();
    pool.give(b);
    pool.give(a);
    assert_eq!(pool.available(), 2);
    let mut again = pool.take().unwrap();
    assert!(again.is_empty() && again.vnet == VnetHdr::NONE);
    again.set_len(4);
    assert_eq!(again.bytes().as_ptr(), home);
    let copy = pool.copy(&again).unwrap();
    assert_eq!(copy.bytes(), b"warm");
}

#[test]
fn starts_are_staggered() {
    let mut pool = Pool::new(STAGGER_COUNT);
    let homes: std::collections::BTreeSet<_> =
        std::iter::from_fn(|| pool.take()).map(|frame| frame.home).collect();
    assert_eq!(homes.len(), STAGGER_COUNT);
}

#[test]
fn batch_is_bounded() {
    let mut pool = Pool::new(BATCH + 1);
    let mut batch = Batch::default();
    for _ in 0..BATCH {
        batch.push(pool.take().unwrap()).unwrap();
    }
    let refused = batch.push(pool.take().unwrap()).unwrap_err();
    pool.give(refused);
    assert_eq!(batch.drain().count(), BATCH);
}
