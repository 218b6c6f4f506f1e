//! Spoofed, rogue, mutated: dropped, each with the right counter.

use std::collections::BTreeMap;

use weft_tests::capture::Capture;
use weft_tests::traffic::{ping, scapy};
use weft_tests::{Context, Lab, Namespace, Node, Options, Pod, Result, as_root, ensure, eventually};

fn dropped(node: &Node, reason: &str, at_least: u64, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = node.drops(reason)?;
    act()?;
    eventually(3, || {
        let counted = node.drops(reason)? - before;
        ensure!(counted >= at_least, "{reason}: {counted} of {at_least}\n{}", node.weft(&["drops"])?);
        Ok(())
    })
}

fn mac(pod: &Pod) -> String {
    pod.result["interfaces"][0]["mac"].as_str().expect("the result names a MAC").to_owned()
}

/// Captures at `b` what honest pods never send; `a` is the forger.
fn forged(a: &Pod, b: &Pod) -> Result<Capture> {
    let (am, ai) = (mac(a), a.ip());
    let digits = am.replace(':', "");
    let (am4, am2) = digits.split_at(8);
    // ARP: the forger's MAC with another's address, or its address with another's MAC (RFC 826).
    // ND: an advertisement of the gateway with the forger's MAC (RFC 4861 section 4.4).
    // From `vlan` on, tcpdump takes every header to lie behind a tag.
    let filter = format!(
        "udp dst port 9 or udp dst port 68 or icmp[icmptype] = icmp-redirect \
         or (arp and arp[8:4] = 0x{am4} and arp[12:2] = 0x{am2} and not arp src host {ai}) \
         or (arp src host {ai} and not (arp[8:4] = 0x{am4} and arp[12:2] = 0x{am2})) \
         or (icmp6 and ip6[40] = 134) \
         or (icmp6 and ip6[40] = 136 and ip6[60:4] = 1 and ip6[66:4] = 0x{am4} and ip6[70:2] = 0x{am2}) \
         or ether dst 01:80:c2:00:00:00 or vlan"
    );
    Capture::start(&b.ns, "eth0", &filter)
}

#[test]
fn spoofed_senders() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        ping(&a.ns, &b.ip(), 3)?; // b's entry for a is cached now
        let (am, bm, ai, bi) = (mac(&a), mac(&b), a.ip(), b.ip());
        let (ai6, bi6) = (a.ip6(), b.ip6());
        let capture = forged(&a, &b)?;
        let cases = [
            (
                "guard-mac",
                format!(
                    "[Ether(src='02:de:ad:00:00:01',dst='{bm}')/IP(src='{ai}',dst='{bi}')/UDP(dport=9)]*5"
                ),
            ),
            ("guard-mac", format!("[Ether(src='{bm}',dst='{bm}')/IP(src='{bi}',dst='{bi}')/UDP(dport=9)]*5")),
            (
                "guard-ip",
                format!("[Ether(src='{am}',dst='{bm}')/IP(src='10.244.1.99',dst='{bi}')/UDP(dport=9)]*5"),
            ),
            (
                "guard-ip",
                format!(
                    "[Ether(src='{am}',dst='{bm}')/IPv6(src='fd00:244:0:1::99',dst='{bi6}')/UDP(dport=9)]*5"
                ),
            ),
            (
                "guard-arp",
                format!(
                    "[Ether(src='{am}',dst='{bm}')/ARP(op=2,hwsrc='{am}',psrc='10.244.1.1',hwdst='{bm}',pdst='{bi}')]*5"
                ),
            ),
            (
                "guard-arp",
                format!(
                    "[Ether(src='{am}',dst='ff:ff:ff:ff:ff:ff')/ARP(op=1,hwsrc='{bm}',psrc='{ai}',pdst='{bi}')]*5"
                ),
            ),
            (
                "guard-nd",
                format!(
                    "[Ether(src='{am}',dst='{bm}')/IPv6(src='{ai6}',dst='{bi6}',hlim=255)/ICMPv6ND_NA(tgt='fd00:244:0:1::1',O=1)/ICMPv6NDOptDstLLAddr(lladdr='{am}')]*5"
                ),
            ),
            (
                "guard-ra",
                format!(
                    "[Ether(src='{am}',dst='33:33:00:00:00:01')/IPv6(src='fe80::1',dst='ff02::1',hlim=255)/ICMPv6ND_RA()]*5"
                ),
            ),
            (
                "guard-redirect",
                format!(
                    "[Ether(src='{am}',dst='{bm}')/IP(src='{ai}',dst='{bi}')/ICMP(type=5,code=1,gw='{ai}')/IP(src='{bi}',dst='9.9.9.9')/UDP()]*5"
                ),
            ),
            (
                "guard-dhcp",
                format!(
                    "[Ether(src='{am}',dst='ff:ff:ff:ff:ff:ff')/IP(src='{ai}',dst='255.255.255.255')/UDP(sport=67,dport=68)/BOOTP(op=2)]*5"
                ),
            ),
            (
                "vlan",
                format!(
                    "[Ether(src='{am}',dst='{bm}')/Dot1Q(vlan=7)/IP(src='{ai}',dst='{bi}')/UDP(dport=9)]*5"
                ),
            ),
            ("reserved-mac", format!("[Ether(src='{am}',dst='01:80:c2:00:00:00')/LLC()/STP()]*5")),
            (
                "bad-source",
                format!(
                    "[Ether(src='ff:ff:ff:ff:ff:ff',dst='{bm}')/IP(src='{ai}',dst='{bi}')/UDP(dport=9)]*5"
                ),
            ),
        ];
        for (reason, packets) in &cases {
            dropped(node, reason, 5, || scapy(&a.ns, packets))?;
        }
        let seen = capture.finish()?;
        ensure!(seen.is_empty(), "spoofed frames reached the other pod:\n{seen}");
        // the capture would have shown them: it does when they leave the other pod
        let capture = forged(&a, &b)?;
        for (reason, packets) in &cases {
            let before = capture.seen()?.lines().count();
            scapy(&b.ns, packets)?;
            eventually(5, || {
                let count = capture.seen()?.lines().count() - before;
                ensure!(count == 5, "the capture shows {count} of 5 frames for {reason}: {packets}");
                Ok(())
            })?;
        }
        // the victim's neighbours are untouched and traffic goes on
        ping(&a.ns, &b.ip(), 3)?;
        ping(&b.ns, &a.ip6(), 3)
    });
}

#[test]
fn strangers_on_the_underlay() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        let stranger = Namespace::new("stranger")?;
        weft_tests::lab::join(&lab.underlay, &stranger, 66, &Options::default())?;
        let inner = format!(
            "Ether(src='02:00:00:00:00:05',dst='02:00:00:00:00:06')/IP(src='10.244.2.2',dst='{}')/UDP(dport=9)",
            a.ip()
        );
        // the stranger's own address, then that of a peer with bad headers
        let send = |source: &str, vxlan: &str| {
            let packets = format!(
                "[Ether(dst=getmacbyip('172.30.0.1'))/IP(src='{source}',dst='172.30.0.1')/UDP(sport=5555,dport=4789)/{vxlan}]*5"
            );
            scapy(&stranger, &packets)
        };
        dropped(node, "tunnel-stranger", 5, || {
            send("172.30.0.66", &format!("VXLAN(vni=1,flags=8)/{inner}"))
        })?;
        dropped(node, "tunnel-vni", 5, || send("172.30.0.2", &format!("VXLAN(vni=99,flags=8)/{inner}")))?;
        dropped(node, "tunnel-header", 5, || send("172.30.0.2", &format!("VXLAN(vni=1,flags=0)/{inner}")))?;
        dropped(node, "tunnel-header", 5, || send("172.30.0.2", "Raw(b'\\x08\\0\\0')"))?;
        dropped(node, "tunnel-header", 5, || {
            send("172.30.0.2", &format!("VXLAN(vni=1,flags=0x48)/{inner}"))
        })?;
        dropped(node, "not-for-router", 5, || send("172.30.0.2", &format!("VXLAN(vni=1,flags=8)/{inner}")))?;
        dropped(node, "runt", 5, || send("172.30.0.2", "VXLAN(vni=1,flags=8)/Raw(b'abc')"))?;
        ping(&a.ns, &b.ip(), 3)
    });
}

/// A socket that sends frames with a `virtio_net_hdr` of one's own choice (`PACKET_VNET_HDR`, `linux/if_packet.h`).
const VNET_SOCKET: &str = r"
import socket, struct, random
from scapy.all import Ether, ARP, IP, IPv6, IPOption_LSRR, TCP, UDP, ICMP, Raw
random.seed(1)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(('eth0', 0))
s.setsockopt(263, 15, 1)
def send(flags, kind, hdr_len, size, start, offset, frame):
    s.send(struct.pack('<BBHHHH', flags, kind, hdr_len, size, start, offset) + bytes(frame))
";

#[test]
fn each_fault_of_a_vnet_header_has_its_counter() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        ping(&a.ns, &b.ip6(), 3)?;
        let names = format!(
            "ether = Ether(src='{}', dst='{}')
ip, ip6 = IP(src='{ai}', dst='{bi}'), IPv6(src='{}', dst='{}')
routed = IP(src='{ai}', dst='{bi}', options=[IPOption_LSRR(routers=['{bi}'])])
data = Raw(b'x'*8000)
",
            mac(&a),
            mac(&b),
            a.ip6(),
            b.ip6(),
            ai = a.ip(),
            bi = b.ip()
        );
        let sends = |call: &str| {
            a.ns.run("/usr/bin/python3", &["-c", &format!("{VNET_SOCKET}{names}send({call})")]).map(drop)
        };
        // those that the pod's kernel lets out: flags, type, header length, segment size, start and place of the checksum
        for (fault, reason, call) in [
            (
                "TCP segments of 47 bytes",
                "bad-gso",
                "1, 1, 54, 47, 34, 16, ether/ip/TCP(dport=9, flags='A')/data",
            ),
            ("the same over IPv6", "bad-gso", "1, 4, 74, 47, 54, 16, ether/ip6/TCP(dport=9, flags='A')/data"),
            ("a SYN to be cut", "bad-gso", "1, 1, 54, 1000, 34, 16, ether/ip/TCP(dport=9, flags='S')/data"),
            (
                "a source route to be cut",
                "bad-gso",
                "1, 1, 62, 1000, 42, 16, ether/routed/TCP(dport=9, flags='A')/data",
            ),
            (
                "a datagram shorter than its packet, to be cut",
                "bad-gso",
                "1, 5, 42, 1000, 34, 6, ether/ip/UDP(dport=9, len=5008)/data",
            ),
            ("a checksum in the IP header", "bad-vnet-header", "1, 0, 0, 0, 20, 4, ether/ip/UDP(dport=9)"),
            (
                "UDP's checksum in a TCP segment",
                "bad-vnet-header",
                "1, 0, 0, 0, 34, 6, ether/ip/TCP(dport=9, flags='A')",
            ),
            (
                "a checksum in TCP's payload",
                "bad-vnet-header",
                "1, 0, 0, 0, 54, 16, ether/ip/TCP(dport=9, flags='A')/Raw(b'x'*100)",
            ),
            (
                "a checksum of a fragment",
                "bad-vnet-header",
                "1, 0, 0, 0, 34, 6, ether/IP(src=ip.src, dst=ip.dst, flags='MF')/UDP(dport=9)/Raw(b'x'*80)",
            ),
            ("a checksum of ICMP", "bad-vnet-header", "1, 0, 0, 0, 34, 2, ether/ip/ICMP()"),
            (
                "a checksum of ARP",
                "bad-vnet-header",
                "1, 0, 0, 0, 34, 6, ether/ARP(psrc=ip.src, hwsrc=ether.src)",
            ),
        ] {
            let before = all_drops(node)?;
            sends(call)?;
            let expected = |mut drops: BTreeMap<String, u64>| {
                *drops.entry(reason.to_owned()).or_default() += 1;
                drops
            };
            let expected = expected(before);
            eventually(3, || {
                let drops = all_drops(node)?;
                ensure!(drops == expected, "{fault}: {drops:?} is not {expected:?}");
                Ok(())
            })?;
        }
        // what an honest stack sends by the same socket passes
        let before = all_drops(node)?;
        sends("1, 1, 54, 1000, 34, 16, ether/ip/TCP(dport=9, flags='A')/data")?;
        sends("1, 5, 42, 1000, 34, 6, ether/ip/UDP(dport=9)/data")?;
        ping(&a.ns, &b.ip(), 3)?;
        ensure!(all_drops(node)? == before, "{:?} is not {before:?}", all_drops(node)?);
        Ok(())
    });
}

/// Every reason for which frames were dropped, and how many were.
fn all_drops(node: &Node) -> Result<BTreeMap<String, u64>> {
    let stats = node.weft_json(&["stats"])?;
    let drops = stats["drops"].as_array().context("no drops in stats")?;
    let mut all = BTreeMap::new();
    for drop in drops {
        let reason = drop["reason"].as_str().context("a drop without reason")?;
        *all.entry(reason.to_owned()).or_default() += drop["count"].as_u64().context("no count")?;
    }
    all.retain(|_, count| *count > 0);
    Ok(all)
}

#[test]
fn hostile_vnet_headers_and_mutated_frames() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (a, b, c) = (node.pod("a")?, node.pod("b")?, lab.nodes[1].pod("c")?);
        ping(&a.ns, &b.ip(), 3)?;
        let script = format!(
            r"{VNET_SOCKET}
def attempt(*fields):
    try: send(*fields)
    except OSError: pass
for dst in ('{b}', '{c}'):
    tcp = bytes(Ether(src='{m}', dst='{bm}')/IP(src='{a}', dst=dst)/TCP(dport=9, flags='A')/Raw(b'x'*8000))
    udp = bytes(Ether(src='{m}', dst='{bm}')/IP(src='{a}', dst=dst)/UDP(dport=9)/Raw(b'x'*8000))
    for size in (0, 1, 20, 47, 48, 536, 1398, 65535):
        attempt(1, 1, 54, size, 34, 16, tcp); attempt(1, 4, 54, size, 34, 16, tcp); attempt(1, 5, 42, size, 34, 6, udp)
        attempt(1, 3, 42, size, 34, 6, udp); attempt(0, 1, 54, size, 0, 0, tcp); attempt(1, 0x81, 54, size, 34, 16, tcp)
        attempt(1, 1, 54, size, 34, 6, tcp); attempt(1, 5, 42, size, 14, 2, udp)
    for n in range(3000):
        f = bytearray(random.choice((tcp, udp))[:random.choice((14, 20, 33, 34, 40, 54, 60, 200, 1400))])
        for _ in range(random.randrange(1, 6)): f[random.randrange(12, len(f))] = random.randrange(256)
        attempt(random.choice((0, 1)), random.choice((0, 0, 1, 4, 5, 0x81)), random.randrange(80), random.choice((0, 1, 48, 1000)), random.choice((0, 34, 14, random.randrange(100))), random.choice((6, 16, 0)), bytes(f))
",
            m = mac(&a),
            bm = mac(&b),
            a = a.ip(),
            b = b.ip(),
            c = c.ip()
        );
        let pid = node.pid();
        a.ns.run("/usr/bin/python3", &["-c", &script])?;
        ensure!(node.pid() == pid && node.weft_json(&["status"])?["ready"] == true, "weftd did not survive");
        for reason in ["bad-gso", "bad-vnet-header"] {
            ensure!(node.drops(reason)? > 0, "no {reason} was counted\n{}", node.weft(&["drops"])?);
        }
        ping(&a.ns, &b.ip(), 3)?;
        ping(&b.ns, &c.ip(), 3)
    });
}
