//! The command `weft` against a real daemon: verbs, transactions, owners, errors, exit codes.

use serde_json::{Value, json};
use weft_tests::traffic::ping;
use weft_tests::{Context, Lab, Namespace, Node, Options, Result, as_root, bin, ensure, eventually};

/// A call that must fail, and what its message must hold.
fn refused(node: &Node, line: &str, message: &str) -> Result<()> {
    let (code, out, error) = node.weft_line(line)?;
    ensure!(code != 0 && error.contains(message), "weft {line}: {code} {out} {error}\nexpected: {message}");
    Ok(())
}

fn accepted(node: &Node, line: &str) -> Result<String> {
    let (code, out, error) = node.weft_line(line)?;
    ensure!(code == 0, "weft {line}: {code} {error}");
    Ok(out)
}

fn one() -> Result<Lab> {
    Lab::up(Options { nodes: 1, ..Options::default() })
}

#[test]
fn bridges_and_ports() {
    as_root(|| {
        let lab = one()?;
        let node = &lab.nodes[0];
        ensure!(accepted(node, "list-br")? == "br0", "a fresh node has br0");
        accepted(node, "add-br lan")?;
        refused(node, "add-br lan", "lan")?;
        accepted(node, "--may-exist add-br lan")?;
        accepted(node, "add-br --may-exist lan")?;
        ensure!(
            node.weft_line("br-exists lan")?.0 == 0 && node.weft_line("br-exists nope")?.0 == 2,
            "br-exists"
        );
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        accepted(node, &format!("add-port lan web type=tap netns={} ip=10.9.0.1/24", a.name()))?;
        accepted(node, &format!("add-port lan db netns={} ip=10.9.0.2/24 -- list-ports lan", b.path()))?;
        ping(&a, "10.9.0.2", 3)?;
        ensure!(accepted(node, "list-ports lan")? == "db\nweb", "list-ports");
        ensure!(accepted(node, "port-to-br web")? == "lan", "port-to-br");
        refused(node, "port-to-br none", "none")?;
        let same = format!("add-port lan web netns=/run/netns/{} ip=10.9.0.1/24 guard=true", a.name());
        accepted(node, &format!("--may-exist {same}"))?;
        accepted(node, "--may-exist add-port lan web")?;
        refused(node, &same, "--may-exist")?;
        for (setting, message) in [
            ("ip=10.9.0.3/24", "port web exists with ip=10.9.0.1/24, not 10.9.0.3/24"),
            ("tag=7", "port web exists with tag=none, not 7"),
            ("netns=elsewhere", "not elsewhere"),
            ("external_ids:role=back", "external_ids:role=none, not back"),
        ] {
            refused(node, &format!("--may-exist add-port lan web {setting}"), message)?;
        }
        refused(node, "--may-exist add-port br0 web", "is on bridge lan, not br0")?;
        accepted(node, "set port web guard=false external_ids:role=front")?;
        ensure!(accepted(node, "get port web guard")? == "false", "get");
        let show = accepted(node, "show")?;
        ensure!(show.contains("lan") && show.contains("web") && show.contains("10.9.0.1/24"), "{show}");
        ensure!(show.contains(a.name()), "show names no namespace: {show}");
        let json: Value = serde_json::from_str(&accepted(node, "-o json show")?)?;
        ensure!(json.to_string().contains("10.9.0.1/24"), "{json}");
        refused(node, "del-port lan none", "none")?;
        accepted(node, "--if-exists del-port lan none")?;
        accepted(node, "del-port lan web")?;
        a.loses("eth0").context("del-port left the device")?;
        accepted(node, "del-br lan")?;
        b.loses("eth0").context("del-br left a device")?;
        refused(node, "del-br lan", "lan")?;
        accepted(node, "--if-exists del-br lan")?;
        Ok(())
    });
}

#[test]
fn transactions_are_all_or_nothing() {
    as_root(|| {
        let lab = one()?;
        let node = &lab.nodes[0];
        let a = Namespace::new("a")?;
        refused(
            node,
            &format!(
                "add-br t1 -- add-port t1 p1 netns={} -- add-port nobridge p2 netns={}",
                a.name(),
                a.name()
            ),
            "nobridge",
        )?;
        ensure!(accepted(node, "list-br")? == "br0", "half a transaction stayed");
        a.loses("eth0").context("half a transaction left a device")?;
        // the kernel refuses the second device: the first goes too
        let second = format!("add-port t2 p2 netns=/run/netns/{}", a.name());
        refused(
            node,
            &format!("add-br t2 -- add-port t2 p1 netns={} -- {second}", a.name()),
            &format!("`{second}`: port p2: interface eth0"),
        )?;
        ensure!(accepted(node, "list-br")? == "br0", "half a transaction stayed");
        a.loses("eth0").context("half a transaction left a device")?;
        accepted(
            node,
            &format!("add-br t3 -- set bridge t3 ageing_seconds=60 -- add-port t3 p1 netns={}", a.name()),
        )?;
        ensure!(accepted(node, "get bridge t3 ageing_seconds")? == "60", "set in a transaction");
        Ok(())
    });
}

#[test]
fn owners_and_bad_input() {
    as_root(|| {
        let lab = one()?;
        let node = &lab.nodes[0];
        let pod = node.pod("p")?;
        let port =
            accepted(node, "list-ports br0")?.lines().find(|p| *p != "weft0").unwrap_or_default().to_owned();
        refused(node, &format!("del-port br0 {port}"), "cni")?;
        refused(node, "del-br br0", "file")?;
        refused(node, "del-port br0 weft0", "file")?;
        ping(&pod.ns, "10.244.1.1", 2)?;
        for (line, message) in [
            ("add-br name-that-is-far-too-long-for-a-bridge", "15"),
            ("add-br a/b", "a/b"),
            ("add-port br0 p1 netns=there-is-none", "there is no /run/netns/there-is-none"),
            ("add-port br0 p1 netns=4194399", "there is no /run/netns/4194399, and no process 4194399"),
            ("add-port br0 p1 colour=red", "colour"),
            ("add-port br0 p1 ip=10.244.1.300/24", "10.244.1.300"),
            (
                "add-port br0 p1 ip=10.9.0.1/24",
                "10.9.0.1 is on none of the subnets of bridge br0 (10.244.1.0/24)",
            ),
            ("add-port br0 p1 ip=fd00:9::1/64", "(fd00:244:0:1::/64)"),
            ("add-port br0 p1 mac=01:00:5e:00:00:01", "01:00:5e:00:00:01"),
            ("add-port br0 p1 tag=4095", "4095"),
            ("add-port br0 p1 type=vhost", "vhost"),
            ("add-port br0 p1 type=vxlan", "vni"),
            ("set bridge br0 nonsense=1", "nonsense"),
            ("set port nobody tag=1", "nobody"),
            ("fdb add br0 02:00:00:00:00:01 nobody", "nobody"),
            ("route add br0 10.1.2.3/8/9 node", "10.1.2.3/8/9"),
        ] {
            refused(node, line, message)?;
        }
        let (code, _, _) = node.weft_line("no-such-verb")?;
        ensure!(code == 2, "usage errors exit with 2, this with {code}");
        let (code, _, error) = node.weft_line("--socket /run/weft-there-is-none.sock show")?;
        ensure!(code == 1 && error.contains("/run/weft-there-is-none.sock"), "{error}");
        Ok(())
    });
}

/// Flags that the environment gives need not be given.
#[test]
fn usage_lines_have_what_must_be_given() {
    let mut command = std::process::Command::new(bin::path("weft"));
    let output =
        command.args(["add-port", "br0"]).env("WEFT_SOCKET", "/nowhere").output().expect("weft runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let usage = said.lines().find(|line| line.starts_with("Usage: "));
    assert_eq!(usage, Some("Usage: weft add-port <BRIDGE> <PORT> [KEY=VALUE]..."), "{said}");
    let output =
        std::process::Command::new(bin::path("weft")).arg("status").env("WEFT_SOCKET", "/nowhere").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).expect("weft runs");
    assert!(said.contains("not running at /nowhere"), "{said}");
}

#[test]
fn a_pod_s_station_is_its_own() {
    as_root(|| {
        let lab = one()?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        let mac = a.result["interfaces"][0]["mac"].as_str().unwrap_or_default().to_owned();
        let message = format!("MAC {mac} of port cni-");
        refused(node, &format!("fdb add br0 {mac} weft0"), &message)?;
        refused(node, &format!("fdb del br0 {mac}"), "belongs to cni; let its container runtime change it")?;
        refused(node, &format!("--if-exists fdb del br0 {mac}"), &message)?;
        refused(
            node,
            &format!("neigh add br0 {} 02:00:00:00:77:01 weft0", a.ip()),
            "belongs to cni; let its container runtime",
        )?;
        ping(&b.ns, &a.ip(), 3)?;
        // Another pod gets no MAC that was given away.
        accepted(node, "fdb add br0 02:00:00:00:77:01 weft0")?;
        let ns = Namespace::new("late")?;
        let add = || node.cni().args("IgnoreUnknown=1;MAC=02:00:00:00:77:01").add(ns.name(), &ns.path());
        let error = add().err().map(|error| error.to_string()).unwrap_or_default();
        let expected = "02:00:00:00:77:01 is a static station behind port weft0; delete it first";
        ensure!(error.starts_with("7: ") && error.contains(expected), "{error}");
        let owners = |mac: &str| -> Result<Vec<Value>> {
            let all = node.weft_json(&["fdb", "show", "br0"])?;
            let found = all.as_array().into_iter().flatten().filter(|entry| entry["mac"] == mac);
            Ok(found.map(|entry| entry["owner"].clone()).collect())
        };
        ensure!(owners(&mac)? == ["cni"] && owners("02:00:00:00:77:01")? == ["cli"], "owners");
        accepted(node, "fdb del br0 02:00:00:00:77:01")?;
        add()?;
        ensure!(owners("02:00:00:00:77:01")? == ["cni"], "the pod has it now");
        ping(&ns, &a.ip(), 3)
    });
}

#[test]
fn tables_and_statistics() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 20)?;
        ensure!(accepted(node, "route show")?.contains("10.244.2.0/24"), "no route to the peer");
        ensure!(accepted(node, "neigh show")?.contains(&a.ip()), "no neighbour");
        ensure!(accepted(node, "tunnel")?.contains("172.30.0.2"), "no peer");
        ensure!(accepted(node, "flow dump")?.contains(&b.ip()), "no flow");
        ensure!(accepted(node, "stats")?.contains("cache_hits"), "no stats");
        accepted(node, "drops")?;
        let mac = a.result["interfaces"][0]["mac"].as_str().unwrap_or_default().to_owned();
        ensure!(accepted(node, "fdb show br0")?.contains(&mac), "a pod's MAC is not in the FDB");
        accepted(node, "fdb add br0 02:00:00:00:77:01 weft0")?;
        ensure!(accepted(node, "fdb show br0")?.contains("02:00:00:00:77:01"), "fdb add");
        accepted(node, "fdb del br0 02:00:00:00:77:01")?;
        accepted(node, "fdb flush br0")?;
        accepted(node, "route add br0 10.99.0.0/16 unreachable")?;
        let out = a.ns.sh("ping -n -c 1 -W 1 10.99.0.1 2>&1 || true")?;
        ensure!(out.to_lowercase().contains("unreachable"), "{out}");
        accepted(node, "route del br0 10.99.0.0/16")?;
        for table in ["fdb show", "route show", "neigh show"] {
            refused(node, &format!("{table} nope"), "no bridge is named nope")?;
        }
        refused(node, "tunnel nope", "no peer is nope")?;
        ensure!(accepted(node, "completions bash")?.contains("weft"), "completions");
        let help = accepted(node, "add-port --help")?;
        ensure!(help.to_lowercase().contains("example"), "{help}");
        Ok(())
    });
}

/// A line of every verb and the keys of what it prints as JSON: of the object, or of each object of the list; none where it
/// is a list of names, or a name.
const JSON: &[(&str, &[&str])] = &[
    ("show", &["bridges", "ports"]),
    ("show br0", &["bridges", "ports"]),
    ("status", &["version", "node", "pid", "ready", "cluster", "pools"]),
    ("status --wait 5", &["version", "ready"]),
    ("add-br lan gateway=10.9.0.1/24", &["outcomes", "epoch"]),
    ("add-port lan web netns=NETNS ip=10.9.0.2/24", &["outcomes", "epoch"]),
    ("list-br", &[]),
    ("list-ports lan", &[]),
    ("port-to-br web", &[]),
    ("set bridge lan mtu=1400", &["outcomes", "epoch"]),
    ("set port web tag=5 guard=off", &["outcomes", "epoch"]),
    ("get bridge lan", &["name", "owner", "mtu", "ports"]),
    ("get port web", &["name", "bridge", "tag", "statistics"]),
    ("get port web mac statistics:rx_bytes", &["mac", "statistics:rx_bytes"]),
    ("--if-exists get port nope mac", &["mac"]),
    ("fdb add lan 02:00:00:00:00:09 web", &["outcomes", "epoch"]),
    ("fdb show", &["bridge", "mac", "port", "owner", "is_static"]),
    ("fdb show lan", &["bridge", "mac", "port", "owner", "is_static"]),
    ("fdb del lan 02:00:00:00:00:09", &["outcomes", "epoch"]),
    ("fdb flush lan", &["outcomes", "epoch"]),
    ("route add lan 10.5.0.0/16 unreachable", &["outcomes", "epoch"]),
    ("route show", &["bridge", "dst", "via", "owner"]),
    ("route del lan 10.5.0.0/16", &["outcomes", "epoch"]),
    ("neigh add lan 10.9.0.9 02:00:00:00:00:09 web", &["outcomes", "epoch"]),
    ("neigh show", &["bridge", "ip", "mac", "port", "owner"]),
    ("neigh del lan 10.9.0.9", &["outcomes", "epoch"]),
    ("tunnel", &["node", "remote", "vni", "last_heard_seconds"]),
    ("tunnel n2", &["node", "remote", "vni", "last_heard_seconds"]),
    ("flow dump", &["worker", "ingress", "key", "actions", "hits"]),
    ("stats", &["totals", "drops", "ports", "worker_busy_permille"]),
    ("stats web", &["rx_frames", "tx_dropped"]),
    ("drops", &["reason", "about", "count"]),
    ("cluster show", &["node", "cluster", "peers"]),
    (
        "cni install --bin-dir DIR --conf-dir DIR --plugin PLUGIN",
        &["files", "others", "cni_versions", "notes"],
    ),
    ("cni uninstall --bin-dir DIR --conf-dir DIR", &["files", "others", "notes"]),
    ("del-port lan web", &["outcomes", "epoch"]),
    ("del-br lan", &["outcomes", "epoch"]),
    ("upgrade", &["version", "pid"]),
];

/// One says it with its exit code, the other prints scripts.
const WITHOUT_JSON: &[&str] = &["br-exists", "completions"];

#[test]
fn every_verb_prints_json() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, keeper: Some(Vec::new()), ..Options::default() })?;
        let cluster = lab.cluster(2);
        lab.nodes[0].write_cluster(&cluster)?;
        lab.nodes[0].start()?;
        let node = &lab.nodes[0];
        let (pod, ns, dir) = (node.pod("p")?, Namespace::new("web")?, tempfile::tempdir()?);
        // Something to list: a flow, and a drop.
        ping(&pod.ns, "10.244.1.1", 2)?;
        pod.ns.sh("ip addr add 10.99.0.1/32 dev eth0; ping -n -c 1 -W 1 -I 10.99.0.1 10.244.1.1 || true")?;
        for (line, keys) in JSON {
            let line = line.replace("NETNS", ns.name()).replace("PLUGIN", &bin::path("weft-cni"));
            let line = line.replace("DIR", &dir.path().to_string_lossy());
            // The flag stands anywhere.
            for line in [format!("-o json {line}"), format!("{line} --output=json")] {
                let once = line.contains("add") || line.contains("del") || line.contains("upgrade");
                if once && line.starts_with("-o") {
                    continue;
                }
                let out = accepted(node, &line)?;
                let value: Value = serde_json::from_str(&out).with_context(|| format!("{line}: {out}"))?;
                let one = value.as_array().map_or(&value, |list| list.first().unwrap_or(&Value::Null));
                let has = |key: &&str| one.get(*key).is_some();
                ensure!(one.is_object() != keys.is_empty() && keys.iter().all(has), "{line}: {out}");
                ensure!(!one.is_null(), "{line}: {out}");
            }
        }
        // One document for the transaction, one for each verb that reads.
        let out = accepted(node, "-o json add-br t -- list-br -- del-br t -- show")?;
        let documents: Vec<Value> =
            serde_json::Deserializer::from_str(&out).into_iter().collect::<std::result::Result<_, _>>()?;
        ensure!(documents.len() == 3 && documents[0]["outcomes"] == json!(["done", "done"]), "{out}");

        let help = accepted(node, "--help")?;
        let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        for verb in verbs.map_while(|line| line.split_whitespace().next()) {
            let is_there = JSON.iter().any(|(line, _)| line.split(' ').any(|word| word == verb));
            ensure!(is_there != WITHOUT_JSON.contains(&verb), "{verb}: no JSON of it is looked at");
        }
        Ok(())
    });
}

#[test]
fn a_foreign_forward_policy_cuts_nobody_off() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        // what Docker does to a host
        lab.nodes[0].ns.sh("nft 'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }'")?;
        let list = "nft list chain ip filter FORWARD";
        let before = lab.nodes[0].ns.sh(list)?;
        not_cut_off(&mut lab, "FORWARD", list)?;
        ensure!(lab.nodes[0].ns.sh(list)? == before, "a rule was left");
        ensure!(!lab.nodes[0].ns.sh("nft list tables")?.contains("weft"), "the table was left");
        Ok(())
    });
}

/// What comes while the daemon runs is seen to as well: what others add, flush and delete.
#[test]
fn a_firewall_that_is_set_up_later_cuts_nobody_off() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(1);
        lab.nodes[0].write_cluster(&cluster)?;
        lab.nodes[0].start()?;
        let ns = &lab.nodes[0].ns;
        // By now it has looked at least once and found nothing to do.
        std::thread::sleep(std::time::Duration::from_secs(12));
        let chain = "ip later forward";
        let is_mended = |what: &str| {
            eventually(12, || {
                let ours = ns.sh(&format!("nft list chain {chain}"))?.matches("comment \"weft\"").count();
                ensure!(ours == 2, "{what}: {ours} rules of weft's");
                ensure!(ns.sh("nft list tables")?.contains("inet weft"), "{what}: the table is gone");
                Ok(())
            })
        };
        ns.sh(&format!("nft 'add table ip later; add chain {chain} {{ type filter hook forward priority 0; policy drop; }}'"))?;
        is_mended("a new chain")?;
        std::thread::sleep(std::time::Duration::from_secs(12));
        ns.sh(&format!("nft flush chain {chain}"))?;
        is_mended("flushed")?;
        ns.sh("nft delete table inet weft")?;
        is_mended("deleted")?;
        Ok(())
    });
}

/// The same by the old iptables, whose tables nft does not see.
#[test]
fn a_foreign_policy_of_the_old_iptables_cuts_nobody_off() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        if lab.nodes[0].ns.sh("iptables-legacy -P FORWARD DROP").is_err() {
            println!("skipped: iptables-legacy is missing, or the kernel has no tables for it");
            return Ok(());
        }
        let list = "iptables-legacy -S FORWARD";
        not_cut_off(&mut lab, "iptables", list)?;
        let rules = lab.nodes[0].ns.sh(list)?;
        ensure!(rules.trim() == "-P FORWARD DROP", "rules were left: {rules}");
        Ok(())
    });
}

/// With a policy that drops in place, a pod reaches the outside, `weft status` names `chain` and `list` shows a rule of
/// weft's. Afterwards the node is stopped and purged.
fn not_cut_off(lab: &mut Lab, chain: &str, list: &str) -> Result<()> {
    let before = lab.nodes[0].ns.sh(list)?;
    let cluster = lab.cluster(1);
    lab.nodes[0].write_cluster(&cluster)?;
    lab.nodes[0].start()?;
    let outside = Namespace::new("outside")?;
    weft_tests::lab::join(&lab.underlay, &outside, 9, &Options::default())?;
    let a = lab.nodes[0].pod("a")?;
    ping(&a.ns, "172.30.0.9", 3)?;
    let status = lab.nodes[0].weft_json(&["status"])?;
    ensure!(status["foreign_chains"].to_string().contains(chain), "{status}");
    let rules = lab.nodes[0].ns.sh(list)?;
    ensure!(rules.contains("weft"), "{rules}");
    lab.nodes[0].stop()?;
    ensure!(lab.nodes[0].ns.sh(list)? == before, "a rule outlives the daemon");
    let mut purge = lab.nodes[0].weftd();
    purge.arg("--purge");
    weft_tests::ns::output(purge).map(drop)
}

#[test]
fn learned_neighbours_are_shown() {
    as_root(|| {
        let lab = one()?;
        let node = &lab.nodes[0];
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        accepted(node, "add-br lan -- set bridge lan gateway=10.9.0.1/24 gateway=10.8.0.1/24")?;
        accepted(node, &format!("add-port lan web netns={} ip=10.9.0.2/24", a.name()))?;
        accepted(node, &format!("add-port lan host netns={} guard=false", b.name()))?;
        b.sh("ip addr add 10.8.0.2/24 dev eth0; ip link set eth0 up; ip route replace default via 10.8.0.1")?;
        // what comes before the answer to the switch's question is lost
        eventually(5, || ping(&a, "10.8.0.2", 1))?;
        let neighbours = node.weft_json(&["neigh", "show", "lan"])?;
        let find = |ip: &str| neighbours.as_array().into_iter().flatten().find(|n| n["ip"] == ip).cloned();
        let (declared, learned) = (find("10.9.0.2"), find("10.8.0.2"));
        ensure!(declared.is_some_and(|n| n["owner"] == "cli" && n["port"] == "web"), "{neighbours}");
        let mac = b.sh("cat /sys/class/net/eth0/address")?;
        ensure!(
            learned.is_some_and(|n| n["owner"].is_null()
                && n["port"] == "host"
                && n["mac"] == mac.trim()
                && n["age_seconds"].as_u64().is_some_and(|age| age < 60)),
            "{neighbours}"
        );
        ensure!(accepted(node, "neigh show lan")?.contains("learned"), "neigh show");
        accepted(node, "del-port lan host")?;
        ensure!(!accepted(node, "neigh show lan")?.contains("10.8.0.2"), "a neighbour without its port");
        Ok(())
    });
}

#[test]
fn a_purge_may_leave_pods_their_ports() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(2);
        lab.nodes[0].write_cluster(&cluster)?;
        lab.nodes[0].start()?;
        let (pod, other) = (lab.nodes[0].pod("p")?, lab.nodes[0].pod("q")?);
        let address = pod.ns.sh("ip -4 -o addr show dev eth0")?;
        // One of the operator's, on the host: none of a pod's.
        accepted(&lab.nodes[0], "add-port br0 host")?;
        ensure!(lab.nodes[0].links()?.contains("host"), "no port on the host");
        lab.nodes[0].stop()?;
        let mut purge = lab.nodes[0].weftd();
        purge.args(["--purge", "--keep-ports"]);
        weft_tests::ns::output(purge)?;
        let links = lab.nodes[0].links()?;
        ensure!(!links.contains("weft0") && !links.contains("host"), "{links:?}");
        ensure!(lab.nodes[0].ns.sh("nft list ruleset")?.is_empty(), "rules were left");
        ensure!(pod.ns.sh("ip -4 -o addr show dev eth0")? == address, "the pod lost its address");
        lab.nodes[0].start()?;
        ensure!(lab.nodes[0].links()?.contains("host"), "its record was to stay");
        ping(&pod.ns, &other.ip(), 3)?;
        ping(&pod.ns, "172.30.0.1", 2)
    });
}

#[test]
fn a_purge_leaves_the_host_as_it_was() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let dump = |ns: &Namespace| {
            ns.sh(
                "ip -d link | sed 's/ *promiscuity.*//' ; ip addr; ip route show table all; ip -6 route show table all; ip rule; ip neigh show nud permanent; nft list ruleset
                 for f in $(find /proc/sys/net/ipv4 /proc/sys/net/ipv6 -type f -perm -600 | grep -vE 'flush|_id$|key$|stable_secret' | sort); do echo $f=$(cat $f 2>/dev/null); done",
            )
        };
        // New devices find out first whether their link-local address is somebody else's.
        eventually(10, || {
            let tentative = lab.nodes[0].ns.sh("ip -6 addr show tentative")?;
            ensure!(tentative.is_empty(), "{tentative}");
            Ok(())
        })?;
        let before = dump(&lab.nodes[0].ns)?;
        let cluster = lab.cluster(2);
        lab.nodes[0].write_cluster(&cluster)?;
        lab.nodes[0].start()?;
        let pod = lab.nodes[0].pod("p")?;
        ping(&pod.ns, "172.30.0.1", 2)?;
        lab.nodes[0].stop()?;
        let mut purge = lab.nodes[0].weftd();
        purge.arg("--purge");
        weft_tests::ns::output(purge)?;
        pod.ns.loses("eth0").context("the pod's device was left")?;
        let after = dump(&lab.nodes[0].ns)?;
        let lines = |text: &str| {
            text.lines().map(str::trim).map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
        };
        let (before, after) = (lines(&before), lines(&after));
        let diff: Vec<_> = before.symmetric_difference(&after).filter(|l| !l.contains("valid_lft")).collect();
        ensure!(diff.is_empty(), "left behind or missing: {diff:#?}");
        Ok(())
    });
}
