//! What the command `weft` prints about a real node, whole: tables, trees, errors with their exit codes.

use weft_tests::traffic::ping;
use weft_tests::{Context, Lab, Namespace, Node, Options, Result, as_root, ensure};

/// What lines print and how they end, each below its own.
fn shown(node: &Node, lines: &[&str]) -> Result<String> {
    let mut all = String::new();
    for line in lines {
        let (code, out, error) = node.weft_line(line)?;
        all.push_str(&format!("$ weft {line}\n"));
        for text in [out, error].iter().filter(|text| !text.is_empty()) {
            all.push_str(&format!("{text}\n"));
        }
        if code != 0 {
            all.push_str(&format!("[exit code {code}]\n"));
        }
        all.push('\n');
    }
    Ok(all.replace(&*node.file("").to_string_lossy(), "DIR/"))
}

/// Without what differs from run to run and from machine to machine. Columns are two spaces apart, as their widths differ.
fn redacted() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    for (pattern, with) in [
        (r"\bwt-\d+-\d+-", "wt-"),
        (r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC"),
        (r"weftd \d+\.\d+\.\d+\S*, pid \d+, up [^,]+,", "weftd VERSION, pid PID, up TIME,"),
        (r"(\S) {2,}", "$1  "),
        (r"(?m)^(workers(?: busy)?  ).*$", "${1}LOAD"),
        // Counters of the switch, of ports, of peers.
        (
            r"(?m)^([a-z]+_[a-z_]+|batches|bytes|dropped|epoch|frames|learned|neighbours|punts|wakeups)  \d+$",
            "$1  N",
        ),
        (r"(?m)^(\S+)(?:  \d+){6}$", "$1  N  N  N  N  N  N"),
        (r"(routed|layer 2)(?:  \d+){5}  .*", "$1  N  N  N  N  N  WHEN"),
        // What this kernel has, and what it was set to.
        (r"(offloads  ).*", "${1}OFFLOADS"),
        (r"(?m)^(?:sysctl|degraded|foreign chain)  .*\n", ""),
    ] {
        settings.add_filter(pattern, with);
    }
    settings
}

/// Node n1 with a pod, a bridge of the operator's with a port and a segment to n2, static entries and a route.
fn furnished(lab: &Lab, pod: &Namespace, db: &Namespace) -> Result<()> {
    let node = &lab.nodes[0];
    node.cni().add("web", &pod.path())?;
    node.weft_line(&format!(
        "add-br lan gateway=10.9.0.1/24 ageing-seconds=60 -- \
         add-port lan db netns={} ip=10.9.0.2/24 trunks=8,9 external_ids:team=shop -- \
         add-port lan vx type=vxlan vni=42 remote=172.30.0.2 -- \
         fdb add lan 02:00:00:00:00:07 vx --vlan 8 --remote 172.30.0.2 -- \
         route add lan 10.5.0.0/16 via 10.9.0.2 -- neigh add lan 10.9.0.7 02:00:00:00:00:07 vx",
        db.name()
    ))
    .and_then(|(code, _, error)| {
        ensure!(code == 0, "{error}");
        Ok(())
    })
}

#[test]
fn tables_and_trees() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (pod, db) = (Namespace::new("web")?, Namespace::new("db")?);
        furnished(&lab, &pod, &db)?;
        let _redacted = redacted().bind_to_scope();
        insta::assert_snapshot!("show", shown(node, &["show"])?);
        insta::assert_snapshot!(
            "names",
            shown(
                node,
                &[
                    "list-br",
                    "list-ports lan",
                    "port-to-br db",
                    "br-exists lan",
                    "get bridge lan gateway ageing-seconds ports owner",
                    "get port db ip trunks external_ids external_ids:team tag state",
                ]
            )?
        );
        insta::assert_snapshot!(
            "tables",
            shown(
                node,
                &[
                    "fdb show",
                    "fdb show lan",
                    "route show",
                    "neigh show",
                    "tunnel",
                    "tunnel n2",
                    "stats",
                    "stats db",
                    "status",
                    "cluster show",
                ]
            )?
        );
        Ok(())
    });
}

#[test]
fn drops_of_one_reason() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let pod = Namespace::new("web")?;
        node.cni().add("web", &pod.path())?;
        // The second time not from its own address: the source guard's.
        ping(&pod, "10.244.1.1", 1)?;
        pod.sh("ip addr add 10.9.9.9/32 dev eth0; ping -n -c 1 -W 1 -I 10.9.9.9 10.244.1.1 || true")?;
        let (code, out, error) = node.weft_line("drops")?;
        ensure!(code == 0, "{error}");
        let lines = out.lines().enumerate();
        let kept: Vec<&str> =
            lines.filter(|(at, line)| *at == 0 || line.contains("guard-ip")).map(|(_, line)| line).collect();
        let mut settings = redacted();
        settings.add_filter(r"\b(cni-[0-9a-f]{16}) \d+", "$1 N");
        settings.add_filter(r"(?m)^ *\d+  ", "N  ");
        settings.bind(|| insta::assert_snapshot!("drops", kept.join("\n")));
        Ok(())
    });
}

#[test]
fn errors_and_exit_codes() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (pod, db) = (Namespace::new("web")?, Namespace::new("db")?);
        furnished(&lab, &pod, &db)?;
        let of_pod = node.weft(&["list-ports", "br0"])?;
        let of_pod = of_pod.lines().find(|name| *name != "weft0").unwrap_or_default().to_owned();
        let mac = node.weft(&["get", "port", &of_pod, "mac"])?.trim().to_owned();
        let _redacted = redacted().bind_to_scope();
        insta::assert_snapshot!(
            "errors",
            shown(
                node,
                &[
                    // not there
                    "list-ports nope",
                    "port-to-br nope",
                    "br-exists nope",
                    "fdb show nope",
                    "tunnel nope",
                    "get port nope mac",
                    "add-port nope p1",
                    "del-br nope",
                    "del-port lan nope",
                    "--if-exists del-port lan nope",
                    "fdb del lan 02:00:00:00:00:99",
                    "route del lan 10.6.0.0/16",
                    // there already
                    "add-br lan",
                    "add-port lan db",
                    "--may-exist add-port lan db",
                    "--may-exist add-port lan db tag=7",
                    "--may-exist add-port br0 db",
                    "--may-exist add-br lan ageing-seconds=60",
                    "--may-exist add-br lan mtu=1400",
                    // somebody else's
                    "del-br br0",
                    "del-port weft0",
                    &format!("del-port {of_pod}"),
                    &format!("set port {of_pod} guard=off"),
                    "set bridge br0 mtu=1400",
                    &format!("fdb add br0 {mac} weft0"),
                    &format!("fdb del br0 {mac}"),
                    "route del br0 10.244.2.0/24",
                    "route del br0 10.244.0.0/16",
                    "neigh add br0 10.244.1.1 02:00:00:00:00:07 weft0",
                    // out of range
                    "route add lan 0.0.0.0/0 node",
                    "add-port lan p1 ip=10.8.0.1/24",
                    "add-port lan p1 mac=01:00:5e:00:00:01",
                    "add-port lan p1 netns=there-is-none",
                    // not understood
                    "no-such-verb",
                    "add-port lan p1 colour=red",
                    "set bridge lan nonsense=1",
                    "--socket DIR/none.sock status",
                ]
            )?
        );
        insta::assert_snapshot!(
            "bad_transaction",
            shown(
                node,
                &[
                    "show lan",
                    &format!(
                        "add-br t1 -- add-port t1 p1 netns={} ifname=eth1 -- del-port db -- set bridge lan mtu=1400 -- del-port nope",
                        db.name()
                    ),
                    "show lan",
                    "list-br",
                ]
            )?
        );
        db.loses("eth1").context("half a transaction left a device")?;
        Ok(())
    });
}
