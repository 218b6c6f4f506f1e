//! What is done to a frame: the outcome of a decision, in a form that a flow cache can keep.

use std::net::IpAddr;

use weft_encap::{Gso, Headers, MacAddr, Reason, VlanId};

use super::flood::Whom;
use super::shared::FlowTarget;
use crate::table::FdbTarget;

/// What is to be done with a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Edited and sent.
    Forward(Action, Basis),
    /// Copied to many.
    Flood(Whom),
    /// Consumed by the switch, which sent an answer or owed none.
    Punted,
    /// Dropped.
    Drop(Reason),
}

/// Edits and the way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Action {
    /// The way out.
    pub(super) target: FlowTarget,
    /// New destination and source MAC; `None` for switched frames.
    pub(super) macs: Option<(MacAddr, MacAddr)>,
    /// TTL or hop limit goes down by one.
    pub(super) ttl: bool,
    /// What becomes of the 802.1Q tag.
    pub(super) tag: TagEdit,
    /// Longest IP packet (or other payload) on the way out, bytes.
    pub(super) mtu: u32,
}

impl Action {
    /// True when the frame may go: its TTL suffices and each of its segments fits the way out.
    #[inline]
    pub(super) fn suits(&self, headers: &Headers, gso: Gso) -> bool {
        !(self.ttl && headers.ttl <= 1) && self.fits(headers, gso)
    }

    /// True when nothing in the frame changes.
    #[inline]
    pub(super) fn is_none(&self) -> bool {
        self.macs.is_none() && !self.ttl && self.tag == TagEdit::Keep
    }

    /// True when each segment fits the way out.
    #[inline]
    pub(super) fn fits(&self, headers: &Headers, gso: Gso) -> bool {
        gso.l3_len(headers) <= self.mtu as usize
    }
}

/// What becomes of the 802.1Q tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TagEdit {
    /// It stays, or there is none and none is added.
    Keep,
    /// It goes.
    Pop,
    /// One with this control word is added.
    Push(u16),
}

/// What a decision rests on, besides the bridge and the ports and peers on the way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// Nothing else.
    Bridge,
    /// The station is declared there.
    Static(Option<VlanId>, MacAddr, FdbTarget),
    /// The station is not declared, and was learned there.
    Learned(Option<VlanId>, MacAddr),
    /// The address is declared to be that station's.
    Neighbour(IpAddr, MacAddr),
    /// The address is not declared, and was learned.
    LearnedNeighbour(IpAddr),
}
