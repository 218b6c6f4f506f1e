use etherparse::PacketBuilder;
use proptest::prelude::*;
use weft_encap::parse;

use super::*;
use crate::mem::Pool;

/// What is sent: who from, port, and what tells one datagram from another.
type Sent = (u8, u16, u16);

fn datagram(pool: &mut Pool, (host, port, number): Sent, v6: bool) -> Departure {
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = if v6 {
        builder.ipv6(std::array::from_fn(|n| if n == 15 { host } else { 0xfd }), [0xfd; 16], 64)
    } else {
        builder.ipv4([10, 0, 0, host], [10, 0, 1, 1], 64)
    };
    let mut bytes = Vec::new();
    builder.udp(port, 53).write(&mut bytes, &number.to_be_bytes()).unwrap();
    let mut frame = pool.take().unwrap();
    frame.fill(&bytes);
    Departure { headers: Some(parse(frame.bytes()).unwrap()), frame }
}

fn sent(Departure { frame, headers }: &Departure) -> Sent {
    let headers = headers.as_ref().unwrap();
    let host = frame.bytes()[usize::from(headers.l3_at) + if headers.l3 == L3::V4 { 15 } else { 23 }];
    let payload = &frame.bytes()[usize::from(headers.payload_at)..];
    (host, headers.src_port, u16::from_be_bytes([payload[0], payload[1]]))
}

fn changes_of_flow(queue: &[Departure]) -> usize {
    queue.windows(2).filter(|pair| flow(&pair[0]) != flow(&pair[1])).count()
}

proptest! {
    #[test]
    fn each_flow_is_together_and_in_its_order(
        all in prop::collection::vec((0u8..6, 1000u16..1004), LEAST..LARGE_BATCH),
        v6 in any::<bool>(),
    ) {
        let mut pool = Pool::new(LARGE_BATCH);
        let mut queue: Vec<Departure> = (0..)
            .zip(&all)
            .map(|(number, (host, port))| datagram(&mut pool, (*host, *port, number), v6))
            .collect();
        let mut order = Order::default();
        let first = flow(&queue[0]) != flow(&queue[1]);
        let grouped = first && order.is_worth_it(&queue);
        order.group(&mut queue);
        let after: Vec<Sent> = queue.iter().map(sent).collect();
        let mut numbers: Vec<u16> = after.iter().map(|sent| sent.2).collect();
        for one in &after {
            let of_flow: Vec<u16> = after.iter().filter(|it| it.0 == one.0 && it.1 == one.1).map(|it| it.2).collect();
            prop_assert!(of_flow.is_sorted(), "reordered: {of_flow:?}");
        }
        numbers.sort_unstable();
        prop_assert!(numbers.into_iter().eq(0..all.len() as u16), "lost or doubled");
        if grouped {
            let flows: std::collections::BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(changes_of_flow(&queue), flows.len() - 1);
        }
    }
}

#[test]
fn queues_that_would_not_gain_stay_as_they_are() {
    let mut pool = Pool::new(LARGE_BATCH);
    let (mut order, most) = (Order::default(), LARGE_BATCH as u16);
    // Every flow once.
    let mut queue: Vec<Departure> =
        (0..most).map(|number| datagram(&mut pool, (1, 1000 + number, number), false)).collect();
    order.group(&mut queue);
    assert!(queue.iter().map(|it| sent(it).2).eq(0..most));
    queue.drain(..).for_each(|it| pool.give(it.frame));
    // Something between the datagrams that is none.
    let mut queue: Vec<Departure> =
        (0..most).map(|number| datagram(&mut pool, (1, 1000 + number % 4, number), false)).collect();
    queue[100].headers = None;
    order.group(&mut queue);
    queue[100].headers = Some(parse(queue[100].frame.bytes()).unwrap());
    assert!(queue.iter().map(|it| sent(it).2).eq(0..most));
    order.group(&mut queue);
    assert_eq!(changes_of_flow(&queue), 3);
}
