//! What tells one flow from another: the flow cache's key, and the hash behind the VXLAN source port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Headers, L3, L4, MacAddr, eth, ipv4, ipv6};

/// Everything that decides where a frame goes, in 56 bytes.
///
/// TTL and segment size are not part of it: a hit checks them itself. Nor are ports, but for one that somebody decides by.
#[derive(Clone, Copy, Debug)]
pub struct FlowKey([u64; 7]);

impl PartialEq for FlowKey {
    /// All words at once: the derived comparison calls `memcmp`.
    #[inline]
    fn eq(&self, other: &FlowKey) -> bool {
        self.0.iter().zip(other.0).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl Eq for FlowKey {}

/// What [`FlowKey::hash`] mixes in. With a random one nobody outside can choose flows that collide.
#[derive(Clone, Copy)]
pub struct HashSecret([u64; 4]);

impl HashSecret {
    /// A secret of these words, which should be random.
    pub const fn new(words: [u64; 4]) -> Self {
        HashSecret(words)
    }
}

impl Default for HashSecret {
    /// One that everybody knows, for tests and benches.
    fn default() -> Self {
        HashSecret(SECRET)
    }
}

impl fmt::Debug for HashSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashSecret")
    }
}

impl FlowKey {
    /// The key of a frame that came in by `ingress`: a port of the switch, or a (peer, VNI) pair, numbered by the caller.
    /// `port` is the TCP or UDP port that tells it from others of the same ends; 0: none does.
    ///
    /// `None` for frames that must be looked at one by one: ARP, and ICMP other than echo, which covers neighbour discovery and
    /// errors.
    #[inline]
    pub fn new(ingress: u32, port: u16, headers: &Headers, frame: &[u8]) -> Option<FlowKey> {
        let has_key = match headers.l4 {
            L4::Tcp | L4::Udp => true,
            L4::None => headers.l3 != L3::Arp,
            L4::Icmp | L4::Icmpv6 => headers.is_echo(),
        };
        if !has_key || headers.source_routed {
            return None;
        }
        let macs = frame.first_chunk::<{ eth::LEN }>()?;
        let (dst, src) = (macs.first_chunk()?, macs.last_chunk()?);
        let ip = match headers.l3 {
            L3::V4 => [v4(headers, frame), 0, 0, 0],
            L3::V6 => v6(headers, frame),
            L3::Arp | L3::Other => [0; 4],
        };
        let kind = u64::from(headers.ethertype) << 16 | u64::from(headers.proto);
        // A tag with identifier 0 is not the same as no tag.
        let (tci, tagged) = headers.tci.map_or((0, 0), |tci| (u64::from(tci), TAGGED));
        Some(FlowKey([
            u64::from(ingress) << 32 | kind | tagged,
            be48(dst) | tci,
            be48(src) | u64::from(port),
            ip[0],
            ip[1],
            ip[2],
            ip[3],
        ]))
    }

    /// A hash for tables inside this process: fast, well mixed, and keyed by `secret`.
    #[inline]
    pub fn hash(&self, secret: &HashSecret) -> u64 {
        let (k, s) = (&self.0, &secret.0);
        // Every factor is keyed: one that a sender could make 0 would take its partner out of the hash.
        let low = mix(k[0] ^ s[0], k[1] ^ s[1]);
        let high = mix(k[2] ^ s[2], k[3] ^ s[3]);
        // What is not IPv6 has nothing in the last three.
        let rest = match k[4] | k[5] | k[6] {
            0 => 0,
            _ => mix(k[4] ^ s[1], k[5] ^ s[2]) ^ mix(k[6] ^ s[3], s[0]),
        };
        mix(low ^ s[2], high ^ rest ^ s[3])
    }

    /// The ingress it was made with.
    #[inline]
    pub fn ingress(&self) -> u32 {
        (self.0[0] >> 32) as u32
    }

    /// What the key was made of, for reports.
    pub fn fields(&self) -> Fields {
        let k = &self.0;
        let mac = |word: u64| {
            let [a, b, c, d, e, f, ..] = word.to_be_bytes();
            MacAddr([a, b, c, d, e, f])
        };
        let ethertype = (k[0] >> 16) as u16;
        let ip = match ethertype {
            eth::IPV4 => {
                let v4 = |word: u64| IpAddr::V4(Ipv4Addr::from(word as u32));
                Some((v4(k[3] >> 32), v4(k[3])))
            }
            eth::IPV6 => {
                let v6 = |high: u64, low: u64| {
                    IpAddr::V6(Ipv6Addr::from(u128::from(high) << 64 | u128::from(low)))
                };
                Some((v6(k[3], k[4]), v6(k[5], k[6])))
            }
            _ => None,
        };
        Fields {
            ingress: self.ingress(),
            tci: (k[0] & TAGGED != 0).then_some(k[1] as u16),
            dst: mac(k[1]),
            src: mac(k[2]),
            ethertype,
            ip,
            proto: k[0] as u8,
            port: k[2] as u16,
        }
    }
}

/// What a [`FlowKey`] was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The caller's number of the way in.
    pub ingress: u32,
    /// Control word of the tag, if there was one.
    pub tci: Option<u16>,
    /// Destination MAC address.
    pub dst: MacAddr,
    /// Source MAC address.
    pub src: MacAddr,
    /// Ethertype behind the tag.
    pub ethertype: u16,
    /// Source and destination address, if IP.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// IP protocol number, 0 unless IP.
    pub proto: u8,
    /// The port that counts; 0: none.
    pub port: u16,
}

/// In the first word: there is a tag.
const TAGGED: u64 = 1 << 8;

/// The hash of a frame's inner flow: addresses, protocol and ports; MAC addresses and ethertype unless IP.
///
/// The same for every frame of a flow and of a direction, whatever node or process computes it. All fragments hash
/// without ports, so those of one packet stay together. One superframe and its segments hash alike.
#[inline(always)]
pub fn flow_hash(headers: &Headers, frame: &[u8]) -> u32 {
    let l4 = match headers.is_fragment() {
        true => u64::from(headers.proto) << 32,
        false => {
            let ports = u64::from(headers.src_port) << 16 | u64::from(headers.dst_port);
            u64::from(headers.proto) << 32 | ports
        }
    };
    let hash = match headers.l3 {
        L3::V4 => mix(v4(headers, frame) ^ SECRET[0], l4 ^ SECRET[1]),
        L3::V6 => {
            let ip = v6(headers, frame);
            mix(ip[0] ^ SECRET[0], ip[2] ^ SECRET[1])
                ^ mix(ip[1] ^ SECRET[2], ip[3] ^ SECRET[3])
                ^ mix(l4 ^ SECRET[1], SECRET[3])
        }
        L3::Arp | L3::Other => {
            let ethertype = u64::from(headers.ethertype);
            mix(mac(headers.dst.0) ^ SECRET[0], mac(headers.src.0) ^ SECRET[1] ^ (ethertype << 48))
        }
    };
    // One more round: ports differ in few bits, and callers take the upper ones.
    (mix(hash, SECRET[2]) >> 32) as u32
}

/// The outer UDP source port for a flow: 49152 to 65535 (RFC 7348 section 5).
#[inline]
pub const fn source_port(hash: u32) -> u16 {
    0xc000 | (hash >> 18) as u16
}

/// Odd constants with even bit counts (wyhash's).
const SECRET: [u64; 4] =
    [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db, 0x8ebc_6af0_9c88_c6e3, 0x5899_65cc_7537_4cc3];

#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// The first six bytes, above 16 bits of zero.
#[inline]
fn be48(bytes: &[u8; 8]) -> u64 {
    u64::from_be_bytes(*bytes) & !0xffff
}

#[inline]
fn mac(m: [u8; 6]) -> u64 {
    u64::from_be_bytes([0, 0, m[0], m[1], m[2], m[3], m[4], m[5]])
}

/// Source and destination of an IPv4 packet.
#[inline]
fn v4(headers: &Headers, frame: &[u8]) -> u64 {
    let header = frame.get(usize::from(headers.l3_at)..).and_then(ipv4::Header::of);
    header.map_or(0, |h| u64::from(u32::from_be_bytes(h.src)) << 32 | u64::from(u32::from_be_bytes(h.dst)))
}

/// Source and destination of an IPv6 packet, two words each.
#[inline]
fn v6(headers: &Headers, frame: &[u8]) -> [u64; 4] {
    let header = frame.get(usize::from(headers.l3_at)..).and_then(ipv6::Header::of);
    header.map_or([0; 4], |h| {
        let (src, dst) = (u128::from_be_bytes(h.src), u128::from_be_bytes(h.dst));
        [(src >> 64) as u64, src as u64, (dst >> 64) as u64, dst as u64]
    })
}

#[cfg(test)]
mod tests;
