//! What the old process has counted, by name: its slots are not the new one's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weft_encap::Reason;

use crate::control::engine::View;
use crate::control::publish::{PeerKey, Publisher};
use crate::path::counters::{Drops, PeerCounters, PortCounters, Total};
use crate::path::{Carried, Dataplane};

/// Rows in one message.
const ROWS: usize = 100;

/// Some of the counts. What a reader does not know by name, it leaves out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    #[serde(default)]
    totals: BTreeMap<String, u64>,
    #[serde(default)]
    tunnel_drops: BTreeMap<String, u64>,
    #[serde(default)]
    ports: BTreeMap<String, Row>,
    #[serde(default)]
    peers: BTreeMap<String, Row>,
}

/// Those of a port or a peer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Row {
    rx_frames: u64,
    rx_bytes: u64,
    tx_frames: u64,
    tx_bytes: u64,
    #[serde(default)]
    tx_dropped: u64,
    #[serde(default)]
    drops: BTreeMap<String, u64>,
    /// Of the machine's monotonic clock, which both processes read.
    #[serde(default)]
    last_heard_ns: u64,
}

/// All counts, in portions of a message each.
pub(super) fn counted(view: &View, dataplane: &Dataplane) -> Vec<Counts> {
    let totals = dataplane.totals();
    // The new process's caches begin empty.
    let go_on = |total: &Total| *total != Total::CacheEntries;
    let mut all = vec![Counts {
        totals: totals
            .iter()
            .filter(|(total, _)| go_on(total))
            .map(|(total, count)| (total.name().to_owned(), count))
            .collect(),
        tunnel_drops: named(&dataplane.tunnel_drops()),
        ..Counts::default()
    }];
    let ports: Vec<(String, Row)> = view
        .ports
        .iter()
        .map(|(name, slot)| {
            let PortCounters { rx_frames, rx_bytes, tx_frames, tx_bytes, tx_dropped, drops } =
                dataplane.port_counters(*slot);
            let drops = named(&drops);
            let row = Row { rx_frames, rx_bytes, tx_frames, tx_bytes, tx_dropped, drops, last_heard_ns: 0 };
            (name.clone(), row)
        })
        .collect();
    let peers: Vec<(String, Row)> = view
        .peers
        .iter()
        .map(|(key, slot)| {
            let PeerCounters { rx_frames, rx_bytes, tx_frames, tx_bytes, drops, last_heard_ns } =
                dataplane.peer_counters(*slot);
            let drops = named(&drops);
            (
                name_of(key),
                Row { rx_frames, rx_bytes, tx_frames, tx_bytes, tx_dropped: 0, drops, last_heard_ns },
            )
        })
        .collect();
    let some = |rows: &[(String, Row)]| rows.iter().cloned().collect();
    all.extend(ports.chunks(ROWS).map(|rows| Counts { ports: some(rows), ..Counts::default() }));
    all.extend(peers.chunks(ROWS).map(|rows| Counts { peers: some(rows), ..Counts::default() }));
    all
}

/// The same for the slots of this process.
pub(super) fn carried(all: &[Counts], publisher: &Publisher) -> Carried {
    let peers: BTreeMap<String, _> = publisher.peer_slots().map(|(key, slot)| (name_of(key), slot)).collect();
    let mut carried = Carried::default();
    for counts in all {
        for total in Total::ALL {
            carried.totals.add(*total, counts.totals.get(total.name()).copied().unwrap_or(0));
        }
        carried.tunnel_drops.merge(&numbered(&counts.tunnel_drops));
        for (name, row) in &counts.ports {
            let Some(slot) = publisher.port_slot(name) else { continue };
            let counters = PortCounters {
                rx_frames: row.rx_frames,
                rx_bytes: row.rx_bytes,
                tx_frames: row.tx_frames,
                tx_bytes: row.tx_bytes,
                tx_dropped: row.tx_dropped,
                drops: numbered(&row.drops),
            };
            carried.ports.insert(slot, counters);
        }
        for (name, row) in &counts.peers {
            let Some(slot) = peers.get(name) else { continue };
            let counters = PeerCounters {
                rx_frames: row.rx_frames,
                rx_bytes: row.rx_bytes,
                tx_frames: row.tx_frames,
                tx_bytes: row.tx_bytes,
                drops: numbered(&row.drops),
                last_heard_ns: row.last_heard_ns,
            };
            carried.peers.insert(*slot, counters);
        }
    }
    carried
}

fn name_of(key: &PeerKey) -> String {
    match key {
        PeerKey::Routed { remote, port, vni } => format!("{remote} {port} {vni}"),
        PeerKey::Segment { port, remote } => format!("{remote} {port}"),
    }
}

fn named(drops: &Drops) -> BTreeMap<String, u64> {
    drops.iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
}

fn numbered(drops: &BTreeMap<String, u64>) -> Drops {
    let mut all = Drops::default();
    for reason in Reason::ALL {
        all.add(*reason, drops.get(reason.name()).copied().unwrap_or(0));
    }
    all
}
