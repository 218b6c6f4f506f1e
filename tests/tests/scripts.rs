//! The scripts: help, what they say is missing, labs that are removed whole, the unit file.

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
    let names = weft_tests::ns::run("ip", &["netns", "list"])?;
    let names: Vec<&str> = names.lines().filter(|line| line.starts_with("wtlab-")).collect();
    let state = Path::new("/run/weft-lab/wtlab").exists();
    Ok(if state { format!("{names:?} and /run/weft-lab/wtlab") } else { names.join(" ") })
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
fn a_lab_works_and_goes_away() {
    as_root(|| {
        let none = Path::new("/nonexistent");
        let options = ["--pods", "1", "--ipv6", "--mtu", "1600", "--underlay6", "--local-mtu", "9000"];
        let up = lab(&[&["up", "kernel-nodes"][..], &options].concat(), none)?;
        let checked = (|| {
            ensure!(up.contains("n2/pod1"), "{up}");
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
        lab(&["up", "kernel-peer", "--pods", "1", "--ipv6"], bin_dir)?;
        let checked = (|| {
            for (from, to) in
                [("n1/pod1", "10.244.2.2"), ("n1/pod1", "fd00:10:244:2::2"), ("n1", "10.244.2.2")]
            {
                lab(&["exec", from, "ping", "-c2", "-i0.2", "-W3", to], bin_dir)?;
            }
            lab(&["exec", "n1", "weft", "status"], bin_dir).map(drop)
        })();
        lab(&["down"], bin_dir)?;
        checked?;
        ensure!(leftovers()?.is_empty(), "left: {}", leftovers()?);
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
