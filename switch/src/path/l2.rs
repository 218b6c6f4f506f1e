//! Switching: learn the source, find the destination.

use weft_encap::{Headers, MacAddr, Reason, VlanId};

use super::action::{Action, Basis, Verdict};
use super::fdb::{Bounds, Station, StationId};
use super::flood::Whom;
use super::origin::{Origin, egress_tag};
use super::process::Env;
use super::shared::FlowTarget;
use crate::mem::Ingress;
use crate::table::{Bridge, FdbTarget, PeerMode, Snapshot};

/// Notes where the frame's source is. `None` when it is declared (declared stations never move, and guarded ports'
/// are declared), or belongs to the router.
pub(super) fn learn<S>(
    env: &Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    src: MacAddr,
) -> Option<StationId> {
    let bridge = origin.bridge;
    let is_routers = bridge.router.as_ref().is_some_and(|router| router.mac == src);
    if is_routers || bridge.statics.contains_key(&(vlan, src)) {
        return None;
    }
    let port = origin.port?;
    let target = match origin.peer {
        Some(peer) => FdbTarget::Peer(port.slot, peer.slot),
        None => FdbTarget::Port(port.slot),
    };
    let bounds = Bounds { ageing_seconds: bridge.ageing_seconds, max: bridge.fdb_max };
    env.shared.fdb.learn(Station { bridge: bridge.slot, vlan, mac: src }, target, bounds, env.now)
}

/// Where a station is: declared, else learned.
pub(super) fn find<S>(
    env: &Env<'_, S>,
    bridge: &Bridge,
    vlan: Option<VlanId>,
    mac: MacAddr,
) -> Option<(FdbTarget, Basis)> {
    if let Some(target) = bridge.statics.get(&(vlan, mac)) {
        return Some((*target, Basis::Static(vlan, mac, *target)));
    }
    let station = Station { bridge: bridge.slot, vlan, mac };
    let target = env.shared.fdb.find(station, bridge.ageing_seconds, env.now)?;
    Some((target, Basis::Learned(vlan, mac)))
}

/// Switches a frame to the station it names.
pub(super) fn decide<S>(
    env: &Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    headers: &Headers,
) -> Verdict {
    let Some((target, basis)) = find(env, origin.bridge, vlan, headers.dst) else {
        return Verdict::Flood(Whom::Unguarded);
    };
    if is_back(origin, target) {
        return Verdict::Drop(Reason::SamePort);
    }
    match way_out(env.snapshot, target, vlan, headers) {
        Ok(action) => Verdict::Forward(action, basis),
        // A station declared behind a segment as a whole is behind one of its peers.
        Err(Reason::NoNeighbour) => Verdict::Flood(Whom::Unguarded),
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The action that takes a frame of `vlan`, as it is, to `target`.
///
/// # Errors
/// [`Reason::PortDown`] when the target is no more, [`Reason::Vlan`] when it does not carry the VLAN,
/// [`Reason::NoNeighbour`] when it is a segment, but it is not known which peer of it.
pub(super) fn way_out(
    snapshot: &Snapshot,
    target: FdbTarget,
    vlan: Option<VlanId>,
    headers: &Headers,
) -> Result<Action, Reason> {
    let (FdbTarget::Port(slot) | FdbTarget::Peer(slot, _)) = target;
    let port = snapshot.ports.get(slot).ok_or(Reason::PortDown)?;
    let tag = egress_tag(port, vlan, headers.tci.is_some()).ok_or(Reason::Vlan)?;
    let action = Action { target: FlowTarget::Port(slot), macs: None, ttl: false, tag, mtu: port.mtu };
    match target {
        FdbTarget::Port(_) if port.role == crate::table::Role::Segment => Err(Reason::NoNeighbour),
        FdbTarget::Port(_) => Ok(action),
        FdbTarget::Peer(_, peer) => {
            let peer = snapshot.tunnels.get(peer).ok_or(Reason::PortDown)?;
            let belongs = matches!(peer.mode, PeerMode::Segment { port } if port == slot);
            if !belongs {
                return Err(Reason::PortDown);
            }
            Ok(Action { target: FlowTarget::Peer(peer.slot), mtu: peer.mtu, ..action })
        }
    }
}

/// True when the target is where the frame came from, or a peer and the frame came from one (split horizon).
fn is_back(origin: &Origin<'_>, target: FdbTarget) -> bool {
    match target {
        FdbTarget::Port(port) => origin.ingress == Ingress::Port(port),
        FdbTarget::Peer(..) => origin.is_segment_peer(),
    }
}
