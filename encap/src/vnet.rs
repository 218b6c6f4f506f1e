//! `struct virtio_net_hdr_v1` (virtio 1.2 section 5.1.6, Linux `include/uapi/linux/virtio_net.h`), which a TAP puts
//! before every frame. It comes from the pod and is believed only as far as the frame's own headers bear it out.

use crate::checksum::Sum;
use crate::wire::put16;
use crate::{Fragment, Headers, L3, L4, Reason, checksum, tcp, udp};

/// Length of the header, bytes.
pub const LEN: usize = 12;
/// Flag: the checksum from `csum_start` on is owed.
pub const NEEDS_CSUM: u8 = 1;
/// Flag: the checksum was found right.
pub const DATA_VALID: u8 = 2;
/// Type: not a superframe.
pub const GSO_NONE: u8 = 0;
/// Type: TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// Type: UDP fragmentation offload, which no kernel of today sends.
pub const GSO_UDP: u8 = 3;
/// Type: TCP over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// Type: UDP segmentation offload, over IPv4 or IPv6.
pub const GSO_UDP_L4: u8 = 5;
/// Added to the type of TCP: the first segment has CWR set.
pub const GSO_ECN: u8 = 0x80;
/// The smallest TCP segment size that is believed, bytes. Below the smallest MSS an honest stack uses (Linux
/// `TCP_MIN_SND_MSS`), a 64 KiB superframe would become tens of thousands of packets.
pub const MIN_TCP_SIZE: u16 = 48;
/// Datagrams in one UDP superframe at most (Linux `UDP_MAX_SEGMENTS`).
pub const MAX_UDP_PIECES: usize = 128;

/// The header, fields in host order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VnetHdr {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`] and its siblings.
    pub gso_type: u8,
    /// Length of all headers of the frame, bytes; a hint.
    pub hdr_len: u16,
    /// Payload of each segment, bytes.
    pub gso_size: u16,
    /// Offset in the frame from which the checksum is to be computed.
    pub csum_start: u16,
    /// Where the checksum goes, counted from `csum_start`.
    pub csum_offset: u16,
    /// Used by virtio devices only.
    pub num_buffers: u16,
}

/// How a frame is to be cut before it fits a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// Not at all.
    None,
    /// TCP segments of `size` payload bytes, the last may be shorter.
    Tcp {
        /// Payload bytes per segment.
        size: u16,
    },
    /// UDP datagrams of `size` payload bytes, the last may be shorter.
    Udp {
        /// Payload bytes per datagram.
        size: u16,
    },
}

impl Gso {
    /// Payload bytes per segment; `None` for a frame that is not to be cut.
    #[inline]
    pub fn size(self) -> Option<u16> {
        match self {
            Gso::None => None,
            Gso::Tcp { size } | Gso::Udp { size } => Some(size),
        }
    }

    /// The length of the longest IP packet on the wire: what has to fit an MTU.
    #[inline]
    pub fn l3_len(self, headers: &Headers) -> usize {
        match self.size() {
            Some(size) => headers.l3_header_len() + headers.payload_len().min(usize::from(size)),
            None => headers.l3_len(),
        }
    }
}

impl VnetHdr {
    /// A plain frame: checksums complete, nothing to cut.
    pub const NONE: VnetHdr = VnetHdr {
        flags: 0,
        gso_type: 0,
        hdr_len: 0,
        gso_size: 0,
        csum_start: 0,
        csum_offset: 0,
        num_buffers: 0,
    };

    /// Reads the 12 bytes, little endian.
    #[inline]
    pub fn read(bytes: &[u8; LEN]) -> Self {
        let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        VnetHdr {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
            num_buffers: word(10),
        }
    }

    /// The 12 bytes, little endian.
    #[inline]
    pub fn bytes(&self) -> [u8; LEN] {
        let mut out = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (bytes, word) in out[2..].chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// True when the frame's checksum is owed.
    #[inline]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// The header that describes a frame: what is sent with it, built from what was checked.
    ///
    /// An offload without TCP or UDP is ignored.
    #[inline]
    pub fn describe(headers: &Headers, gso: Gso, needs_csum: bool) -> Self {
        let Some(csum_offset) = checksum::field_offset(headers.l4).filter(|_| needs_csum) else {
            return Self::NONE;
        };
        let (gso_type, gso_size) = match gso {
            Gso::None => (GSO_NONE, 0),
            Gso::Udp { size } => (GSO_UDP_L4, size),
            Gso::Tcp { size } => {
                let family = if headers.l3 == L3::V4 { GSO_TCPV4 } else { GSO_TCPV6 };
                let ecn = if headers.tcp_flags & tcp::CWR != 0 { GSO_ECN } else { 0 };
                (family | ecn, size)
            }
        };
        VnetHdr {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: headers.payload_at,
            gso_size,
            csum_start: headers.l4_at,
            csum_offset: csum_offset as u16,
            num_buffers: 0,
        }
    }

    /// Moves the offsets by what an edit before the IP header added (+4 for a pushed tag) or took away (-4).
    #[inline]
    #[must_use]
    pub fn shifted(mut self, delta: i16) -> Self {
        if self.needs_csum() {
            self.csum_start = self.csum_start.saturating_add_signed(delta);
        }
        if self.hdr_len != 0 {
            self.hdr_len = self.hdr_len.saturating_add_signed(delta);
        }
        self
    }

    /// Checks the header against the frame's own headers; says how the frame is to be cut.
    ///
    /// Frames from a pod go through [`Self::admit`], which lets more pass and leaves a header that can be trusted.
    ///
    /// # Errors
    /// [`Reason::BadVnetHeader`] where it contradicts the frame, [`Reason::BadGso`] where it would make too many or
    /// impossible packets.
    #[inline]
    pub fn validate(&self, headers: &Headers) -> Result<Gso, Reason> {
        if self.flags & !DATA_VALID == 0 && self.gso_type == GSO_NONE {
            // The kernel refuses a longer one on write (EINVAL).
            let fits = u32::from(self.hdr_len) <= headers.l3_end;
            return if fits { Ok(Gso::None) } else { Err(Reason::BadVnetHeader) };
        }
        self.validate_offload(headers)
    }

    /// [`Self::validate`] for a frame that a pod sent, and the header made what the switch itself would write.
    ///
    /// A frame of a tunnel that runs *inside* the pod (VXLAN, GRE, IP in IP; also a second tag) owes the checksum of a
    /// header that [`crate::parse()`] does not look into: measured with a kernel VXLAN device over a TAP, whose outer UDP
    /// is complete and whose `csum_start` lies 50 bytes further on. That sum is computed here, at once, and the frame
    /// is a plain one from then on: no code behind this has to know two places of a checksum.
    ///
    /// # Errors
    /// As [`Self::validate`].
    #[inline]
    pub fn admit(&mut self, frame: &mut [u8], headers: &Headers) -> Result<Gso, Reason> {
        if self.owes_inside(headers) {
            self.complete_inside(frame, headers);
            *self = Self::NONE;
            return Ok(Gso::None);
        }
        let gso = self.validate(headers)?;
        *self = Self::describe(headers, gso, self.needs_csum());
        Ok(gso)
    }

    /// [`Self::admit`] for the two that nearly all small frames have, where `headers` are of TCP or UDP: none, and one that
    /// owes the checksum of just that header. False, and nothing changed, for every other.
    #[inline]
    pub fn admit_plain(&mut self, headers: &Headers) -> bool {
        if *self == Self::NONE {
            return true;
        }
        let plain = Self::describe(headers, Gso::None, true);
        let is_plain =
            Self { flags: self.flags & !DATA_VALID, hdr_len: plain.hdr_len, num_buffers: 0, ..*self }
                == plain
                && u32::from(self.hdr_len) <= headers.l3_end;
        if is_plain {
            *self = plain;
        }
        is_plain
    }

    /// True when the checksum owed is that of a TCP or UDP header inside the payload.
    #[inline]
    fn owes_inside(&self, headers: &Headers) -> bool {
        self.needs_csum()
            && self.gso_type == GSO_NONE
            && self.flags & !(NEEDS_CSUM | DATA_VALID) == 0
            && matches!(headers.l4, L4::Udp | L4::None)
            && matches!(headers.l3, L3::V4 | L3::V6 | L3::Other)
            && !headers.is_fragment()
            && self.csum_start >= headers.payload_at
            && matches!(usize::from(self.csum_offset), tcp::CHECKSUM | udp::CHECKSUM)
            && u32::from(self.csum_start) + u32::from(self.csum_offset) + 2 <= headers.l3_end
    }

    /// The field holds the pseudo-header's sum already, so it is summed with the rest (Linux `skb_checksum_help`).
    fn complete_inside(&self, frame: &mut [u8], headers: &Headers) {
        let start = usize::from(self.csum_start);
        let sum = Sum::of(&frame[start..headers.l3_end as usize]).finish_udp();
        put16(frame, start + usize::from(self.csum_offset), sum);
    }

    fn validate_offload(&self, headers: &Headers) -> Result<Gso, Reason> {
        let bad = Err(Reason::BadVnetHeader);
        let field = match headers.l4 {
            L4::Tcp | L4::Udp => checksum::field_offset(headers.l4),
            _ => None,
        };
        let offsets_hold = self.needs_csum()
            && self.flags & !(NEEDS_CSUM | DATA_VALID) == 0
            && !headers.is_fragment()
            && self.csum_start == headers.l4_at
            && Some(usize::from(self.csum_offset)) == field
            && u32::from(self.hdr_len) <= headers.l3_end;
        if !offsets_hold {
            return bad;
        }
        let size = self.gso_size;
        let gso = match (self.gso_type & !GSO_ECN, headers.l4, headers.l3) {
            (GSO_NONE, ..) if self.gso_type == GSO_NONE => return Ok(Gso::None),
            (GSO_TCPV4, L4::Tcp, L3::V4) | (GSO_TCPV6, L4::Tcp, L3::V6) => Gso::Tcp { size },
            (GSO_UDP_L4, L4::Udp, _) if self.gso_type == GSO_UDP_L4 => Gso::Udp { size },
            _ => return bad,
        };
        if size == 0 || headers.fragment != Fragment::Whole {
            return bad;
        }
        check_pieces(headers, gso)?;
        Ok(gso)
    }
}

/// Refuses superframes that no honest stack makes.
fn check_pieces(headers: &Headers, gso: Gso) -> Result<(), Reason> {
    let absurd = match gso {
        Gso::None => false,
        // One SYN cannot stand for several: data would start at seq + 1.
        Gso::Tcp { size } => size < MIN_TCP_SIZE || headers.tcp_flags & tcp::SYN != 0,
        Gso::Udp { size } => {
            headers.payload_len().div_ceil(usize::from(size)) > MAX_UDP_PIECES
                || headers.l4_end != headers.l3_end
        }
    };
    if absurd || headers.source_routed { Err(Reason::BadGso) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
