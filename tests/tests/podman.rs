//! podman as a foreign CNI client: containers talk, stop, start again, publish ports; nothing is left behind.

use std::collections::BTreeSet;
use std::fs;

use weft_tests::ns::Background;
use weft_tests::traffic::ping;
use weft_tests::{Lab, Namespace, Node, Options, Result, as_root, bin, ensure, eventually};

/// podman on one node, with storage and configuration of its own, in a mount namespace that outlives each command
/// (the runtime's namespaces are mounts) and sees a pure cgroup v2 tree.
struct Podman {
    holder: Background,
    dir: tempfile::TempDir,
    node: String,
}

impl Podman {
    fn new(node: &Node) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("weft-podman-").tempdir()?;
        let path = dir.path().display();
        fs::create_dir_all(dir.path().join("net.d"))?;
        fs::write(
            dir.path().join("containers.conf"),
            format!(
                "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1000:1000\"]\ncgroups = \"disabled\"\n\
                 [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\", \"/usr/lib/cni\"]\nnetwork_config_dir = \"{path}/net.d\"\n\
                 [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"crun\"\n",
                bin::dir().display()
            ),
        )?;
        let list = serde_json::json!({
            "cniVersion": "0.4.0", "name": "weft", "plugins": [
                { "type": "weft-cni", "socket": node.cni_socket(), "queueDir": node.file("state/cni-del"),
                  "capabilities": { "ips": true, "mac": true } },
                { "type": "portmap", "capabilities": { "portMappings": true } }
            ]
        });
        fs::write(dir.path().join("net.d/10-weft.conflist"), list.to_string())?;
        let holder = node.ns.spawn(
            "unshare",
            &[
                "-m",
                "sh",
                "-c",
                "umount -R /sys/fs/cgroup 2>/dev/null; mount -t cgroup2 none /sys/fs/cgroup; exec sleep 900",
            ],
        )?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        let podman = Podman { holder, dir, node: node.ns.name().to_owned() };
        let path = podman.dir.path().display();
        podman.sh(&format!(
            "mkdir -p {path}/image/bin && cp /bin/busybox {path}/image/bin/ && for x in sh sleep ping nc true ip httpd cat; do ln -s busybox {path}/image/bin/$x; done
             tar -C {path}/image -cf {path}/image.tar . && podman import {path}/image.tar weft-test >/dev/null"
        ))?;
        Ok(podman)
    }

    /// Runs a shell line where podman is this node's.
    fn sh(&self, line: &str) -> Result<String> {
        let (path, pid) = (self.dir.path().display(), self.holder.pid().to_string());
        let line = format!(
            "export CONTAINERS_CONF={path}/containers.conf; podman() {{ command podman --root {path}/root --runroot {path}/runroot --tmpdir {path}/tmp --storage-driver vfs \"$@\"; }}; {line}"
        );
        weft_tests::ns::run("nsenter", &["-t", &pid, "-m", "-n", "bash", "-ec", &line])
            .map_err(|error| error.context(format!("on {}", self.node)))
    }

    fn ip(&self, container: &str) -> Result<String> {
        let ip = self.sh(&format!(
            "podman inspect -f '{{{{.NetworkSettings.Networks.weft.IPAddress}}}}' {container}"
        ))?;
        Ok(ip.trim().to_owned())
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.sh("podman rm -fa -t 0 >/dev/null 2>&1; podman rmi -fa >/dev/null 2>&1; true");
    }
}

/// What must be the same before and after.
#[derive(Debug, PartialEq)]
struct Footprint {
    ports: String,
    /// Addresses in use.
    used: u64,
    /// Descriptors of the daemon.
    descriptors: usize,
    /// Devices of the node; with [`Node::probe`], also namespaces that live.
    links: BTreeSet<String>,
    /// Files of the daemon, of the CNI library and its plugins, and names of namespaces.
    files: BTreeSet<String>,
}

fn footprint(node: &Node, podman: &Podman) -> Result<Footprint> {
    let status = node.weft_json(&["status"])?;
    let (run, state) = (node.file("run"), node.file("state"));
    let files = podman.sh(&format!(
        "find {} {} $(ls -d /var/lib/cni /run/netns 2>/dev/null) ! -type d",
        run.display(),
        state.display()
    ))?;
    Ok(Footprint {
        ports: node.weft(&["list-ports", "br0"])?,
        used: status["pools"].as_array().into_iter().flatten().filter_map(|p| p["used"].as_u64()).sum(),
        descriptors: node.descriptors()?,
        links: node.links()?,
        // Which addresses were given before is remembered, so that none goes out again too soon.
        files: files
            .lines()
            .filter(|file| !file.contains("/ports.d/quarantine%2F") && !file.contains("/ports.d/last%2F"))
            .map(str::to_owned)
            .collect(),
    })
}

fn same_as(node: &Node, podman: &Podman, before: &Footprint) -> Result<()> {
    eventually(20, || {
        let now = footprint(node, podman)?;
        ensure!(now == *before, "before {before:#?}, now {now:#?}");
        Ok(())
    })
}

#[test]
fn containers_talk_stop_start_and_leave_nothing() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let podman = Podman::new(node)?;
        let outside = Namespace::new("client")?;
        weft_tests::lab::join(&lab.underlay, &outside, 9, &Options::default())?;
        let before = footprint(node, &podman)?;
        for name in ["c1", "c2"] {
            podman.sh(&format!("podman run -d --name {name} --network weft weft-test sleep 600"))?;
        }
        let reach = |from: &str, to: &str| -> Result<()> {
            let out = podman.sh(&format!("podman exec {from} ping -c 3 -W 2 {to}"))?;
            ensure!(out.contains(" 0% packet loss"), "{from} to {to}: {out}");
            Ok(())
        };
        reach("c1", &podman.ip("c2")?)?;
        reach("c2", &podman.ip("c1")?)?;
        ping(&node.ns, &podman.ip("c1")?, 3)?;
        podman.sh("podman stop -t 0 c1 && podman start c1")?;
        reach("c1", &podman.ip("c2")?)?;
        reach("c2", &podman.ip("c1")?)?;

        // a chosen address and MAC
        podman.sh("podman run -d --name c3 --network weft --ip 10.244.1.77 --mac-address 02:aa:bb:cc:dd:01 weft-test sleep 600")?;
        ensure!(podman.ip("c3")? == "10.244.1.77", "IP= is not honoured");
        ensure!(
            podman.sh("podman exec c3 ip link show eth0")?.contains("02:aa:bb:cc:dd:01"),
            "MAC= is not honoured"
        );
        reach("c3", &podman.ip("c2")?)?;

        // a published port: from the node, from another node, from the outside
        podman.sh("podman run -d --name web -p 8080:80 --network weft weft-test sh -c 'echo hello > /index.html; httpd -f -p 80 -h /'")?;
        for from in [&node.ns, &lab.nodes[1].ns, &outside] {
            eventually(5, || {
                let out = from.sh(
                    "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | timeout 3 nc.openbsd -N 172.30.0.1 8080",
                )?;
                ensure!(out.contains("hello"), "the published port does not answer {}: {out}", from.name());
                Ok(())
            })?;
        }
        podman.sh("podman rm -fa -t 0")?;
        same_as(node, &podman, &before)
    });
}

/// A container of a round: its first process and its address.
struct Running {
    name: String,
    pid: String,
    ip: String,
}

/// Rounds in all, and how many of them at a time.
const ROUNDS: usize = 50;
const TOGETHER: usize = 5;

/// A round: two containers come, each gets the other's page, they are stopped and started again, get the pages again,
/// and are removed.
#[test]
fn fifty_rounds_of_two_containers_leave_nothing() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let podman = Podman::new(node)?;
        let before = footprint(node, &podman)?;
        let names: Vec<String> = (0..2 * TOGETHER).map(|number| format!("r{number}")).collect();
        let all = names.join(" ");
        for _ in 0..ROUNDS / TOGETHER {
            podman.sh(&format!(
                "for name in {all}; do
                     podman run -d --name $name --network weft weft-test \
                         sh -c \"(echo $name; busybox seq 20000) >/index.html; exec httpd -f -p 80 -h /\" >/dev/null &
                 done
                 for job in $(jobs -p); do wait $job; done"
            ))?;
            exchange(node, &podman, &names)?;
            podman.sh(&format!("podman stop -t 0 {all} >/dev/null"))?;
            podman.sh(&format!("podman start {all} >/dev/null"))?;
            exchange(node, &podman, &names)?;
            podman.sh(&format!("podman rm -f -t 0 {all} >/dev/null"))?;
        }
        same_as(node, &podman, &before)
    });
}

/// In every two containers, each gets the other's page, of some 100 KB, whole.
fn exchange(node: &Node, podman: &Podman, names: &[String]) -> Result<()> {
    let told = podman.sh(&format!(
        "podman inspect -f '{{{{.Name}}}} {{{{.State.Pid}}}} {{{{.NetworkSettings.Networks.weft.IPAddress}}}}' {}",
        names.join(" ")
    ))?;
    let running: Vec<Running> = told
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::to_owned);
            Some(Running { name: words.next()?, pid: words.next()?, ip: words.next()? })
        })
        .collect();
    ensure!(running.len() == names.len(), "not all run: {told}");
    running.iter().try_for_each(|container| node.probe(&container.pid))?;
    let numbers: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    let gets = |from: &Running, to: &Running| {
        eventually(10, || {
            let answer = podman.sh(&format!(
                "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | timeout 5 nsenter -t {} -m -n busybox nc {} 80",
                from.pid, to.ip
            ))?;
            let page = answer.split_once("\r\n\r\n").map_or("", |(_, page)| page);
            let wanted = format!("{}\n{numbers}", to.name);
            ensure!(
                page == wanted,
                "{} got {} bytes of {} from {}",
                from.name,
                page.len(),
                wanted.len(),
                to.name
            );
            Ok(())
        })
    };
    for two in running.chunks(2) {
        gets(&two[0], &two[1])?;
        gets(&two[1], &two[0])?;
    }
    Ok(())
}
