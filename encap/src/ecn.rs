//! Congestion marks across the tunnel (RFC 3168, RFC 6040).

use crate::{Headers, L3, Reason, edit};

/// The two ECN bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not speak ECN.
    NotEct = 0,
    /// ECN capable, codepoint 1.
    Ect1 = 1,
    /// ECN capable, codepoint 0.
    Ect0 = 2,
    /// Congestion experienced.
    Ce = 3,
}

impl Ecn {
    /// The ECN bits of a type-of-service or traffic-class byte.
    #[inline]
    pub const fn of(tos: u8) -> Ecn {
        match tos & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }
}

/// The outer type-of-service byte for a frame that enters the tunnel: its ECN bits (RFC 6040 section 4.1, normal
/// mode), DSCP 0. Frames that are not IP give 0.
#[inline]
pub const fn outer_tos(headers: &Headers) -> u8 {
    headers.tos & 3
}

/// What leaves the tunnel: the table of RFC 6040 section 4.2.
///
/// # Errors
/// [`Reason::Ecn`]: marked outside, and the inner transport would not understand the mark.
#[inline]
pub const fn combine(inner: Ecn, outer: Ecn) -> Result<Ecn, Reason> {
    match (inner, outer) {
        (Ecn::NotEct, Ecn::Ce) => Err(Reason::Ecn),
        (Ecn::NotEct, _) => Ok(Ecn::NotEct),
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ok(Ecn::Ce),
        (_, Ecn::Ect1) => Ok(Ecn::Ect1),
        (inner, _) => Ok(inner),
    }
}

/// True for outer marks that change no inner one (RFC 6040 section 4.2: Not-ECT and ECT(0)).
#[inline]
pub const fn keeps_inner(outer_tos: u8) -> bool {
    matches!(Ecn::of(outer_tos), Ecn::NotEct | Ecn::Ect0)
}

/// Applies the outer mark to the inner frame, checksum included. Frames that are not IP stay as they are, whatever
/// the outer mark: there is no inner transport that could be misled.
///
/// # Errors
/// As [`combine`].
#[inline]
pub fn decapsulate(frame: &mut [u8], headers: &mut Headers, outer_tos: u8) -> Result<(), Reason> {
    if outer_tos & 3 == 0 || !matches!(headers.l3, L3::V4 | L3::V6) {
        return Ok(());
    }
    let ecn = combine(Ecn::of(headers.tos), Ecn::of(outer_tos))?;
    edit::set_tos(frame, headers, (headers.tos & !3) | ecn as u8);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Ecn::*;
    use super::*;

    #[test]
    fn table_of_rfc_6040() {
        // Rows: inner; columns: outer Not-ECT, ECT(0), ECT(1), CE (figure 4).
        let table = [
            (NotEct, [Some(NotEct), Some(NotEct), Some(NotEct), None]),
            (Ect0, [Some(Ect0), Some(Ect0), Some(Ect1), Some(Ce)]),
            (Ect1, [Some(Ect1), Some(Ect1), Some(Ect1), Some(Ce)]),
            (Ce, [Some(Ce), Some(Ce), Some(Ce), Some(Ce)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NotEct, Ect0, Ect1, Ce].into_iter().zip(row) {
                assert_eq!(combine(inner, outer).ok(), expected, "{inner:?} in {outer:?}");
            }
        }
        assert_eq!(combine(NotEct, Ce), Err(Reason::Ecn));
    }
}
