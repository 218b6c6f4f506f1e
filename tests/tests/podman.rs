//! podman as a foreign CNI client: containers talk, stop, start again, publish ports; nothing is left behind.

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

fn footprint(node: &Node) -> Result<(String, u64, usize)> {
    let status = node.weft_json(&["status"])?;
    let used = status["pools"].as_array().into_iter().flatten().filter_map(|p| p["used"].as_u64()).sum();
    Ok((node.weft(&["list-ports", "br0"])?, used, node.descriptors()?))
}

#[test]
fn containers_talk_stop_start_and_leave_nothing() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let before = footprint(node)?;
        let podman = Podman::new(node)?;
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
        let outside = Namespace::new("client")?;
        weft_tests::lab::join(&lab.underlay, &outside, 9, &Options::default())?;
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
        for _ in 0..50 {
            podman.sh("podman run --rm --network weft weft-test ping -c 1 -W 2 10.244.1.1 >/dev/null")?;
        }
        eventually(10, || {
            let now = footprint(node)?;
            ensure!(now == before, "before {before:?}, after 50 rounds {now:?}");
            Ok(())
        })?;
        let queued = fs::read_dir(node.file("state/cni-del")).map_or(0, Iterator::count);
        ensure!(queued == 0, "{queued} queued DELs are left");
        Ok(())
    });
}
