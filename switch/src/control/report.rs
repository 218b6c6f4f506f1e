//! What the API's readers are told: the engine's view and the workers' counters in the words of [`weft_api::report`].
//! Nothing here waits for the engine.

/// Routes, neighbours, peers.
mod routing;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use weft_api::port::{PortCounters, SharedMemory, XdpInfo};

use weft_api::report::{
    DropCount, FdbEntry, FlowEntry, NeighbourEntry, PoolStatus, RouteEntry, Stats, Status, TunnelEntry,
    UplinkStatus,
};
use weft_api::transaction::TransactionResult;
use weft_api::{
    ApiError, BridgeInfo, Code, PortInfo, PortState, Transaction, TransactionReply, UpgradeReply,
    UpgradeRequest,
};
use weft_encap::Reason;

use super::engine::{Handle, HangUp, View};
use super::handover::Giver;
use super::publish::PeerKey;
use super::serve::Source;
use super::{ipam, transaction};
use crate::mem::Ingress;
use crate::path::counters::Total;
use crate::path::{Dataplane, FlowDump, FlowTarget};
use crate::table::{BridgeSlot, FdbTarget, PeerSlot, PortSlot};

/// The daemon as the API sees it.
pub struct Reporter {
    handle: Handle,
    dataplane: Arc<Dataplane>,
    workers: usize,
    started: Instant,
    giver: Option<Arc<Giver>>,
}

impl Reporter {
    /// Of an engine and its workers.
    pub fn new(handle: Handle, dataplane: Arc<Dataplane>, workers: usize) -> Self {
        Reporter { handle, dataplane, workers, started: Instant::now(), giver: None }
    }

    /// The same, for a daemon that can hand over.
    #[must_use]
    pub fn with_giver(mut self, giver: Arc<Giver>) -> Self {
        self.giver = Some(giver);
        self
    }
}

impl Source for Reporter {
    fn status(&self) -> Status {
        let view = self.handle.view();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: view.state.node.name.clone(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: view.ready,
            epoch: view.epoch,
            workers: self.workers,
            worker_busy_permille: self.dataplane.load_permille(),
            ports: view.state.ports.len(),
            overlay_mtu: view.state.node.overlay_mtu(),
            cluster: view.cluster.clone(),
            uplink: uplink(&view, &self.dataplane),
            pools: pools(&view),
            foreign_chains: view.foreign_chains.load().to_vec(),
            degraded: view.degraded.clone(),
            sysctls: view.sysctls.iter().map(|s| (s.key.clone(), s.old.clone(), s.new.clone())).collect(),
        }
    }

    fn bridges(&self) -> Vec<BridgeInfo> {
        let view = self.handle.view();
        let mut learned: BTreeMap<BridgeSlot, u64> = BTreeMap::new();
        for known in self.dataplane.learned() {
            *learned.entry(known.station.bridge).or_default() += 1;
        }
        let info = |(name, spec): (&String, &Arc<weft_api::BridgeSpec>)| BridgeInfo {
            spec: (**spec).clone(),
            ports: names_on(&view, name),
            router_mac: view.state.router_mac(name),
            fdb_learned: view.bridges.get(name).and_then(|slot| learned.get(slot)).copied().unwrap_or(0),
        };
        view.state.bridges.iter().map(info).collect()
    }

    fn ports(&self) -> Vec<PortInfo> {
        let view = self.handle.view();
        let info = |(name, record): (&String, &Arc<super::state::PortRecord>)| {
            let counters = view.ports.get(name).map(|slot| self.dataplane.port_counters(*slot));
            let counters = counters.unwrap_or_default();
            PortInfo {
                spec: record.spec.clone(),
                state: if record.lost.is_some() { PortState::Lost } else { PortState::Up },
                error: record.lost.clone(),
                local_mtu: record
                    .local_mtu
                    .filter(|mtu| record.spec.mtu.is_some_and(|elsewhere| *mtu > elsewhere)),
                offloads: view.offloads.get(name).cloned().unwrap_or_default(),
                xdp: view.xdp.get(name).map(|(device, xdp)| XdpInfo {
                    device: device.clone(),
                    mode: xdp.mode().to_string(),
                    zero_copy: xdp.is_zero_copy(),
                    busy_poll: xdp.busy_polls(),
                    memory: xdp.memory() as u64,
                    shared: xdp.shared().map(|shared| SharedMemory {
                        number: shared.number as u32,
                        size: shared.size as u64,
                        ports: shared.ports as u32,
                    }),
                    dropped: xdp.dropped(),
                }),
                counters: PortCounters {
                    rx_frames: counters.rx_frames,
                    rx_bytes: counters.rx_bytes,
                    rx_dropped: counters.drops.sum(),
                    tx_frames: counters.tx_frames,
                    tx_bytes: counters.tx_bytes,
                    tx_dropped: counters.tx_dropped,
                },
            }
        };
        view.state.ports.iter().map(info).collect()
    }

    fn fdb(&self) -> Vec<FdbEntry> {
        let view = self.handle.view();
        let names = Names::of(&view);
        let own = view.state.ports.values().flat_map(|port| {
            port.stations().map(|(vlan, mac)| FdbEntry {
                bridge: port.spec.bridge.clone(),
                vlan,
                mac,
                port: port.spec.name.clone(),
                remote: None,
                is_static: true,
                owner: Some(port.spec.owner),
                age_seconds: 0,
            })
        });
        let operators = view.state.statics.iter().map(|((bridge, vlan, mac), entry)| FdbEntry {
            bridge: bridge.clone(),
            vlan: *vlan,
            mac: *mac,
            port: entry.port.clone(),
            remote: entry.remote,
            is_static: true,
            owner: Some(entry.owner),
            age_seconds: 0,
        });
        let learned = self.dataplane.learned().into_iter().filter_map(|known| {
            let (port, peer) = match known.target {
                FdbTarget::Port(port) => (port, None),
                FdbTarget::Peer(port, peer) => (port, Some(peer)),
            };
            Some(FdbEntry {
                bridge: names.bridges.get(&known.station.bridge)?.to_string(),
                vlan: known.station.vlan,
                mac: known.station.mac,
                port: names.ports.get(&port)?.to_string(),
                remote: peer.and_then(|peer| names.peers.get(&peer)).map(|key| remote_of(key)),
                is_static: false,
                owner: None,
                age_seconds: u64::from(known.age_seconds),
            })
        });
        let mut all: Vec<FdbEntry> = own.chain(operators).chain(learned).collect();
        all.sort_by(|a, b| (&a.bridge, a.vlan, a.mac).cmp(&(&b.bridge, b.vlan, b.mac)));
        all
    }

    fn routes(&self) -> Vec<RouteEntry> {
        routing::routes(&self.handle.view().state)
    }

    fn neighbours(&self) -> Vec<NeighbourEntry> {
        routing::neighbours(&self.handle.view(), &self.dataplane)
    }

    fn tunnels(&self) -> Vec<TunnelEntry> {
        routing::tunnels(&self.handle.view(), &self.dataplane)
    }

    fn flows(&self, limit: usize) -> Vec<FlowEntry> {
        let dumps = self.dataplane.flows(limit);
        let view = self.handle.view();
        let names = Names::of(&view);
        let mut flows: Vec<FlowEntry> = dumps.iter().map(|flow| flow_entry(&names, flow)).collect();
        flows.sort_by_key(|flow| std::cmp::Reverse(flow.hits));
        flows.truncate(limit);
        flows
    }

    fn stats(&self) -> Stats {
        let view = self.handle.view();
        let mut totals: BTreeMap<String, u64> =
            self.dataplane.totals().iter().map(|(total, count)| (total.name().to_owned(), count)).collect();
        let mut drops: BTreeMap<Reason, DropCount> = BTreeMap::new();
        let mut add = |reason: Reason, port: Option<&str>, count: u64| {
            let entry = drops.entry(reason).or_insert_with(|| DropCount {
                reason: reason.name().to_owned(),
                about: reason.about().to_owned(),
                ports: BTreeMap::new(),
                peers: BTreeMap::new(),
                count: 0,
            });
            entry.count += count;
            if let Some(port) = port {
                *entry.ports.entry(port.to_owned()).or_default() += count;
            }
        };
        let (mut frames, mut bytes) = (0, 0);
        for (name, slot) in &view.ports {
            let counters = self.dataplane.port_counters(*slot);
            (frames, bytes) = (frames + counters.rx_frames, bytes + counters.rx_bytes);
            for (reason, count) in counters.drops.iter().filter(|(_, count)| *count > 0) {
                add(reason, Some(name), count);
            }
        }
        for (reason, count) in self.dataplane.tunnel_drops().iter().filter(|(_, count)| *count > 0) {
            add(reason, None, count);
        }
        // Among those of the tunnels already.
        for (key, slot) in &view.peers {
            for (reason, count) in self.dataplane.peer_counters(*slot).drops.iter() {
                if let Some(entry) = drops.get_mut(&reason) {
                    *entry.peers.entry(peer_name(key)).or_default() += count;
                }
            }
        }
        totals.insert("frames".into(), frames);
        totals.insert("bytes".into(), bytes);
        let tables = self.dataplane.occupancy();
        totals.insert("learned".into(), tables.stations as u64);
        totals.insert("learned_evictions".into(), tables.stations_evicted);
        totals.insert("neighbours".into(), tables.neighbours as u64);
        totals.insert("neighbour_evictions".into(), tables.neighbours_evicted);
        Stats {
            totals,
            drops: drops.into_values().collect(),
            worker_busy_permille: self.dataplane.load_permille(),
        }
    }

    fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeReply, ApiError> {
        match &self.giver {
            Some(giver) => giver.upgrade(request),
            None => Err(ApiError::new(Code::Unavailable, "this daemon cannot hand over")),
        }
    }

    fn transact(&self, wanted: Transaction) -> Pin<Box<dyn Future<Output = TransactionResult> + Send>> {
        let handle = self.handle.clone();
        Box::pin(async move {
            let edit = move |draft: &mut super::engine::Draft| transaction::apply(draft, wanted);
            let (outcomes, epoch) = handle.edit("transaction", HangUp::Keep, edit).await?;
            Ok(TransactionReply { outcomes, epoch })
        })
    }
}

/// Names by slot.
struct Names<'a> {
    ports: BTreeMap<PortSlot, &'a str>,
    bridges: BTreeMap<BridgeSlot, &'a str>,
    peers: BTreeMap<PeerSlot, &'a PeerKey>,
}

impl<'a> Names<'a> {
    fn of(view: &'a View) -> Self {
        Names {
            ports: view.ports.iter().map(|(name, slot)| (*slot, name.as_str())).collect(),
            bridges: view.bridges.iter().map(|(name, slot)| (*slot, name.as_str())).collect(),
            peers: view.peers.iter().map(|(key, slot)| (*slot, key)).collect(),
        }
    }

    fn port(&self, slot: PortSlot) -> String {
        self.ports.get(&slot).map_or_else(|| format!("#{}", slot.0), |name| (*name).to_owned())
    }

    fn peer(&self, slot: PeerSlot) -> String {
        self.peers.get(&slot).map_or_else(|| format!("peer #{}", slot.0), |key| peer_name(key))
    }
}

fn peer_name(key: &PeerKey) -> String {
    match key {
        PeerKey::Routed { remote, vni, .. } => format!("{remote}/{vni}"),
        PeerKey::Segment { port, remote } => format!("{remote}/{port}"),
    }
}

fn remote_of(key: &PeerKey) -> std::net::IpAddr {
    match key {
        PeerKey::Routed { remote, .. } | PeerKey::Segment { remote, .. } => *remote,
    }
}

fn names_on(view: &View, bridge: &str) -> Vec<String> {
    let on_bridge = view.state.ports.values().filter(|port| port.spec.bridge == bridge);
    on_bridge.map(|port| port.spec.name.clone()).collect()
}

fn pools(view: &View) -> Vec<PoolStatus> {
    ipam::status(&view.state)
}

fn uplink(view: &View, dataplane: &Dataplane) -> Option<UplinkStatus> {
    let (device, uplink) = view.uplink.as_ref()?;
    let uplink = uplink.upgrade()?;
    let totals = dataplane.totals();
    Some(UplinkStatus {
        device: device.clone(),
        mode: uplink.mode().to_string(),
        zero_copy: uplink.is_zero_copy(),
        busy_poll: uplink.busy_polls(),
        queues: uplink.queues(),
        memory: uplink.memory() as u64,
        peers: uplink.ways().hops.len(),
        rx_packets: totals.get(Total::UplinkReceived),
        tx_packets: totals.get(Total::UplinkSent),
        rx_dropped: uplink.dropped(),
    })
}

fn flow_entry(names: &Names<'_>, flow: &FlowDump) -> FlowEntry {
    let ingress = match flow.ingress {
        Ingress::Port(slot) => names.port(slot),
        Ingress::Peer(slot) => names.peer(slot),
    };
    let vlan = flow.tci.map(|tci| format!(" vlan {}", tci & 0xfff)).unwrap_or_default();
    let macs = format!("{} > {}{vlan}", flow.src_mac, flow.dst_mac);
    let key = match flow.ip {
        None => format!("{macs} ethertype {:#06x}", flow.ethertype),
        Some((src, dst)) => {
            let protocol = match flow.proto {
                1 => "icmp".to_owned(),
                6 => "tcp".to_owned(),
                17 => "udp".to_owned(),
                58 => "icmpv6".to_owned(),
                132 => "sctp".to_owned(),
                other => format!("proto {other}"),
            };
            let port = flow.dst_port.map(|port| format!(" port {port}")).unwrap_or_default();
            format!("{macs} {protocol} {src} > {dst}{port}")
        }
    };
    let target = match flow.target {
        FlowTarget::Port(slot) => format!("port {}", names.port(slot)),
        FlowTarget::Peer(slot) => format!("peer {}", names.peer(slot)),
    };
    FlowEntry {
        worker: flow.worker,
        ingress,
        key,
        actions: if flow.routed { format!("route, {target}") } else { target },
        hits: flow.hits,
        idle_seconds: u64::from(flow.idle_seconds),
    }
}
