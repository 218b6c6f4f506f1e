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

fn devices(node: &Node) -> Result<usize> {
    Ok(node.links()?.iter().filter(|link| link.starts_with("weft-gso")).count())
}

#[test]
fn superframes_leave_whole_through_crashes_and_upgrades() {
    as_root(|| {
        let Some((mut lab, a, b)) = lab("")? else { return Ok(()) };
        let (whole, cut) = stream(&lab, &a, &b)?;
        ensure!(whole > 100 && cut == 0, "{whole} whole, {cut} cut");
        hashed(&a.ns, &b.ns, &b.ip6(), 20)?;
        no_checksum_errors([&a.ns, &b.ns])?;
        let index = |lab: &Lab| lab.nodes[0].ns.sh(&format!("cat /sys/class/net/{DEVICE}/ifindex"));
        let first = index(&lab)?;
        lab.nodes[0].take_over()?;
        ensure!(index(&lab)? == first, "another device after an upgrade");
        let (whole, cut) = stream(&lab, &a, &b)?;
        ensure!(whole > 100 && cut == 0, "after an upgrade: {whole} whole, {cut} cut");
        lab.nodes[0].kill()?;
        lab.nodes[0].start()?;
        let (whole, _) = stream(&lab, &a, &b)?;
        ensure!(whole > 100 && devices(&lab.nodes[0])? == 1, "after a crash: {whole} whole");
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
        node.sh("ip xfrm policy add dst 198.51.100.0/24 dir out action block")?;
        eventually(10, || {
            let (whole, cut) = stream(&lab, &a, &b)?;
            ensure!(whole == 0 && cut > 100, "{whole} whole, {cut} cut");
            Ok(())
        })?;
        node.sh("ip xfrm policy flush")?;
        eventually(10, || {
            let (whole, cut) = stream(&lab, &a, &b)?;
            ensure!(whole > 100 && cut == 0, "{whole} whole, {cut} cut");
            Ok(())
        })
    });
}

#[test]
fn a_route_with_a_smaller_mtu_is_noticed_and_superframes_are_cut() {
    as_root(|| {
        let Some((mut lab, a, b)) = lab("")? else { return Ok(()) };
        let (to, from) = (lab.underlay_address(1), lab.underlay_address(0));
        let node = &lab.nodes[0].ns;
        let way = node.sh(&format!("ip -o route get {to} from {from}"))?;
        let device = way.split(" dev ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap_or("?");
        node.sh(&format!("ip route add {to}/32 dev {device} src {from} mtu 1400"))?;
        hashed(&a.ns, &b.ns, &b.ip(), 5)?;
        let (whole, cut) = stream(&lab, &a, &b)?;
        ensure!(whole == 0 && cut > 0, "{whole} whole, {cut} cut");
        ensure!(lab.nodes[0].drops("tunnel-send")? > 0, "{}", lab.nodes[0].weft(&["drops"])?);
        lab.nodes[0].expect_log("superframes had no way");
        Ok(())
    });
}

#[test]
fn who_does_not_want_it_gets_no_device() {
    as_root(|| {
        let Some((lab, a, b)) = lab("tunnel_gso = false\n")? else { return Ok(()) };
        let (whole, cut) = stream(&lab, &a, &b)?;
        ensure!(whole == 0 && cut > 100, "{whole} whole, {cut} cut");
        ensure!(devices(&lab.nodes[0])? == 0, "there is a device");
        Ok(())
    });
}
