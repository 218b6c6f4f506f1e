use std::time::Duration;

use super::*;

const GOOD: &str = r#"
[[node]]
name = "n1"
underlay = "172.30.0.11"
pod_cidrs = ["10.244.0.0/24", "fd00:10:244::/64"]

[[node]]
name = "n2"
underlay = "172.30.0.12"
pod_cidrs = ["10.244.1.0/24"]
mac = "02:00:00:00:00:02"
"#;

fn error(text: &str) -> ClusterError {
    Cluster::parse(text).unwrap_err()
}

/// [`GOOD`] with one replacement.
fn edited(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    GOOD.replacen(from, to, 1)
}

#[test]
fn fills_in_defaults() {
    let cluster = Cluster::parse(GOOD).unwrap();
    assert_eq!((cluster.vni, cluster.port, cluster.node.as_deref()), (None, None, None));
    assert_eq!(
        cluster.cidrs,
        ["10.244.0.0/23".parse().unwrap(), "fd00:10:244::/64".parse::<IpNet>().unwrap()]
    );
    let vni = Vni::new(7).unwrap();
    assert_eq!(cluster.nodes[0].vtep_mac(vni), MacAddr::vtep(cluster.nodes[0].underlay, vni));
    assert_eq!(cluster.nodes[1].vtep_mac(vni).to_string(), "02:00:00:00:00:02");
    let gateways = cluster.nodes[0].gateways();
    assert_eq!(
        gateways.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.244.0.1/24", "fd00:10:244::1/64"]
    );
    assert_eq!(cluster.peers("n1").map(|node| &node.name[..]).collect::<Vec<_>>(), ["n2"]);
    assert!(Cluster::parse("").unwrap().nodes.is_empty());
}

#[test]
fn every_error_has_its_line() {
    let cases = [
        (edited("name = \"n1\"", "name = \"n1\"\ncolour = 1"), 4, "unknown field `colour`"),
        (edited("172.30.0.11", "172.30.0.300"), 4, "is not an IP address"),
        (edited("172.30.0.11", "fe80::1"), 4, "cannot be a node's underlay"),
        (edited("172.30.0.11", "172.30.0.12"), 9, "used by the node at line 4"),
        (edited("\"n2\"", "\"n1\""), 8, "used by the node at line 3"),
        (edited("10.244.1.0/24", "10.244.0.128/25"), 10, "overlaps 10.244.0.0/24 of node `n1` at line 5"),
        (edited("10.244.1.0/24", "10.244.0.0/16"), 10, "overlaps 10.244.0.0/24 of node `n1` at line 5"),
        (edited("10.244.1.0/24", "10.244.1.1/24"), 10, "expected 10.244.1.0/24"),
        (edited("10.244.1.0/24", "10.244.1.0"), 10, "not a prefix"),
        (edited("10.244.1.0/24", "10.244.1.0/31"), 10, "cannot hold pods"),
        (edited("[\"10.244.1.0/24\"]", "[]"), 10, "no pod CIDR"),
        (edited("10.244.1.0/24", "172.30.0.0/24"), 4, "packets to it would loop"),
        (edited("02:00:00:00:00:02", "03:00:00:00:00:02"), 11, "group address"),
        (edited("02:00:00:00:00:02", "02"), 11, "not a MAC address"),
        (edited("underlay = \"172.30.0.12\"\n", ""), 7, "missing field `underlay`"),
        (format!("[cluster]\nvni = 0\n{GOOD}"), 2, "not a VNI"),
        (format!("[cluster]\nvni = x\n{GOOD}"), 2, "; vni is a number from 1 to 16777215"),
        (format!("[cluster]\nport = \"vxlan\"\n{GOOD}"), 2, "; port is a number from 1 to 65535"),
        (format!("[cluster]\nport = 0\n{GOOD}"), 2, "not a UDP port"),
        (format!("[cluster]\nnode = \"n3\"\n{GOOD}"), 2, "expected one of: n1, n2"),
        (
            format!("[cluster]\ncidrs = [\"10.244.0.0/24\", \"fd00::/16\"]\n{GOOD}"),
            12,
            "in none of the cluster's",
        ),
        (edited("[[node]]", "[[node]"), 2, ""),
    ];
    for (text, line, part) in cases {
        let error = error(&text);
        assert!(
            error.line == line && error.message.contains(part),
            "{error}\nwanted line {line}: {part}\n{text}"
        );
        assert!(!error.message.contains('\n'), "{error}");
    }
}

#[test]
fn finds_the_own_entry_or_refuses() {
    let cluster = Cluster::parse(GOOD).unwrap();
    let (one, two): (IpAddr, IpAddr) = (cluster.nodes[0].underlay, cluster.nodes[1].underlay);
    assert_eq!(cluster.own(None, &[two]).unwrap().name, "n2");
    assert_eq!(cluster.own(Some("n1"), &[two]).unwrap().name, "n1");
    assert_eq!(cluster.own(None, &[]), Err(OwnError::NoneLocal));
    assert_eq!(cluster.own(None, &[one, two]), Err(OwnError::Ambiguous("n1, n2".into())));
    assert!(matches!(cluster.own(Some("n3"), &[one]), Err(OwnError::NoSuchName(..))));
    let named = Cluster::parse(&format!("[cluster]\nnode = \"n2\"\n{GOOD}")).unwrap();
    assert_eq!(named.own(None, &[one, two]).unwrap().name, "n2");
    assert_eq!(named.own(Some("n1"), &[one, two]).unwrap().name, "n1");
}

#[test]
fn file_watch_tells_each_change_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    let mut watch = FileWatch::new(&path);
    assert!(watch.poll().unwrap().is_err());
    assert!(watch.poll().is_none());
    fs::write(&path, "a").unwrap();
    assert_eq!(watch.poll().unwrap().unwrap(), "a");
    assert!(watch.poll().is_none());
    // Another file in its place: the same length, and perhaps the same time.
    let other = dir.path().join("new");
    fs::write(&other, "b").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(watch.poll().unwrap().unwrap(), "b");
    std::thread::sleep(Duration::from_millis(10));
    fs::write(&path, "c").unwrap();
    assert_eq!(watch.poll().unwrap().unwrap(), "c");
    fs::remove_file(&path).unwrap();
    assert!(watch.poll().unwrap().is_err());
    assert!(watch.poll().is_none());
}
