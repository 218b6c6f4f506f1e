//! Superframes to other nodes leave whole, and are cut where that would be wrong.

use weft_tests::traffic::{hashed, iperf, no_checksum_errors, serve};
use weft_tests::{Lab, Node, Options, Pod, Result, as_root, ensure, eventually};

const DEVICE: &str = "weft-gso0";

/// Two nodes with a pod each. `None`: this kernel has no device for it.
fn lab(config: &str) -> Result<Option<(Lab, Pod, Pod)>> {
    let lab = Lab::up(Options { nodes: 2, config: config.into(), ..Options::default() })?;
    let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
    if lab.nodes[0].log().contains("does not segment UDP tunnels") {
        println!("skipped: this kernel has no such device");
        return Ok(None);
    }
    Ok(Some((lab, a, b)))
}

/// Superframes that left whole and that were cut, while a stream ran.
fn stream(lab: &Lab, from: &Pod, to: &Pod) -> Result<(u64, u64)> {
    let node = &lab.nodes[0];
    let counts = || -> Result<_> { Ok((node.total("superframes_sent")?, node.total("superframes_cut")?)) };
    let before = counts()?;
    let _server = serve(&to.ns, 5201)?;
    let measured = iperf(&from.ns, &to.ip(), 5201, &["-t", "1"])?;
    ensure!(measured.bits_per_second > 1e8, "{measured:?}");
    let after = counts()?;
    Ok((after.0 - before.0, after.1 - before.1))
}

/// Within a few looks.
fn all_whole(lab: &Lab, from: &Pod, to: &Pod) -> Result<()> {
    eventually(10, || {
        let (whole, cut) = stream(lab, from, to)?;
        ensure!(whole > 100 && cut == 0, "{whole} whole, {cut} cut");
        Ok(())
    })
}

fn all_cut(lab: &Lab, from: &Pod, to: &Pod) -> Result<()> {
    eventually(10, || {
        let (whole, cut) = stream(lab, from, to)?;
        ensure!(whole == 0 && cut > 100, "{whole} whole, {cut} cut");
        Ok(())
    })
}

fn devices(node: &Node) -> Result<usize> {
    Ok(node.links()?.iter().filter(|link| link.starts_with("weft-gso")).count())
}

fn index(lab: &Lab) -> Result<String> {
    lab.nodes[0].ns.sh(&format!("cat /sys/class/net/{DEVICE}/ifindex"))
}

#[test]
fn superframes_leave_whole_through_crashes_and_upgrades() {
    as_root(|| {
        let Some((mut lab, a, b)) = lab("")? else { return Ok(()) };
        all_whole(&lab, &a, &b)?;
        hashed(&a.ns, &b.ns, &b.ip6(), 20)?;
        no_checksum_errors([&a.ns, &b.ns])?;
        lab.nodes[0].kill()?;
        lab.nodes[0].start()?;
        all_whole(&lab, &a, &b)?;
        ensure!(devices(&lab.nodes[0])? == 1, "after a crash");
        let index = index(&lab)?;
        lab.nodes[0].take_over()?;
        ensure!(self::index(&lab)? == index, "another device after an upgrade");
        all_whole(&lab, &a, &b)?;
        lab.nodes[0].stop()?;
        eventually(5, || {
            ensure!(devices(&lab.nodes[0])? == 0, "the device stays");
            Ok(())
        })
    });
}

#[test]
fn ipsec_policies_see_every_packet() {
    as_root(|| {
        let Some((lab, a, b)) = lab("")? else { return Ok(()) };
        let node = &lab.nodes[0].ns;
        all_whole(&lab, &a, &b)?;
        node.sh("ip xfrm policy add dst 198.51.100.0/24 dir out action block")?;
        all_cut(&lab, &a, &b)?;
        node.sh("ip xfrm policy flush")?;
        all_whole(&lab, &a, &b)
    });
}

#[test]
fn an_underlay_that_does_not_segment_tunnels_gets_what_is_cut() {
    as_root(|| {
        let Some((lab, a, b)) = lab("")? else { return Ok(()) };
        let node = &lab.nodes[0].ns;
        let way = node.sh(&format!("ip -o route get {}", lab.underlay_address(2)))?;
        let device = way.split(" dev ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("?");
        all_whole(&lab, &a, &b)?;
        node.sh(&format!("ethtool -K {device} tx-udp_tnl-csum-segmentation off"))?;
        all_cut(&lab, &a, &b)?;
        node.sh(&format!("ethtool -K {device} tx-udp_tnl-csum-segmentation on"))?;
        all_whole(&lab, &a, &b)
    });
}

#[test]
fn a_device_that_loses_frames_rests_and_one_that_is_gone_is_made_anew() {
    as_root(|| {
        let Some((mut lab, a, b)) = lab("")? else { return Ok(()) };
        all_whole(&lab, &a, &b)?;
        let node = &lab.nodes[0];
        node.ns.sh(&format!("ip link set {DEVICE} down"))?;
        all_whole(&lab, &a, &b)?;
        // Who switches the host's forwarding switches every device's.
        eventually(10, || {
            node.ns.sh(&format!("sysctl -qw net.ipv4.conf.{DEVICE}.forwarding=0"))?;
            hashed(&a.ns, &b.ns, &b.ip(), 5)?;
            ensure!(node.drops("tunnel-send")? > 0, "nothing was lost");
            Ok(())
        })?;
        node.ns.sh(&format!("sysctl -qw net.ipv4.conf.{DEVICE}.forwarding=0; ip link del {DEVICE}"))?;
        hashed(&a.ns, &b.ns, &b.ip(), 5)?;
        eventually(10, || {
            ensure!(devices(node)? == 0 && node.log().contains("is gone"), "{}", node.log());
            Ok(())
        })?;
        all_cut(&lab, &a, &b)?;
        eventually(60, || {
            let (whole, cut) = stream(&lab, &a, &b)?;
            ensure!(whole > 100 && cut == 0, "{whole} whole, {cut} cut");
            Ok(())
        })?;
        lab.nodes[0].expect_log("superframes had no way");
        lab.nodes[0].expect_log("is gone");
        Ok(())
    });
}

#[test]
fn who_does_not_want_it_gets_no_device() {
    as_root(|| {
        let Some((lab, a, b)) = lab("tunnel_gso = \"never\"\n")? else { return Ok(()) };
        all_cut(&lab, &a, &b)?;
        ensure!(devices(&lab.nodes[0])? == 0, "there is a device");
        Ok(())
    });
}
