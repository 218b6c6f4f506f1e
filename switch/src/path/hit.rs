//! Applying a decision: the edits, in place, and the way out. The whole of the hit tier besides the cache itself.

use weft_encap::{Headers, Reason, edit, flow, vlan};

use super::action::{Action, TagEdit};
use super::process::{Env, Sink};
use super::shared::FlowTarget;
use crate::mem::Frame;

/// Edits `frame` and sends it. Its TTL and size have been checked ([`Action::suits`]).
#[inline(always)]
pub(super) fn run<S: Sink>(env: &mut Env<'_, S>, action: &Action, mut frame: Frame, mut headers: Headers) {
    if !action.is_none()
        && let Err(reason) = apply(action, &mut frame, &mut headers)
    {
        return env.drop(frame, reason);
    }
    match action.target {
        FlowTarget::Port(slot) => env.out.to_port(slot, frame, Some(headers)),
        FlowTarget::Peer(slot) => {
            let hash = flow::flow_hash(&headers, frame.bytes());
            env.out.to_peer(slot, frame, headers, hash);
        }
    }
}

/// The edits alone; `headers` follow.
///
/// # Errors
/// [`Reason::Ttl`]; [`Reason::NoBuffer`] when there is no headroom for a tag.
#[inline(always)]
pub(super) fn apply(action: &Action, frame: &mut Frame, headers: &mut Headers) -> Result<(), Reason> {
    if action.ttl {
        edit::decrement_ttl(frame.bytes_mut(), headers)?;
    }
    if let Some((dst, src)) = action.macs {
        edit::set_macs(frame.bytes_mut(), headers, dst, src);
    }
    let (delta, tci) = match action.tag {
        TagEdit::Keep => return Ok(()),
        TagEdit::Pop => {
            let delta = edit::pop_vlan(frame.bytes_mut());
            frame.pull_front(vlan::LEN);
            (delta, None)
        }
        TagEdit::Push(tci) => {
            if !frame.push_front(vlan::LEN) {
                return Err(Reason::NoBuffer);
            }
            (edit::push_vlan(frame.bytes_mut(), tci), Some(tci))
        }
    };
    frame.vnet = frame.vnet.shifted(delta);
    *headers = edit::moved(*headers, delta, tci);
    Ok(())
}
