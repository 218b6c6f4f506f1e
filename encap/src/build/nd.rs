//! Neighbour discovery (RFC 4861).

use std::net::Ipv6Addr;

use crate::checksum::{self, State, pseudo_v6};
use crate::wire::put16;
use crate::{Headers, MacAddr, eth, icmpv6, ipv6, proto};

/// Length of a solicitation or advertisement with one link-layer address option, bytes.
pub const LEN: usize = eth::LEN + ipv6::LEN + MESSAGE;
const MESSAGE: usize = icmpv6::Neighbour::LEN + 8;
/// The hop limit that proves a message came from this link (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;

/// "Who has `target`?" from `sender`, to the solicited-node group.
pub fn solicitation(out: &mut [u8], sender: (MacAddr, Ipv6Addr), target: Ipv6Addr) -> Option<usize> {
    let group = ipv6::solicited_node(target);
    let message = message(icmpv6::NEIGHBOUR_SOLICITATION, 0, target, icmpv6::OPT_SOURCE_MAC, sender.0);
    write(out, MacAddr::of_ipv6_multicast(group), sender.0, (sender.1, group), message)
}

/// "`target` is at `mac`", to `to`; `router` when the target forwards packets of others.
///
/// To the unspecified address, which is who runs duplicate address detection, it goes to all nodes and is not marked
/// as solicited (RFC 4861 section 7.2.4).
pub fn advertisement(
    out: &mut [u8],
    mac: MacAddr,
    target: Ipv6Addr,
    to: (MacAddr, Ipv6Addr),
    router: bool,
) -> Option<usize> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let (to, solicited) = if to.1.is_unspecified() {
        ((MacAddr::of_ipv6_multicast(all_nodes), all_nodes), 0)
    } else {
        (to, icmpv6::NA_SOLICITED)
    };
    let flags = icmpv6::NA_OVERRIDE | solicited | if router { icmpv6::NA_ROUTER } else { 0 };
    let message = message(icmpv6::NEIGHBOUR_ADVERTISEMENT, flags, target, icmpv6::OPT_TARGET_MAC, mac);
    write(out, to.0, mac, (target, to.1), message)
}

/// The advertisement that answers a solicitation, whose target is at `mac`. `None` for any other frame, and for
/// one that RFC 4861 section 7.1.1 calls invalid.
pub fn answer(
    out: &mut [u8],
    solicitation: &[u8],
    headers: &Headers,
    mac: MacAddr,
    router: bool,
) -> Option<usize> {
    let message = headers.neighbour(solicitation)?;
    let (src, _) = headers.v6(solicitation)?;
    let valid = message.kind == icmpv6::NEIGHBOUR_SOLICITATION
        && !message.target().is_multicast()
        && !src.is_multicast()
        && checksum::state(solicitation, headers) == State::Verified;
    let options = &headers.payload(solicitation)[icmpv6::Neighbour::LEN - icmpv6::LEN..];
    let asker = icmpv6::link_layer_option(options, icmpv6::OPT_SOURCE_MAC).filter(|mac| mac.is_unicast());
    // Who has no address yet must not name one (RFC 4861 section 7.1.1).
    if !valid || (src.is_unspecified() && asker.is_some()) {
        return None;
    }
    advertisement(out, mac, message.target(), (asker.unwrap_or(headers.src), src), router)
}

fn message(kind: u8, flags: u8, target: Ipv6Addr, option: u8, mac: MacAddr) -> [u8; MESSAGE] {
    let mut out = [0u8; MESSAGE];
    out[0] = kind;
    out[4] = flags;
    out[8..24].copy_from_slice(&target.octets());
    out[24..26].copy_from_slice(&[option, 1]);
    out[26..].copy_from_slice(&mac.0);
    out
}

fn write(
    out: &mut [u8],
    dst_mac: MacAddr,
    src_mac: MacAddr,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    mut message: [u8; MESSAGE],
) -> Option<usize> {
    let out = out.get_mut(..LEN)?;
    let pseudo = pseudo_v6(src.octets(), dst.octets(), proto::ICMPV6, MESSAGE as u32);
    let sum = pseudo.add(&message).finish();
    put16(&mut message, icmpv6::CHECKSUM, sum);
    eth::write(out, dst_mac, src_mac, eth::IPV6);
    ipv6::write(&mut out[eth::LEN..], src, dst, proto::ICMPV6, HOP_LIMIT, MESSAGE as u16);
    out[eth::LEN + ipv6::LEN..].copy_from_slice(&message);
    Some(LEN)
}
