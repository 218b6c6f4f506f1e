//! The scripts: help, what they say is missing, labs and the quickstart that leave nothing, the unit file.

use std::path::{Path, PathBuf};
use std::process::Command;

use weft_tests::{Context, Result, as_root, bail, ensure};

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").join("scripts")
}

/// Runs `lab.sh`; its standard output, or an error with all it said.
fn lab(args: &[&str], bin_dir: &Path) -> Result<String> {
    let mut command = Command::new(scripts().join("lab.sh"));
    command.args(args).env("WEFT_BIN_DIR", bin_dir).env("WEFT_LAB", "wtlab");
    weft_tests::ns::output(command)
}

fn leftovers() -> Result<String> {
    leftovers_of("wtlab")
}

/// Namespaces and state of a lab; empty: none.
fn leftovers_of(lab: &str) -> Result<String> {
    let names = weft_tests::ns::run("ip", &["netns", "list"])?;
    let names: Vec<&str> = names.lines().filter(|line| line.starts_with(&format!("{lab}-"))).collect();
    let state = format!("/run/weft-lab/{lab}");
    Ok(if Path::new(&state).exists() { format!("{names:?} and {state}") } else { names.join(" ") })
}

/// Runs a line of bash as somebody who is not root, with no other programs than these; what it says on stderr, and
/// whether it succeeded.
fn as_somebody(line: &str, dir: &Path, programs: &[&str]) -> Result<(String, bool)> {
    let bin = dir.join("bin");
    std::fs::create_dir_all(&bin)?;
    for program in programs {
        let found = weft_tests::ns::run("sh", &["-c", &format!("command -v {program}")])?;
        let link = bin.join(program);
        if !link.exists() {
            std::os::unix::fs::symlink(found.trim(), link)?;
        }
    }
    let mut command = Command::new("env");
    if rustix::process::geteuid().is_root() {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "env"]);
    }
    command.args(["-i", "HOME=/nonexistent", &format!("PATH={}", bin.display()), "bash", "-c", line]);
    let output = command.current_dir(dir).output()?;
    Ok((String::from_utf8_lossy(&output.stderr).into_owned(), output.status.success()))
}

/// A directory that everyone may read, with copies of these scripts.
fn copies(names: &[&str]) -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let all_may = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir.path(), all_may)?;
    std::fs::create_dir(dir.path().join("scripts"))?;
    for name in names {
        std::fs::copy(scripts().join(name), dir.path().join("scripts").join(name))?;
    }
    Ok(dir)
}

#[test]
fn what_is_missing_is_named() -> Result<()> {
    let dir = copies(&["lib.sh", "test.sh"])?;
    let programs = ["bash", "dirname", "basename", "id", "sed", "head", "sort", "sh"];
    let need = |wanted: &str| {
        as_somebody(&format!(". scripts/lib.sh; set -eu; need {wanted}; say went on"), dir.path(), &programs)
    };
    let (said, ok) = need("coreutils=id iperf3=iperf3 nowhere=/nonexistent/file bash=bash")?;
    ensure!(!ok && said.contains("missing: iperf3 nowhere."), "{said}");
    let (said, ok) = need("coreutils=id")?;
    ensure!(ok && said == "went on\n", "{said}");

    // A compiler that is there and does nothing: what test.sh says comes before it.
    for (program, text) in [("cargo", "[ $1 = --version ] && echo cargo 1.99.0"), ("gcc", "exit 1")] {
        let path = dir.path().join("bin").join(program);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n"))?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let (said, ok) = as_somebody("scripts/test.sh", dir.path(), &programs)?;
    let line = said.lines().find(|line| line.contains("missing: ")).unwrap_or_default();
    ensure!(!ok && line.contains(" iperf3 ") && line.contains(" podman "), "{said}");
    ensure!(!said.contains("missing: Rust") && said.contains("without root"), "{said}");
    Ok(())
}

#[test]
fn every_script_prints_its_help() -> Result<()> {
    for entry in std::fs::read_dir(scripts())? {
        let path = entry?.path();
        // What is sourced is no command.
        if path.is_dir() || path.ends_with("lib.sh") {
            continue;
        }
        let output = Command::new(&path).arg("--help").output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{}: {output:?}", path.display());
        let name = path.file_name().context("a script has a name")?.to_string_lossy().into_owned();
        ensure!(text.contains(&name), "{}: {text}", path.display());
    }
    Ok(())
}

#[test]
fn an_option_without_its_value_is_named() -> Result<()> {
    for (script, args, option) in [
        ("bench.sh", "--rounds", "--rounds"),
        ("bench.sh", "--peers", "--peers"),
        ("chaos.sh", "--quick --json", "--json"),
        ("fuzz.sh", "--target", "--target"),
        ("install.sh", "--root", "--root"),
        ("instructions.sh", "--limit", "--limit"),
        ("kube.sh", "chaos --json", "--json"),
        ("lab.sh", "up one-node --pods", "--pods"),
        ("lab.sh", "down --lab", "--lab"),
        ("lab.sh", "exec --lab", "--lab"),
        ("quickstart.sh", "--seconds", "--seconds"),
    ] {
        let output = Command::new(scripts().join(script)).args(args.split(' ')).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        let wanted = format!("{script}: {option} takes a value\n");
        ensure!(!output.status.success() && said == wanted, "{script} {args}: {output:?}");
    }
    Ok(())
}

/// Both streams of `lab.sh`, and whether it succeeded.
fn lab_says(args: &[&str], bin_dir: &Path) -> Result<(String, String, bool)> {
    let mut command = Command::new(scripts().join("lab.sh"));
    let output = command.args(args).env("WEFT_BIN_DIR", bin_dir).env("WEFT_LAB", "wtlab").output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((text(&output.stdout), text(&output.stderr), output.status.success()))
}

#[test]
fn a_lab_that_is_not_there_goes_away_with_a_word() {
    as_root(|| {
        let none = Path::new("/nonexistent");
        let (_, said, ok) = lab_says(&["down", "--lab", "wtnone"], none)?;
        ensure!(ok && said == "there is no lab wtnone (lab.sh list)\n", "{said}");
        let (_, said, ok) = lab_says(&["down", "--quiet", "--lab", "wtnone"], none)?;
        ensure!(ok && said.is_empty(), "{said}");
        // A name is no path.
        let (_, said, ok) = lab_says(&["down", "--lab", "../wtnone"], none)?;
        ensure!(!ok && said.contains("--lab takes"), "{said}");
        Ok(())
    });
}

#[test]
fn a_lab_works_and_goes_away() {
    as_root(|| {
        let none = Path::new("/nonexistent");
        let options = ["--pods", "1", "--ipv6", "--mtu", "1600", "--underlay6", "--local-mtu", "9000"];
        let up = lab(&[&["up", "kernel-nodes"][..], &options].concat(), none)?;
        let checked = (|| {
            ensure!(up.contains("n2/pod1"), "{up}");
            ensure!(up.contains("n1/pod1 ping -c3 10.244.2.2;") && up.contains("n1 bridge link;"), "{up}");
            lab(&["exec", "n1", "bridge", "link"], none)?;
            lab(&["exec", "n1/pod1", "ping", "-c1", "-W3", "10.244.2.2"], none)?;
            let mtu = lab(&["exec", "n2/pod1", "cat", "/sys/class/net/eth0/mtu"], none)?;
            ensure!(mtu.trim() == "9000", "{mtu}");
            let route = lab(&["exec", "n2/pod1", "ip", "route", "show", "default"], none)?;
            ensure!(route.contains("mtu 1530"), "{route}");
            ensure!(lab(&["up", "kernel-nodes"], none).is_err(), "a lab cannot be up twice");
            ensure!(lab(&["list"], none)?.contains("lab wtlab: kernel-nodes"), "list");
            // A program that exec left behind goes, too.
            lab(&["exec", "n1", "sh", "-c", "sleep 600 >/dev/null 2>&1 &"], none).map(drop)
        })();
        lab(&["down"], none)?;
        checked?;
        ensure!(leftovers()?.is_empty(), "left: {}", leftovers()?);
        lab(&["down"], none).map(drop)
    });
}

#[test]
fn a_lab_that_fails_leaves_nothing() {
    as_root(|| {
        let dir = tempfile::tempdir()?;
        for name in ["weftd", "weft-keeper", "weft", "weft-cni"] {
            let path = dir.path().join(name);
            std::fs::write(&path, "#!/bin/sh\necho no use >&2\nexit 1\n")?;
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        match lab(&["up", "two-nodes"], dir.path()) {
            Ok(out) => bail!("came up: {out}"),
            Err(error) => ensure!(format!("{error:#}").contains("no use"), "{error:#}"),
        }
        ensure!(leftovers()?.is_empty(), "left: {}", leftovers()?);
        Ok(())
    });
}

#[test]
fn a_weft_node_and_a_kernel_node_reach_each_other() {
    as_root(|| {
        let bin_dir = weft_tests::bin::dir();
        let up = lab(&["up", "kernel-peer", "--pods", "1", "--ipv6", "--quiet"], bin_dir)?;
        let checked = (|| {
            for (from, to) in
                [("n1/pod1", "10.244.2.2"), ("n1/pod1", "fd00:10:244:2::2"), ("n1", "10.244.2.2")]
            {
                lab(&["exec", from, "ping", "-c2", "-i0.2", "-W3", to], bin_dir)?;
            }
            ensure!(up.contains("n2/pod1") && !up.contains("try:"), "{up}");
            let hints = lab(&["list"], bin_dir)?;
            ensure!(hints.contains("exec --lab wtlab n1 weft show;"), "{hints}");
            lab(&["exec", "n1", "weft", "status"], bin_dir).map(drop)
        })();
        lab(&["down"], bin_dir)?;
        checked?;
        ensure!(leftovers()?.is_empty(), "left: {}", leftovers()?);
        Ok(())
    });
}

#[test]
fn labs_of_weft_nodes_come_up_and_go_away() {
    as_root(|| {
        let bin_dir = weft_tests::bin::dir();
        for (topology, nodes, to) in [("one-node", 1, "10.244.1.3"), ("two-nodes", 2, "10.244.2.3")] {
            lab(&["up", topology, "--ipv6"], bin_dir)?;
            let pids = std::fs::read_to_string("/run/weft-lab/wtlab/pids")?;
            let pids: Vec<&str> = pids.lines().filter_map(|line| line.split(' ').next()).collect();
            let checked = (|| {
                let list = lab(&["list"], bin_dir)?;
                ensure!(list.contains(&format!("lab wtlab: {topology}\n")), "{list}");
                for node in 1..=nodes {
                    for pod in 1..=2 {
                        let address = format!("10.244.{node}.{}/24", pod + 1);
                        let line = list.lines().find(|line| line.contains(&format!("n{node}/pod{pod}")));
                        ensure!(line.is_some_and(|line| line.contains(&address)), "{list}");
                    }
                }
                ensure!(pids.len() == nodes, "daemons: {pids:?}");
                lab(&["exec", "n1/pod1", "ping", "-c2", "-i0.2", "-W3", to], bin_dir).map(drop)
            })();
            lab(&["down"], bin_dir)?;
            checked?;
            ensure!(leftovers()?.is_empty(), "left: {}", leftovers()?);
            ensure!(!pids.iter().any(|pid| Path::new("/proc").join(pid).exists()), "a daemon is left");
            ensure!(!lab(&["list"], bin_dir)?.contains("wtlab"), "a lab that is down is listed");
        }
        Ok(())
    });
}

/// Names of the devices here, where scripts must leave none.
fn links() -> Result<Vec<String>> {
    let links = weft_tests::ns::run("ip", &["-o", "link"])?;
    Ok(links.lines().filter_map(|line| Some(line.split(": ").nth(1)?.to_owned())).collect())
}

#[test]
fn the_quickstart_measures_and_leaves_nothing() {
    as_root(|| {
        let before = links()?;
        let dir = tempfile::tempdir()?;
        let json = dir.path().join("medians.json");
        let mut command = Command::new(scripts().join("quickstart.sh"));
        command.args(["--rounds", "1", "--seconds", "1", "--json"]).arg(&json);
        command.env("WEFT_BIN_DIR", weft_tests::bin::dir()).env("WEFT_BUILD", "0");
        let output = command.output()?;
        let (said, progress) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() && said.contains("across nodes, TCP Gbit/s"), "{output:?}");
        // What it removes itself is nothing to try.
        ensure!(progress.contains("lab weftq: two-nodes") && !progress.contains("try:"), "{progress}");
        let medians: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json)?)?;
        for key in [
            "same_node_tcp_gbps",
            "kernel_bridge_tcp_gbps",
            "across_nodes_tcp_gbps",
            "kernel_vxlan_tcp_gbps",
            "same_node_rtt_us",
            "across_nodes_rtt_us",
            "cni_add_ms",
        ] {
            ensure!(medians[key].as_f64().is_some_and(|median| median > 0.0), "{key}: {medians}");
        }
        for lab in ["weftq", "weftk"] {
            ensure!(leftovers_of(lab)?.is_empty(), "left: {}", leftovers_of(lab)?);
        }
        let left: Vec<String> = links()?.into_iter().filter(|link| !before.contains(link)).collect();
        ensure!(left.is_empty(), "left: {left:?}");
        Ok(())
    });
}

#[test]
fn the_unit_file_is_right() -> Result<()> {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        println!("skipped: no systemd-analyze");
        return Ok(());
    }
    let unit = scripts().with_file_name("deploy").join("weftd.service");
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("weftd.service");
    // The program need not be installed for the unit to be right.
    let text = std::fs::read_to_string(unit)?.replace("/usr/local/bin/weftd", "/bin/true");
    std::fs::write(&copy, text)?;
    let output = Command::new("systemd-analyze").arg("verify").arg(&copy).output()?;
    ensure!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    Ok(())
}
