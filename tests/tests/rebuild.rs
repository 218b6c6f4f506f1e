//! A damaged store: pods go on as if nothing had been, and what cannot be rebuilt is said.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use weft_tests::traffic::ping;
use weft_tests::{Context, Lab, Namespace, Node, Options, Result, as_root, ensure};

/// Cuts a file short, or writes over all but its first page.
fn damage(path: &Path, cut: bool) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    let length = file.metadata()?.len();
    if cut {
        file.set_len(length / 3)?;
    } else {
        file.write_all_at(&vec![0xa5; length as usize - 4096], 4096)?;
    }
    Ok(())
}

/// Damages files of a running daemon, which is then killed and started again by its keeper.
fn damaged_and_killed(node: &mut Node, files: &[&str], cut: bool) -> Result<()> {
    for file in files {
        damage(&node.file(file), cut)?;
    }
    node.kill_kept()
}

/// How many files were moved aside.
fn aside(node: &Node, dir: &str) -> Result<usize> {
    let names = fs::read_dir(node.file(dir))?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_string_lossy().contains(".damaged-")).count())
}

#[test]
fn pods_go_on_with_a_damaged_store() {
    as_root(|| {
        let mut lab = Lab::up(Options { nodes: 1, keeper: Some(Vec::new()), ..Options::default() })?;
        let node = &mut lab.nodes[0];
        node.expect_log("cannot be read");
        node.expect_log("made anew with default settings");
        node.weft(&["add-br", "lan"])?;
        let (e, f) = (Namespace::new("e")?, Namespace::new("f")?);
        for (n, ns) in [&e, &f].into_iter().enumerate() {
            let (name, netns) = (format!("lan{n}"), format!("netns={}", ns.name()));
            node.weft(&["add-port", "lan", &name, &netns, &format!("ip=10.9.0.{}/24", n + 1)])?;
        }
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let shown = |node: &Node| -> Result<String> {
            let ports = node.weft_json(&["show"])?;
            ensure!(ports.to_string().contains(&a.id) && ports.to_string().contains(&c.id), "{ports}");
            node.weft(&["show"])
        };
        let before = shown(node)?;
        let count = "3000";
        let pings = a.ns.spawn("ping", &["-n", "-q", "-i", "0.002", "-W", "3", "-c", count, &c.ip()])?;
        for (round, cut) in [true, false].into_iter().enumerate() {
            // The time is part of the name under which it is kept.
            std::thread::sleep(std::time::Duration::from_millis(1100));
            damaged_and_killed(node, &["run/ports.redb"], cut)?;
            ensure!(shown(node)? == before, "{before}\n{}", node.weft(&["show"])?);
            ensure!(aside(node, "run")? == round + 1, "not kept aside");
            let status = node.weft(&["status"])?;
            ensure!(
                status.contains("ports.redb.damaged-") && status.contains("4 ports were rebuilt from"),
                "{status}"
            );
            ping(&a.ns, &c.ip(), 3)?;
            ping(&e, "10.9.0.2", 3)?;
        }
        damaged_and_killed(node, &["run/ports.redb", "state/settings.redb"], false)?;
        let status = node.weft(&["status"])?;
        ensure!(
            status.contains("settings.redb.damaged-")
                && status.contains("operator's settings in it are lost"),
            "{status}"
        );
        ping(&e, "10.9.0.2", 3)?;
        let (out, errors, _) = pings.finish()?;
        let came = out.split(',').find_map(|part| part.trim().strip_suffix(" received")?.parse::<u32>().ok());
        ensure!(came.is_some_and(|came| came + 9 >= 3000), "{out}{errors}");

        // Addresses stay with their pods, and the runtime's calls find them.
        let d = node.pod("d")?;
        ensure!(![a.ip(), c.ip()].contains(&d.ip()), "{} is given twice", d.ip());
        ping(&a.ns, &d.ip(), 3)?;
        node.cni().check(&a.id, &a.ns.path(), &a.result)?;
        node.cni().version("1.1.0").gc(&[&a.id, &d.id])?;
        c.ns.loses("eth0").context("GC left the device")?;
        node.cni().check(&a.id, &a.ns.path(), &a.result)?;
        node.cni().del(&a.id, &a.ns.path())?;
        a.ns.loses("eth0").context("DEL left the device")?;
        let status = node.weft_json(&["status"])?;
        ensure!(status["pools"][0]["used"] == 1, "{status}");
        // Copies go with what they copy.
        let copies = fs::read_dir(node.file("run/ports.d"))?.flatten().map(|entry| entry.file_name());
        let copies: Vec<String> = copies.map(|name| name.to_string_lossy().into_owned()).collect();
        ensure!(copies.iter().filter(|name| name.starts_with("port%2F")).count() == 3, "{copies:?}");
        // And once more, without a keeper's descriptors: devices are attached to by name.
        node.stop()?;
        damage(&node.file("run/ports.redb"), true)?;
        node.start()?;
        ping(&d.ns, "10.244.1.1", 3)?;
        ping(&e, "10.9.0.2", 3)
    });
}

#[test]
fn a_port_that_ended_meanwhile_does_not_come_back() {
    as_root(|| {
        let mut lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &mut lab.nodes[0];
        node.expect_log("cannot be read");
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let free = c.ip();
        node.kill()?;
        c.ns.delete()?;
        damage(&node.file("run/ports.redb"), false)?;
        node.start()?;
        let ports = node.weft_json(&["show"])?.to_string();
        ensure!(ports.contains(&a.id) && !ports.contains(&c.id) && !ports.contains(&free), "{ports}");
        ping(&a.ns, "10.244.1.1", 3)
    });
}
