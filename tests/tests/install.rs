//! `scripts/install.sh`: what it puts on a machine, and that `--uninstall` leaves the machine as it was.
//!
//! The "machine" is a network namespace and a mount namespace, in which the directories that are written to are copies
//! or empty.

use std::path::Path;

use weft_tests::{Namespace, Result, as_root, bin, ensure};

/// `/etc` as it is, the other directories empty; a firewall whose FORWARD chain drops; a container.
const MACHINE: &str = r#"
mount --make-rprivate /
T=$(mktemp -d)
mount -t tmpfs tmpfs "$T"
cp -a /etc "$T/etc"
mount --bind "$T/etc" /etc
rm -rf /etc/weft /etc/cni/net.d
mkdir -p /etc/cni/net.d
for dir in /usr/local /var/lib /run /opt /usr/lib/cni; do
    [ ! -d $dir ] || mount -t tmpfs tmpfs $dir
done
mkdir -p /opt/cni/bin /usr/local/bin
sysctl -qw net.ipv6.conf.default.accept_dad=0
ip link add eth0 type veth peer name uplink
ip link set uplink up
ip addr add 192.0.2.1/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.2
nft add table ip filter
nft 'add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'
unshare -n sleep 600 &
POD=$!
trap 'kill $POD $(jobs -p) 2>/dev/null || true' EXIT

machine() {
    find /etc /usr/local /usr/lib/cni /var/lib /run /opt -printf '%p %y %m %l\n' | sort
    find /etc /usr/local /usr/lib/cni /var/lib /run /opt -type f -print0 | sort -z | xargs -0r sha256sum
    ip -o addr | sed 's/valid_lft.*//'
    ip -o link | sed 's/ qlen [0-9]*//'
    ip route show table all
    ip -6 route show table all
    ip rule; ip -6 rule
    nft list ruleset
    sysctl -a 2>/dev/null | grep '^net\.' | grep -v 'conntrack_count\|\.stable_secret\|random\|tcp_fastopen_key'
    nsenter -t $POD -n ip -o link
}
"#;

/// Uninstalls and keeps containers' devices, installs and runs anew, and is theirs again.
const KEPT: &str = r#"
run() {
	WEFT_POD_CIDRS=10.244.0.0/24 weftd 2>"$T/log" &
	for _ in $(seq 100); do weft status >/dev/null 2>&1 && return; sleep 0.1; done
	cat "$T/log" && exit 1
}
scripts/install.sh >/dev/null
run
weft add-port br0 web netns=$POD ip=10.244.0.9/24
ping -c1 -W2 10.244.0.9
scripts/install.sh --uninstall --keep-ports
if ip link show weft0; then echo weft0 is there >&2; exit 1; fi
[ ! -e /usr/local/bin/weftd ]
nsenter -t $POD -n ip -o addr show dev eth0 | grep 10.244.0.9 >/dev/null
scripts/install.sh >/dev/null
run
ping -c1 -W2 10.244.0.9
scripts/install.sh --uninstall
if nsenter -t $POD -n ip link show eth0; then echo eth0 is there >&2; exit 1; fi
"#;

#[test]
fn uninstall_may_leave_ports_for_the_next() {
    as_root(|| machine(KEPT).map(drop));
}

/// Installs, runs, wires a container, uninstalls; prints the difference.
const ROUND: &str = r#"
sleep 1
machine >"$T/before"
scripts/install.sh >"$T/said"
# Without a running systemd (/run is empty here) the enablement is made before the start fails.
grep -q 'weft-keeper weftd' "$T/said"
systemctl --root=/ enable weftd.service
[ -L /etc/systemd/system/multi-user.target.wants/weftd.service ]
weftd --check
WEFT_POD_CIDRS=10.244.0.0/24,fd00:10:244::/64 weftd 2>"$T/log" &
for _ in $(seq 100); do weft status >/dev/null 2>&1 && break; sleep 0.1; done
weft status || { cat "$T/log"; exit 1; }
weft add-port br0 web netns=$POD ip=10.244.0.9/24
weft cni install --wait 5
ls /opt/cni/bin/weft-cni /etc/cni/net.d/10-weft.conflist
ping -c1 -W2 10.244.0.9
scripts/install.sh --uninstall
machine >"$T/after"
diff "$T/before" "$T/after"
"#;

fn machine(script: &str) -> Result<String> {
    let ns = Namespace::new("install")?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let text = format!("set -euo pipefail\ncd {}\n{MACHINE}\n{script}", root.display());
    let mut command = ns.command("unshare", &["-m", "bash", "-c", &text]);
    command.env("WEFT_BIN_DIR", bin::dir()).env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    weft_tests::ns::output(command)
}

#[test]
fn uninstall_leaves_the_machine_as_it_was() {
    as_root(|| machine(ROUND).map(drop));
}

#[test]
fn uninstall_leaves_an_image_as_it_was() {
    as_root(|| {
        machine(
            r#"
            mkdir "$T/image"
            scripts/install.sh --root "$T/image"
            systemctl --root="$T/image" enable weftd.service
            [ -L "$T/image/etc/systemd/system/multi-user.target.wants/weftd.service" ]
            scripts/install.sh --root "$T/image" --uninstall
            left=$(find "$T/image" -mindepth 1)
            [ -z "$left" ] || { echo "left: $left" >&2; exit 1; }"#,
        )
        .map(drop)
    });
}

#[test]
fn an_edited_configuration_stays() {
    as_root(|| {
        let out = machine(
            "scripts/install.sh >/dev/null; echo 'workers = 1' >>/etc/weft/weft.toml
             scripts/install.sh 2>&1 >/dev/null | grep edited
             scripts/install.sh --uninstall 2>&1; tail -n1 /etc/weft/weft.toml; ls /usr/local/bin",
        )?;
        ensure!(out.contains("left as it is: /etc/weft/weft.toml"), "{out}");
        ensure!(
            out.contains("left: /etc/weft/weft.toml") && out.trim_end().ends_with("workers = 1"),
            "{out}"
        );
        Ok(())
    });
}

#[test]
fn the_shipped_configuration_names_every_key() {
    as_root(|| {
        let ns = Namespace::new("keys")?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
        let shipped = std::fs::read_to_string(root.join("deploy/weft.toml"))?;
        // Every setting is a flag, too.
        let help = ns.run(&bin::path("weftd"), &["--help"])?;
        for flag in help.split_whitespace().filter_map(|word| word.strip_prefix("--")) {
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let of_the_command =
                ["config", "check", "purge", "keep-ports", "take-over", "help", "version"].contains(&flag);
            let key = flag.replace('-', "_");
            ensure!(
                of_the_command || shipped.contains(&format!("#{key} = ")),
                "deploy/weft.toml lacks {key}"
            );
        }
        // And with every key set to its default, it is still good.
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("weft.toml");
        let set: String = shipped
            .lines()
            .filter(|line| !line.starts_with("# "))
            .map(|line| format!("{}\n", line.trim_start_matches('#')))
            .filter(|line| !line.starts_with("cluster =") && !line.starts_with("socket_group ="))
            .collect();
        std::fs::write(&file, set)?;
        ns.run(&bin::path("weftd"), &["--check", "--config", &file.to_string_lossy()]).map(drop)
    });
}

/// It is copied onto hosts of any distribution, and started for every pod.
#[test]
fn the_plugin_is_static_small_and_has_one_thread() {
    as_root(|| {
        if std::env::var_os("WEFT_BIN_DIR").is_none() {
            println!("skipped: without WEFT_BIN_DIR the plugin is not built as scripts/build.sh does it");
            return Ok(());
        }
        let plugin = bin::path("weft-cni");
        let size = std::fs::metadata(&plugin)?.len();
        ensure!(size < 2_000_000, "{size} bytes");
        let linked = weft_tests::ns::run("sh", &["-c", &format!("ldd {plugin} 2>&1 || true")])?;
        ensure!(!linked.contains("=>"), "{linked}");
        let config = r#"{"cniVersion":"1.1.0","name":"weft","type":"weft-cni"}"#;
        let line = format!("echo '{config}' | CNI_COMMAND=VERSION strace -f -o /dev/stdout {plugin}");
        let calls = weft_tests::ns::run("sh", &["-c", &line])?;
        ensure!(calls.contains("execve") && calls.contains("\\\"1.1.0\\\""), "{calls}");
        ensure!(!calls.contains("clone(") && !calls.contains("clone3("), "it starts threads: {calls}");
        Ok(())
    });
}
