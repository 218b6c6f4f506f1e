use serde_json::json;

use crate::session::Exit;
use crate::testing::{Daemon, STATUS};

const BRIDGES: &str = r#"[
    {"spec": {"name": "br1", "owner": "cli", "ageing_seconds": 300, "fdb_max": 16384, "flood_pps": 10000},
     "ports": [], "router_mac": null, "fdb_learned": 0},
    {"spec": {"name": "br0", "owner": "file", "gateways": ["10.244.0.1/24", "fd00:10:244::1/64"], "mtu": 1450,
              "ageing_seconds": 300, "fdb_max": 16384, "flood_pps": 10000},
     "ports": ["weft0", "shop-web", "shop-db", "vx0"], "router_mac": "02:77:65:66:74:01", "fdb_learned": 3}
]"#;

const PORTS: &str = r#"[
    {"spec": {"name": "weft0", "bridge": "br0", "kind": "internal", "owner": "file", "ifname": "weft0",
              "mac": "02:77:65:66:74:02", "ips": ["10.244.0.1/24", "fd00:10:244::1/64"], "mtu": 1450},
     "state": "up", "offloads": ["csum", "tso4", "tso6", "ecn", "uso"],
     "counters": {"rx_frames": 10, "rx_bytes": 1000, "rx_dropped": 0, "tx_frames": 9, "tx_bytes": 900, "tx_dropped": 0}},
    {"spec": {"name": "shop-web", "bridge": "br0", "kind": "tap", "owner": "cni",
              "netns": "/var/run/netns/cni-6c1d", "ifname": "eth0", "mac": "02:00:00:00:00:05",
              "ips": ["10.244.0.5/24", "fd00:10:244::5/64"], "mtu": 1450,
              "external_ids": {"pod": "web-7d4b", "namespace": "shop", "container": "3f9ac1", "network": "weft", "team": "a"}},
     "state": "up", "offloads": ["csum", "tso4", "tso6", "ecn"],
     "counters": {"rx_frames": 812345, "rx_bytes": 9123456789, "rx_dropped": 12, "tx_frames": 400, "tx_bytes": 26400, "tx_dropped": 1}},
    {"spec": {"name": "shop-db", "bridge": "br0", "kind": "tap", "owner": "cli", "netns": "db", "ifname": "eth0",
              "mac": "02:00:00:00:00:06", "ips": ["10.244.0.6/24"], "tag": 5, "trunks": [6, 7], "guard": false, "queues": 2},
     "state": "lost", "error": "eth0 was deleted inside db", "offloads": [],
     "counters": {"rx_frames": 0, "rx_bytes": 0, "rx_dropped": 0, "tx_frames": 0, "tx_bytes": 0, "tx_dropped": 0}},
    {"spec": {"name": "vx0", "bridge": "br0", "kind": "vxlan", "owner": "cli", "vni": 42, "remotes": ["192.0.2.7", "192.0.2.8"], "udp_port": 4789},
     "state": "up", "offloads": [],
     "counters": {"rx_frames": 0, "rx_bytes": 0, "rx_dropped": 0, "tx_frames": 0, "tx_bytes": 0, "tx_dropped": 0}}
]"#;

const FDB: &str = r#"[
    {"bridge": "br0", "vlan": null, "mac": "02:00:00:00:00:09", "port": "vx0", "remote": "192.0.2.7", "is_static": false, "owner": null, "age_seconds": 75},
    {"bridge": "br0", "vlan": 5, "mac": "02:00:00:00:00:06", "port": "shop-db", "remote": null, "is_static": true, "owner": "cli", "age_seconds": 0}
]"#;

const ROUTES: &str = r#"[
    {"bridge": "br0", "dst": "10.244.0.0/24", "via": "local", "owner": "file"},
    {"bridge": "br0", "dst": "10.244.1.0/24", "via": {"tunnel": {"remote": "172.30.0.12", "vni": 1, "mac": "02:00:00:00:00:12", "udp_port": 4789}}, "owner": "file"},
    {"bridge": "br0", "dst": "10.9.0.0/16", "via": {"gateway": {"ip": "10.244.0.9"}}, "owner": "cli"},
    {"bridge": "br0", "dst": "0.0.0.0/0", "via": "node", "owner": "file"}
]"#;

const NEIGHBOURS: &str = r#"[
    {"bridge": "br0", "ip": "10.244.0.5", "mac": "02:00:00:00:00:05", "port": "shop-web", "owner": "cni", "age_seconds": 0},
    {"bridge": "br0", "ip": "10.244.0.77", "mac": "02:00:00:00:00:77", "port": "shop-db", "owner": null, "age_seconds": 75}
]"#;

const TUNNELS: &str = r#"[
    {"node": "n2", "remote": "172.30.0.12", "udp_port": 4789, "vni": 1, "mac": "02:00:00:00:00:12", "layer2": false,
     "prefixes": ["10.244.1.0/24", "fd00:10:244:1::/64"], "tx_packets": 100, "tx_bytes": 140000, "rx_packets": 90,
     "rx_bytes": 126000, "drops": {"bad-checksum": 3, "guard-ip": 4}, "last_heard_seconds": 2},
    {"node": null, "remote": "192.0.2.7", "udp_port": 4789, "vni": 42, "mac": null, "layer2": true, "prefixes": [],
     "tx_packets": 0, "tx_bytes": 0, "rx_packets": 0, "rx_bytes": 0, "drops": {}, "last_heard_seconds": null}
]"#;

const FLOWS: &str = r#"[
    {"worker": 0, "ingress": "shop-web", "key": "10.244.0.5:40000 > 10.244.1.9:80 tcp", "actions": "push vxlan 172.30.0.12 vni 1", "hits": 7, "idle_seconds": 0},
    {"worker": 1, "ingress": "172.30.0.12/1", "key": "10.244.1.9:80 > 10.244.0.5:40000 tcp", "actions": "out shop-web", "hits": 12, "idle_seconds": 61}
]"#;

const STATS: &str = r#"{
    "totals": {"cache_hits": 900, "checksums_computed": 0, "frames": 1000, "superframes_cut": 0},
    "drops": [
        {"reason": "spoofed_ip", "about": "source address is not the port's own", "ports": {"shop-web": 12}, "peers": {"172.30.0.12/1": 4}, "count": 16},
        {"reason": "vni_unknown", "about": "no segment has this VNI", "ports": {}, "peers": {}, "count": 40}
    ],
    "worker_busy_permille": [15, 1000]
}"#;

fn daemon() -> Daemon {
    Daemon::new(&[
        ("/v1/status", STATUS),
        ("/v1/bridges", BRIDGES),
        ("/v1/ports", PORTS),
        ("/v1/fdb", FDB),
        ("/v1/routes", ROUTES),
        ("/v1/neighbours", NEIGHBOURS),
        ("/v1/tunnels", TUNNELS),
        ("/v1/flows?limit=1000", FLOWS),
        ("/v1/stats", STATS),
        ("/v1/transaction", r#"{"outcomes": ["done"], "epoch": 18}"#),
    ])
}

/// What a line prints, with the line above it; it must succeed.
fn shown(daemon: &Daemon, lines: &[&str]) -> String {
    let show = |line: &&str| {
        let (exit, text) = daemon.weft(line);
        assert_eq!(exit, Exit::Ok, "{line}");
        format!("$ weft {line}\n{text}\n")
    };
    lines.iter().map(show).collect()
}

#[test]
fn tree_of_bridges_and_ports() {
    insta::assert_snapshot!(shown(&daemon(), &["show", "show br1"]));
    let none = Daemon::new(&[("/v1/bridges", "[]"), ("/v1/ports", "[]"), ("/v1/status", STATUS)]);
    assert_eq!(none.weft("show"), (Exit::Ok, "no bridge; make one with `weft add-br br0`\n".to_owned()));
}

/// A port and an uplink, copied and not, with and without what is rare. The uplink is of no bridge.
#[test]
fn af_xdp_in_show_and_status() {
    let daemon = daemon();
    for (copies, busy, dropped) in [("false", "false", 0), ("true", "true", 7)] {
        let how =
            format!(r#""mode": "native", "zero_copy": {copies}, "busy_poll": {busy}, "memory": 3158016, "#);
        let port = format!(
            r#"[{{"spec": {{"name": "shop-web", "bridge": "br1", "kind": "afxdp", "owner": "cni"}},
                "state": "up", "offloads": [],
                "xdp": {{"device": "weft0123456789", {how} "dropped": {dropped}}},
                "counters": {{"rx_frames": 0, "rx_bytes": 0, "rx_dropped": 0, "tx_frames": 0, "tx_bytes": 0, "tx_dropped": 0}}}}]"#
        );
        let uplink = format!(
            r#""uplink": {{"device": "eth0", {how} "queues": 2, "peers": 1, "rx_packets": 90, "tx_packets": 100,
                "rx_dropped": {dropped}}}, "pools""#
        );
        daemon.answer("/v1/ports", 200, &port);
        daemon.answer("/v1/status", 200, &STATUS.replace("\"pools\"", &uplink));
        let name = format!("af_xdp_zero_copy_{copies}");
        insta::assert_snapshot!(name, shown(&daemon, &["show", "show br1", "status"]));
    }
}

#[test]
fn tables() {
    insta::assert_snapshot!(shown(
        &daemon(),
        &[
            "fdb show",
            "route show br0",
            "neigh show",
            "tunnel",
            "tunnel n2",
            "flow dump",
            "drops",
            "stats",
            "stats shop-web",
            "status",
            "cluster show",
            "fdb show br1",
        ]
    ));
}

#[test]
fn status_names_what_is_wrong() {
    let daemon = daemon();
    let status = STATUS
        .replace("\"error\": null", "\"error\": \"/etc/weft/cluster.toml:7: expected an IP address\"")
        .replace("\"foreign_chains\": []", "\"foreign_chains\": [\"ip filter FORWARD\"]")
        .replace("\"sysctls\": []", "\"sysctls\": [[\"net.ipv4.ip_forward\", \"0\", \"1\"]]")
        .replace("\"degraded\": []", "\"degraded\": [\"uso: the kernel refuses it\"]");
    daemon.answer("/v1/status", 200, &status);
    insta::assert_snapshot!(shown(&daemon, &["status"]));
}

#[test]
fn json_is_the_api_s_own() {
    let daemon = daemon();
    for (line, expected) in [("fdb show", FDB), ("tunnel", TUNNELS), ("neigh show", NEIGHBOURS)] {
        let (exit, text) = daemon.weft(&format!("-o json {line}"));
        let (mut got, mut want): (Vec<serde_json::Value>, Vec<serde_json::Value>) =
            (serde_json::from_str(&text).unwrap(), serde_json::from_str(expected).unwrap());
        got.sort_by_key(ToString::to_string);
        want.sort_by_key(ToString::to_string);
        assert_eq!((exit, got), (Exit::Ok, want), "{line}");
    }
    let (_, text) = daemon.weft("stats -o json");
    let stats: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(stats["totals"]["superframes_cut"], 0);
    assert_eq!(stats["ports"]["shop-web"]["rx_dropped"], 12);
    let (_, text) = daemon.weft("-o json add-br br7");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["epoch"], 18);
}

#[test]
fn names_as_ovs_vsctl_prints_them() {
    let daemon = daemon();
    assert_eq!(daemon.weft("list-br").1, "br0\nbr1\n");
    assert_eq!(daemon.weft("list-ports br0").1, "shop-db\nshop-web\nvx0\nweft0\n");
    assert_eq!(daemon.weft("port-to-br vx0").1, "br0\n");
    assert_eq!(daemon.weft("br-exists br0").0, Exit::Ok);
    assert_eq!(daemon.weft("br-exists br9").0, Exit::Usage);
    assert_eq!(daemon.weft("port-to-br nope").0, Exit::Failed);
    assert_eq!(daemon.weft("list-ports br9").0, Exit::Failed);
}

#[test]
fn show_may_follow_verbs_that_only_print() {
    let daemon = daemon();
    for verb in ["tunnel", "stats", "drops"] {
        assert_eq!(daemon.weft(&format!("{verb} show")), daemon.weft(verb));
    }
    for line in ["tunnel shows", "stats shows"] {
        assert_eq!(daemon.weft(line), (Exit::Failed, String::new()), "{line}");
    }
    assert_eq!(daemon.weft("drops shows").0, Exit::Usage);
}

/// The message of a line that is refused without asking the daemon for a change.
fn refusal(daemon: &Daemon, line: &str) -> String {
    let socket = daemon.socket().display().to_string();
    let words = ["weft", "--socket", &socket].into_iter().chain(line.split_whitespace());
    let line = crate::cli::Line::parse(&words.map(Into::into).collect::<Vec<_>>()).unwrap();
    let mut session = super::Session::new(line.settings.clone());
    super::execute(&line, &mut session).unwrap_err().to_string()
}

#[test]
fn routes_say_what_is_missing() {
    let daemon = daemon();
    for word in ["via", "tunnel"] {
        let error = refusal(&daemon, &format!("route add br0 10.2.0.0/24 {word}"));
        assert!(error.starts_with(&format!("{word} needs an address")), "{error}");
    }
    for line in ["route add br0 10.55.0.0 local", "route del br0 10.55.0.0"] {
        let words = ["weft"].into_iter().chain(line.split_whitespace());
        let error =
            crate::cli::Line::parse(&words.map(Into::into).collect::<Vec<_>>()).unwrap_err().to_string();
        assert!(error.contains("the prefix length is missing; expected 10.55.0.0/N"), "{error}");
    }
}

#[test]
fn get_prints_values() {
    let daemon = daemon();
    insta::assert_snapshot!(shown(
        &daemon,
        &[
            "get port shop-web mac ip external_ids external_ids:pod statistics:rx_bytes tag",
            "get interface vx0",
            "get bridge br0 gateway mac ageing",
            "--if-exists get port shop-web colour",
            "--if-exists get port nope mac",
            "-o json get port shop-db tag trunks state",
        ]
    ));
    assert_eq!(daemon.weft("get port shop-web colour").0, Exit::Usage);
    for (line, told) in [
        (
            "get port shop-db statistics:bogus",
            "`bogus` is not in statistics of port shop-db; there are: rx_bytes, rx",
        ),
        (
            "get port shop-db external_ids:nope",
            "`nope` is not in external_ids of port shop-db, which is empty",
        ),
        ("get port shop-web external-ids:nope", "there are: container, namespace, network, pod, team"),
        ("get port shop-web mac:nope", "mac of port shop-web has no keys"),
        ("get bridge br0 nope:nope", "`nope:nope` is not a setting of bridge br0; known are:"),
    ] {
        let error = refusal(&daemon, line);
        assert!(error.contains(told), "{line}: {error}");
    }
    assert_eq!(daemon.weft("get port nope mac").0, Exit::Failed);
}

#[test]
fn changes_of_a_line_are_one_transaction() {
    let daemon = daemon();
    let (exit, text) = daemon.weft(
        "--may-exist add-br br0 gateway=10.1.0.1/24 -- add-port br0 vx0 -- \
         set interface vx0 type=vxlan options:remote_ip=192.0.2.7 options:key=42 -- \
         set port web ip=10.1.0.5/24 ip=fd00::5/64 tag= -- set bridge br0 mtu=1400 -- --if-exists del-port br0 old -- \
         del-port p2 -- del-br br9 -- list-br",
    );
    assert_eq!((exit, text.as_str()), (Exit::Ok, "br0\nbr1\n"));
    assert_eq!(daemon.posted().len(), 1);
    insta::assert_json_snapshot!(daemon.posted()[0]);
}

#[test]
fn table_verbs_change() {
    let daemon = daemon();
    let (exit, _) = daemon.weft(
        "fdb add br0 02:00:00:00:00:07 vx0 --vlan 5 --remote 192.0.2.7 -- fdb flush br0 web -- \
         --if-exists fdb del br0 02:00:00:00:00:07 --vlan 5 -- \
         --may-exist route add br0 10.2.0.0/24 tunnel 192.0.2.7 --vni 42 --udp-port 8472 -- \
         route add br0 10.3.0.0/24 via 10.1.0.9 -- route add br0 10.4.0.0/24 unreachable -- route del br0 10.3.0.0/24 -- \
         neigh add br0 10.1.0.9 02:00:00:00:00:09 web -- neigh del br0 10.1.0.9 --if-exists",
    );
    assert_eq!(exit, Exit::Ok);
    insta::assert_json_snapshot!(daemon.posted()[0]);
}

#[test]
fn wrong_lines_change_nothing() {
    let daemon = daemon();
    for line in [
        "add-br br0 -- add-port br0 p colour=red",
        "add-br br0 stp=on",
        "set port p queues=2",
        "route add br0 10.2.0.0/24 somewhere",
        "route add br0 10.2.0.0/24 node --vni 4",
        "route add br0 10.2.0.0/24 via",
        "fdb add br0 nonsense p",
        "del-port",
        "del-port a b c",
        "show -- nonsense",
        "completions tcsh",
    ] {
        assert_eq!(daemon.weft(line).0, Exit::Usage, "{line}");
    }
    assert_eq!(daemon.posted(), Vec::<serde_json::Value>::new());
}

#[test]
fn refusals_name_the_command() {
    let daemon = daemon();
    let body = json!({"code": "owned", "message": "port web belongs to cni", "command": 1}).to_string();
    daemon.answer("/v1/transaction", 409, &body);
    assert_eq!(daemon.weft("add-br br0 -- del-port web -- list-br"), (Exit::Failed, String::new()));

    let refusal: weft_api::ApiError = serde_json::from_str(&body).unwrap();
    let text = super::located(refusal.clone().into(), &["add-br br0", "del-port web"]).to_string();
    assert_eq!(text, "`del-port web`: port web belongs to cni; nothing was changed");
    assert_eq!(super::located(refusal.into(), &["del-port web"]).to_string(), "port web belongs to cni");
}

#[test]
fn completions_are_scripts() {
    let daemon = daemon();
    for shell in ["bash", "zsh", "fish"] {
        let (exit, text) = daemon.weft(&format!("completions {shell}"));
        assert!(exit == Exit::Ok && text.contains("add-port"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let daemon = daemon();
    let socket = daemon.socket().display().to_string();
    let args = ["weft", "--socket", &socket, "show"].map(Into::into).to_vec();
    assert_eq!(super::run(args, &mut Closed), Exit::Ok);
}
