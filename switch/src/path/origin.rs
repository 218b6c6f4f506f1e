//! Where a frame came from, in terms of the snapshot, and which VLAN that puts it in.

use weft_encap::{Headers, Reason, VlanId, eth, vlan};

use super::action::TagEdit;
use crate::mem::Ingress;
use crate::table::{Bridge, Peer, PeerMode, Port, Role, Snapshot};

/// Where a frame came from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    pub(super) ingress: Ingress,
    /// The port; of a frame from a stretched segment, the segment's.
    pub(super) port: Option<&'a Port>,
    /// The peer, for frames from a tunnel.
    pub(super) peer: Option<&'a Peer>,
    /// The bridge it came in on.
    pub(super) bridge: &'a Bridge,
}

impl<'a> Origin<'a> {
    /// `None` when the port, peer or bridge is no more.
    pub(super) fn of(snapshot: &'a Snapshot, ingress: Ingress) -> Option<Self> {
        let (port, peer, bridge) = match ingress {
            Ingress::Port(slot) => {
                let port = snapshot.ports.get(slot)?;
                (Some(port), None, port.bridge)
            }
            Ingress::Peer(slot) => {
                let peer = snapshot.tunnels.get(slot)?;
                match peer.mode {
                    PeerMode::Routed { bridge, .. } => (None, Some(peer), bridge),
                    PeerMode::Segment { port } => {
                        let port = snapshot.ports.get(port)?;
                        (Some(port), Some(peer), port.bridge)
                    }
                }
            }
        };
        let bridge = snapshot.bridges.get(bridge)?;
        Some(Origin { ingress, port, peer, bridge })
    }

    /// The VLAN of a frame (`None`: the untagged one).
    ///
    /// A tag that the port does not carry is refused, whatever it is hidden behind: a receiving kernel strips a
    /// priority tag, 802.1Q or 802.1ad, and would then take an IP packet that no guard has seen.
    pub(super) fn vlan(&self, headers: &Headers) -> Result<Option<VlanId>, Reason> {
        let (tag, trunks, guarded) = match self.port {
            Some(port) => (port.tag, port.trunks.as_slice(), port.guard.is_some()),
            None => (None, [].as_slice(), true),
        };
        let hides_a_tag = matches!(headers.ethertype, eth::VLAN | eth::QINQ);
        if hides_a_tag && (guarded || headers.tci.is_none()) {
            return Err(Reason::Vlan);
        }
        if headers.tci.is_none() {
            return Ok(tag);
        }
        match headers.vlan() {
            Some(id) if trunks.binary_search(&id).is_ok() => Ok(Some(id)),
            _ => Err(Reason::Vlan),
        }
    }

    /// True for a frame from a peer of a stretched segment: it never goes to another peer (split horizon).
    pub(super) fn is_segment_peer(&self) -> bool {
        self.port.is_some() && self.peer.is_some()
    }

    /// True for a frame from the node itself.
    pub(super) fn is_node(&self) -> bool {
        self.port.is_some_and(|port| port.role == Role::Node)
    }
}

/// What becomes of the tag of a frame of `vlan` that leaves by `port`; `None` when the port does not carry the VLAN.
pub(super) fn egress_tag(port: &Port, vlan: Option<VlanId>, is_tagged: bool) -> Option<TagEdit> {
    if vlan == port.tag {
        return Some(if is_tagged { TagEdit::Pop } else { TagEdit::Keep });
    }
    let id = vlan?;
    port.trunks.binary_search(&id).ok()?;
    Some(if is_tagged { TagEdit::Keep } else { TagEdit::Push(vlan::tci(id)) })
}

/// True for a port behind which there may be addresses that nobody declared.
pub(super) fn may_hide_addresses(port: &Port) -> bool {
    let unbound = port.guard.as_ref().is_none_or(|guard| guard.v4.is_empty() && guard.v6.is_empty());
    unbound && port.role != Role::Node
}
