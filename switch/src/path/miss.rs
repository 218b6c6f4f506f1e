//! The miss tier: everything that decides about a frame, once per flow, and what does not fit a cached action.

use weft_encap::build::error::Problem;
use weft_encap::{Gso, Headers, L3, Reason, VlanId, VnetHdr, frag, gso, parse};

use super::action::{Action, Verdict};
use super::cache::{FlowCache, Kept, Lookup};
use super::counters::Total;
use super::fdb::StationId;
use super::origin::Origin;
use super::process::{Env, Sink};
use super::{flood, guard, hit, l2, punt, route};
use crate::mem::Frame;
use crate::table::PeerMode;

/// Decides about a frame, does it, and keeps the decision in `cache` if it holds for the flow.
pub(super) fn run<S: Sink>(
    cache: &mut FlowCache,
    lookup: Option<Lookup>,
    env: &mut Env<'_, S>,
    frame: Frame,
    headers: Headers,
    gso: Gso,
) {
    let Some(origin) = Origin::of(env.snapshot, frame.ingress) else {
        return env.drop(frame, Reason::PortDown);
    };
    // Read before the tables are: an entry made from an older table than its generation says would never be revised.
    let learned = env.shared.generations();
    let (vlan, source) = match admit(env, &origin, &frame, &headers) {
        Ok(admitted) => admitted,
        Err(reason) => return env.drop(frame, reason),
    };
    match decide(env, &origin, vlan, &frame, &headers) {
        Verdict::Drop(reason) => env.drop(frame, reason),
        Verdict::Punted => env.pool.give(frame),
        Verdict::Flood(whom) => flood::run(env, &origin, vlan, whom, (frame, headers, gso)),
        Verdict::Forward(action, _) if !action.fits(&headers, gso) => {
            too_big(env, &origin, &action, (frame, headers, gso));
        }
        Verdict::Forward(action, basis) => {
            if let Some(lookup) = lookup {
                let entry = (action, basis);
                match cache.insert(lookup, env.snapshot, &origin, entry, (source, learned), env.now) {
                    Kept::Not | Kept::Again => {}
                    Kept::New => env.counters.add(Total::CacheEntries, 1),
                    Kept::InsteadOfAnother => env.counters.add(Total::CacheEvictions, 1),
                }
            }
            hit::run(env, &action, frame, headers);
        }
    }
}

/// What every frame must pass before anything is asked: its VLAN, its source, and the station it was learned as.
fn admit<S>(
    env: &Env<'_, S>,
    origin: &Origin<'_>,
    frame: &Frame,
    headers: &Headers,
) -> Result<(Option<VlanId>, Option<StationId>), Reason> {
    if headers.dst.is_reserved() {
        return Err(Reason::ReservedMac);
    }
    let vlan = origin.vlan(headers)?;
    let router = origin.bridge.router.as_ref();
    if let (Some(port), None) = (origin.port, origin.peer) {
        match &port.guard {
            Some(guard) => {
                guard::check(guard, router, headers, frame.bytes())?;
                guard::check_tunnels(&env.snapshot.tunnels, headers, frame.bytes())?;
            }
            // The router is no station: nobody behind a port may speak with its address.
            None if router.is_some_and(|router| router.mac == headers.src) => return Err(Reason::GuardMac),
            None => {}
        }
    }
    Ok((vlan, l2::learn(env, origin, vlan, headers.src)))
}

fn decide<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    frame: &Frame,
    headers: &Headers,
) -> Verdict {
    if let Some(peer) = origin.peer
        && let PeerMode::Routed { local_mac, .. } = peer.mode
    {
        return route::decide_from_tunnel(env, origin, peer, local_mac, (frame, headers));
    }
    if headers.l3 == L3::Arp {
        return punt::arp(env, origin, vlan, frame, headers);
    }
    if headers.is_nd() {
        return punt::nd(env, origin, vlan, frame, headers);
    }
    match &origin.bridge.router {
        Some(router) if vlan.is_none() && headers.dst == router.mac => {
            route::decide(env, origin, router, (frame, headers))
        }
        _ if headers.dst.is_multicast() => Verdict::Flood(flood::Whom::All),
        _ => l2::decide(env, origin, vlan, headers),
    }
}

/// A frame that does not fit the way out: fragmented where its sender lets us, else dropped and its sender told. The same
/// for switched frames: ports of one bridge may differ in MTU, and who sends without DF learns nothing from an answer.
fn too_big<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    action: &Action,
    (mut frame, mut headers, gso): (Frame, Headers, Gso),
) {
    let may_fragment = headers.l3 == L3::V4 && !headers.dont_fragment;
    if !may_fragment {
        let mtu = u16::try_from(action.mtu).unwrap_or(u16::MAX);
        let reason = punt::refuse(env, origin, &frame, &headers, Problem::TooBig { mtu }, Reason::TooBig);
        return env.drop(frame, reason);
    }
    if let Err(reason) = hit::apply(action, &mut frame, &mut headers) {
        return env.drop(frame, reason);
    }
    let outcome = match gso.size() {
        Some(_) => cut_and_fragment(env, action, &frame, &headers, gso),
        None => {
            let owes = frame.vnet.needs_csum();
            frag::prepare(frame.bytes_mut(), &headers, owes);
            fragment(env, action, &frame, &headers)
        }
    };
    match outcome {
        Ok(()) => env.pool.give(frame),
        Err(reason) => env.drop(frame, reason),
    }
}

/// Cuts a superframe into its segments, and those into fragments.
fn cut_and_fragment<S: Sink>(
    env: &mut Env<'_, S>,
    action: &Action,
    frame: &Frame,
    headers: &Headers,
    gso: Gso,
) -> Result<(), Reason> {
    let plan = gso::Plan::new(headers, gso)?;
    for index in 0..plan.count() {
        let mut segment = env.pool.take().ok_or(Reason::NoBuffer)?;
        let cut = gso::cut(frame.bytes(), headers, &plan, index..index + 1, 0, segment.spare_mut());
        let done = cut.and_then(|cut| {
            segment.set_len(cut.bytes());
            let headers = parse(segment.bytes())?;
            fragment(env, action, &segment, &headers)
        });
        env.pool.give(segment);
        done?;
    }
    Ok(())
}

/// Sends the fragments of a frame that has been edited and owes nothing.
fn fragment<S: Sink>(
    env: &mut Env<'_, S>,
    action: &Action,
    frame: &Frame,
    headers: &Headers,
) -> Result<(), Reason> {
    let sent = Action { macs: None, ttl: false, tag: super::action::TagEdit::Keep, ..*action };
    let mut fragments = frag::fragments(frame.bytes(), headers, action.mtu as usize)?;
    loop {
        let mut piece = env.pool.take().ok_or(Reason::NoBuffer)?;
        let Some(len) = fragments.next_into(piece.spare_mut()) else {
            env.pool.give(piece);
            return Ok(());
        };
        piece.set_len(len);
        piece.vnet = VnetHdr::NONE;
        piece.ingress = frame.ingress;
        match parse(piece.bytes()) {
            Ok(headers) => {
                env.counters.add(Total::FragmentsMade, 1);
                hit::run(env, &sent, piece, headers);
            }
            Err(reason) => env.drop(piece, reason),
        }
    }
}
