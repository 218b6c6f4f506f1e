//! Pure TCP acknowledgments: when a later one says all that an earlier one says.
//!
//! Acknowledgments are cumulative (RFC 9293 section 3.4). Of several that wait at one place for one way out, the last
//! alone does (*ACK filtering*, RFC 3449 section 5.2.1), and spares everybody behind the work for the others.

use crate::wire::{be16, be32};
use crate::{Fragment, Headers, L3, L4, ipv4, ipv6, tcp};

/// No options, or the time stamps that every kernel sends: two no-operations before them (RFC 7323 appendix A).
const PLAIN: usize = tcp::LEN;
const STAMPED: usize = tcp::LEN + 12;
const STAMP_OPTION: [u8; 4] = [1, 1, 8, 10];
const STAMP: usize = tcp::LEN + 4;

/// True for a segment of no payload and no flag but ACK that could stand for an earlier one.
#[inline]
pub fn is_pure(headers: &Headers) -> bool {
    u32::from(headers.payload_at) == headers.l4_end
        && headers.tcp_flags == tcp::ACK
        && headers.l4 == L4::Tcp
        && headers.fragment == Fragment::Whole
        && matches!(headers.payload_at - headers.l4_at, len if usize::from(len) == PLAIN || usize::from(len) == STAMPED)
}

/// True when `later` makes `earlier`, which was sent before it, needless: both [`is_pure`], of one connection and equal
/// but for what counts up; and `later` acknowledges *more*. An equal number is a duplicate, which means loss to the
/// sender (RFC 5681 section 3.2). Segments with any option but time stamps stay: SACK, MPTCP and others tell things of
/// their own.
#[inline]
pub fn supersedes(later: (&[u8], &Headers), earlier: (&[u8], &Headers)) -> bool {
    let ((b, hb), (a, ha)) = (later, earlier);
    if !is_pure(hb) || !is_pure(ha) {
        return false;
    }
    let shape = |h: &Headers| (h.l3, h.l3_at, h.l4_at, h.payload_at);
    if shape(ha) != shape(hb) {
        return false;
    }
    let (l3, l4, end) = (usize::from(ha.l3_at), usize::from(ha.l4_at), usize::from(ha.payload_at));
    a[..l3] == b[..l3] && same_ip(ha.l3, &a[l3..l4], &b[l3..l4]) && follows(&a[l4..end], &b[l4..end])
}

#[inline]
fn same_ip(l3: L3, a: &[u8], b: &[u8]) -> bool {
    match l3 {
        L3::V4 => {
            a.len() == ipv4::LEN
                && a[..ipv4::TOTAL_LEN] == b[..ipv4::TOTAL_LEN]
                && a[ipv4::FLAGS..ipv4::CHECKSUM] == b[ipv4::FLAGS..ipv4::CHECKSUM]
                && a[ipv4::SRC..] == b[ipv4::SRC..]
        }
        _ => a.len() == ipv6::LEN && a == b,
    }
}

#[inline]
fn follows(a: &[u8], b: &[u8]) -> bool {
    let grew = |at: usize| (be32(b, at).wrapping_sub(be32(a, at))).cast_signed();
    let stamps = a.len() == STAMPED;
    let option = |tcp: &[u8]| tcp[tcp::LEN..STAMP] == STAMP_OPTION;
    a[..tcp::ACK_NUMBER] == b[..tcp::ACK_NUMBER]
        && grew(tcp::ACK_NUMBER) > 0
        && a[tcp::DATA_OFFSET] == b[tcp::DATA_OFFSET]
        && be16(a, tcp::LEN - 2) == be16(b, tcp::LEN - 2)
        && (!stamps || option(a) && option(b) && grew(STAMP) >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum;
    use crate::parse;
    use crate::wire::{put16, put32};

    /// An ACK of `number` over Ethernet and IPv4 (or IPv6), with time stamps.
    fn ack(number: u32, v6: bool) -> Vec<u8> {
        let l3_len = if v6 { ipv6::LEN } else { ipv4::LEN };
        let (l3, l4) = (14, 14 + l3_len);
        let mut frame = vec![0; l4 + STAMPED];
        frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0]);
        if v6 {
            frame[12..14].copy_from_slice(&[0x86, 0xdd]);
            frame[l3] = 0x60;
            put16(&mut frame, l3 + ipv6::PAYLOAD_LEN, STAMPED as u16);
            frame[l3 + ipv6::NEXT_HEADER] = 6;
            frame[l3 + 7] = 64;
        } else {
            frame[l3] = 0x45;
            put16(&mut frame, l3 + ipv4::TOTAL_LEN, (ipv4::LEN + STAMPED) as u16);
            put16(&mut frame, l3 + ipv4::ID, number as u16);
            frame[l3 + 8..l3 + 10].copy_from_slice(&[64, 6]);
            ipv4::fill_checksum(&mut frame[l3..l4]);
        }
        put32(&mut frame, l4 + tcp::ACK_NUMBER, number);
        frame[l4 + tcp::DATA_OFFSET] = 0x80;
        frame[l4 + tcp::FLAGS] = tcp::ACK;
        frame[l4 + tcp::LEN..l4 + STAMP].copy_from_slice(&STAMP_OPTION);
        put32(&mut frame, l4 + STAMP, 1000);
        let headers = parse(&frame).unwrap();
        checksum::complete(&mut frame, &headers);
        frame
    }

    fn judge(later: &[u8], earlier: &[u8]) -> bool {
        supersedes((later, &parse(later).unwrap()), (earlier, &parse(earlier).unwrap()))
    }

    #[test]
    fn more_acknowledged_supersedes_less_and_nothing_else() {
        for v6 in [false, true] {
            let (first, second) = (ack(u32::MAX, v6), ack(9, v6));
            assert!(judge(&second, &first), "numbers wrap");
            assert!(!judge(&first, &second));
            assert!(!judge(&first, &first.clone()), "a duplicate tells of loss");
        }
        assert!(!judge(&ack(2, true), &ack(1, false)));
    }

    #[test]
    fn any_other_difference_keeps_both() {
        let earlier = ack(1, false);
        let l4 = 14 + ipv4::LEN;
        // Source MAC; TOS and source address (the checksum made right again); ports, sequence number, flags, options.
        for at in [6, 15, 26, l4 + 1, l4 + tcp::SEQ, l4 + tcp::FLAGS, l4 + tcp::LEN + 2] {
            let mut later = ack(2, false);
            later[at] ^= if at == l4 + tcp::FLAGS { tcp::ECE } else { 0x10 };
            ipv4::fill_checksum(&mut later[14..l4]);
            assert!(!judge(&later, &earlier), "byte {at}");
        }
        let mut older = ack(2, false);
        put32(&mut older, l4 + STAMP, 999);
        assert!(!judge(&older, &earlier), "time runs backwards");
        let mut window = ack(2, false);
        put16(&mut window, l4 + tcp::WINDOW, 7);
        assert!(judge(&window, &earlier), "the later window counts");
    }

    #[test]
    fn payload_and_other_options_are_not_pure() {
        let mut data = ack(2, false);
        data.push(1);
        put16(&mut data, 14 + ipv4::TOTAL_LEN, (ipv4::LEN + STAMPED + 1) as u16);
        ipv4::fill_checksum(&mut data[14..14 + ipv4::LEN]);
        assert!(!is_pure(&parse(&data).unwrap()));
        assert!(is_pure(&parse(&ack(2, true)).unwrap()));
    }
}
