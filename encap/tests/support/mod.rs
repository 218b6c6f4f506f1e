//! Frames made by another implementation (etherparse), and checksums judged by a third (smoltcp).
#![allow(dead_code, unreachable_pub)]

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header,
    SingleVlanHeader, TcpHeader, UdpHeader,
};
use proptest::prelude::*;
use smoltcp::wire;

pub const DST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const SRC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const SRC4: [u8; 4] = [10, 1, 0, 2];
pub const DST4: [u8; 4] = [10, 1, 0, 3];
pub const SRC6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2];
pub const DST6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3];

/// A TCP or UDP frame to build.
#[derive(Clone, Debug)]
pub struct Spec {
    pub v6: bool,
    pub tcp: bool,
    pub vlan: Option<u16>,
    pub payload: Vec<u8>,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub tcp_options: Vec<u8>,
    pub ip_options: Vec<u8>,
    pub id: u16,
    pub df: bool,
    pub ttl: u8,
    pub tos: u8,
    pub ports: (u16, u16),
}

impl Spec {
    pub fn tcp4(payload: Vec<u8>) -> Spec {
        Spec {
            v6: false,
            tcp: true,
            vlan: None,
            payload,
            seq: 1000,
            ack: 77,
            flags: 0x10,
            window: 500,
            // NOP, NOP, timestamps.
            tcp_options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            ip_options: vec![],
            id: 7,
            df: true,
            ttl: 64,
            tos: 0,
            ports: (40000, 80),
        }
    }

    pub fn udp4(payload: Vec<u8>) -> Spec {
        Spec { tcp: false, ..Spec::tcp4(payload) }
    }

    pub fn v6(self) -> Spec {
        Spec { v6: true, ..self }
    }

    /// The frame, all checksums right.
    pub fn build(&self) -> Vec<u8> {
        let l4 = self.l4();
        let ip = if self.v6 { self.ipv6(l4.len()) } else { self.ipv4(l4.len()) };
        let ether_type = if self.v6 { EtherType::IPV6 } else { EtherType::IPV4 };
        let outer = if self.vlan.is_some() { EtherType::VLAN_TAGGED_FRAME } else { ether_type };
        let ether = Ethernet2Header { source: SRC_MAC, destination: DST_MAC, ether_type: outer };
        let mut frame = ether.to_bytes().to_vec();
        if let Some(id) = self.vlan {
            let tag = SingleVlanHeader { vlan_id: id.try_into().unwrap(), ether_type, ..Default::default() };
            frame.extend(tag.to_bytes());
        }
        frame.extend(ip);
        frame.extend(l4);
        frame
    }

    fn protocol(&self) -> IpNumber {
        if self.tcp { IpNumber::TCP } else { IpNumber::UDP }
    }

    fn ipv4(&self, payload_len: usize) -> Vec<u8> {
        let mut header = Ipv4Header::new(payload_len as u16, self.ttl, self.protocol(), SRC4, DST4).unwrap();
        header.dscp = IpDscp::try_new(self.tos >> 2).unwrap();
        header.ecn = IpEcn::try_new(self.tos & 3).unwrap();
        header.identification = self.id;
        header.dont_fragment = self.df;
        header.options = self.ip_options.as_slice().try_into().unwrap();
        header.set_payload_len(payload_len).unwrap();
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    }

    fn ipv6(&self, payload_len: usize) -> Vec<u8> {
        let header = Ipv6Header {
            traffic_class: self.tos,
            flow_label: Ipv6FlowLabel::try_new(u32::from(self.id)).unwrap(),
            payload_length: payload_len as u16,
            next_header: self.protocol(),
            hop_limit: self.ttl,
            source: SRC6,
            destination: DST6,
        };
        header.to_bytes().to_vec()
    }

    fn l4(&self) -> Vec<u8> {
        let (src, dst) = self.ports;
        let mut bytes = if self.tcp {
            let mut header = TcpHeader::new(src, dst, self.seq, self.window);
            header.acknowledgment_number = self.ack;
            header.set_options_raw(&self.tcp_options).unwrap();
            let bit = |n: u8| self.flags & (1 << n) != 0;
            (header.fin, header.syn, header.rst, header.psh) = (bit(0), bit(1), bit(2), bit(3));
            (header.ack, header.urg, header.ece, header.cwr) = (bit(4), bit(5), bit(6), bit(7));
            header.checksum = if self.v6 {
                header.calc_checksum_ipv6_raw(SRC6, DST6, &self.payload).unwrap()
            } else {
                header.calc_checksum_ipv4_raw(SRC4, DST4, &self.payload).unwrap()
            };
            header.to_bytes().to_vec()
        } else {
            let length = (8 + self.payload.len()) as u16;
            let mut header = UdpHeader { source_port: src, destination_port: dst, length, checksum: 0 };
            header.checksum = if self.v6 {
                header.calc_checksum_ipv6_raw(SRC6, DST6, &self.payload).unwrap()
            } else {
                header.calc_checksum_ipv4_raw(SRC4, DST4, &self.payload).unwrap()
            };
            header.to_bytes().to_vec()
        };
        bytes.extend(&self.payload);
        bytes
    }
}

/// Any TCP or UDP frame; flags without SYN, RST and URG.
pub fn spec(payload: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Spec> {
    let tcp_options = prop::sample::select(vec![0usize, 4, 12, 20]);
    (
        (any::<bool>(), any::<bool>(), prop::option::of(1u16..4095), payload),
        (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), tcp_options),
        (any::<u16>(), any::<bool>(), 1u8.., any::<u8>(), any::<(u16, u16)>()),
    )
        .prop_map(
            |((v6, tcp, vlan, payload), (seq, ack, flags, window, options), (id, df, ttl, tos, ports))| {
                Spec {
                    v6,
                    tcp,
                    vlan,
                    payload,
                    seq,
                    ack,
                    flags: flags & 0b1100_1001 | 0x10,
                    window,
                    tcp_options: vec![1; options],
                    ip_options: vec![],
                    id,
                    df,
                    ttl,
                    tos,
                    ports,
                }
            },
        )
}

/// True when smoltcp finds all checksums of a frame of [`Spec`] right.
pub fn checksums_hold(frame: &[u8]) -> bool {
    let ether = wire::EthernetFrame::new_checked(frame).unwrap();
    let (ethertype, payload) = match u16::from(ether.ethertype()) {
        0x8100 => (u16::from_be_bytes([frame[16], frame[17]]), &frame[18..]),
        ethertype => (ethertype, ether.payload()),
    };
    match ethertype {
        0x0800 => {
            let ip = wire::Ipv4Packet::new_checked(payload).unwrap();
            ip.verify_checksum()
                && l4_holds(
                    u8::from(ip.next_header()),
                    ip.src_addr().into(),
                    ip.dst_addr().into(),
                    ip.payload(),
                )
        }
        _ => {
            let ip = wire::Ipv6Packet::new_checked(payload).unwrap();
            l4_holds(u8::from(ip.next_header()), ip.src_addr().into(), ip.dst_addr().into(), ip.payload())
        }
    }
}

fn l4_holds(protocol: u8, src: wire::IpAddress, dst: wire::IpAddress, data: &[u8]) -> bool {
    match protocol {
        6 => wire::TcpPacket::new_checked(data).unwrap().verify_checksum(&src, &dst),
        17 => wire::UdpPacket::new_checked(data).unwrap().verify_checksum(&src, &dst),
        1 => wire::Icmpv4Packet::new_checked(data).unwrap().verify_checksum(),
        58 => match (src, dst) {
            (wire::IpAddress::Ipv6(src), wire::IpAddress::Ipv6(dst)) => {
                wire::Icmpv6Packet::new_checked(data).unwrap().verify_checksum(&src, &dst)
            }
            _ => false,
        },
        other => panic!("no oracle for protocol {other}"),
    }
}
