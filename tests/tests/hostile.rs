//! Spoofed, rogue, mutated: dropped, each with the right counter.

use weft_tests::traffic::{ping, scapy};
use weft_tests::{Lab, Namespace, Node, Options, Pod, Result, as_root, ensure, eventually};

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

#[test]
fn spoofed_senders() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        ping(&a.ns, &b.ip(), 3)?; // b's entry for a is cached now
        let (am, bm, ai, bi) = (mac(&a), mac(&b), a.ip(), b.ip());
        let (ai6, bi6) = (a.ip6(), b.ip6());
        // what honest pods never send: whatever of it b sees got through
        let filter =
            "udp dst port 9 or udp dst port 68 or vlan or icmp[icmptype] = 5 or (icmp6 and ip6[40] = 134)";
        let capture = b.ns.spawn("tcpdump", &["-nli", "eth0", "--immediate-mode", filter])?;
        std::thread::sleep(std::time::Duration::from_secs(1));
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
        for (reason, packets) in cases {
            dropped(node, reason, 5, || scapy(&a.ns, &packets))?;
        }
        let seen = capture.interrupt()?;
        ensure!(
            seen.trim().is_empty(),
            "spoofed frames reached the other pod:
{seen}"
        );
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

#[test]
fn hostile_vnet_headers_and_mutated_frames() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (a, b, c) = (node.pod("a")?, node.pod("b")?, lab.nodes[1].pod("c")?);
        ping(&a.ns, &b.ip(), 3)?;
        let script = format!(
            r"
import socket, struct, random
from scapy.all import Ether, IP, IPv6, TCP, UDP, Raw
random.seed(1)
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(('eth0', 0))
s.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR
def send(flags, kind, hdr_len, size, start, offset, frame):
    try: s.send(struct.pack('<BBHHHH', flags, kind, hdr_len, size, start, offset) + frame)
    except OSError: pass
for dst in ('{b}', '{c}'):
    tcp = bytes(Ether(src='{m}', dst='{bm}')/IP(src='{a}', dst=dst)/TCP(dport=9, flags='A')/Raw(b'x'*8000))
    udp = bytes(Ether(src='{m}', dst='{bm}')/IP(src='{a}', dst=dst)/UDP(dport=9)/Raw(b'x'*8000))
    for size in (0, 1, 20, 47, 48, 536, 1398, 65535):
        send(1, 1, 54, size, 34, 16, tcp); send(1, 4, 54, size, 34, 16, tcp); send(1, 5, 42, size, 34, 6, udp)
        send(1, 3, 42, size, 34, 6, udp); send(0, 1, 54, size, 0, 0, tcp); send(1, 0x81, 54, size, 34, 16, tcp)
        send(1, 1, 54, size, 34, 6, tcp); send(1, 5, 42, size, 14, 2, udp)
    for n in range(3000):
        f = bytearray(random.choice((tcp, udp))[:random.choice((14, 20, 33, 34, 40, 54, 60, 200, 1400))])
        for _ in range(random.randrange(1, 6)): f[random.randrange(12, len(f))] = random.randrange(256)
        send(random.choice((0, 1)), random.choice((0, 0, 1, 4, 5, 0x81)), random.randrange(80), random.choice((0, 1, 48, 1000)), random.choice((0, 34, 14, random.randrange(100))), random.choice((6, 16, 0)), bytes(f))
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
        let bad = node.drops("bad-gso")? + node.drops("bad-vnet-header")?;
        ensure!(bad > 0, "no hostile header was counted\n{}", node.weft(&["drops"])?);
        ping(&a.ns, &b.ip(), 3)?;
        ping(&b.ns, &c.ip(), 3)
    });
}
