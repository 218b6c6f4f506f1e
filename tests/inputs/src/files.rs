//! Files that people edit: configuration and cluster file.

use std::collections::HashSet;
use std::path::Path;

use weft_encap::Vni;
use weft_switch::control::cluster::Cluster;
use weft_switch::control::config::{Config, ConfigError};
use weft_switch::control::derive::{Machine, node_network};

/// `weft.toml`: what is taken is in range, what is refused names a line that is there.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::of_text(Path::new("/etc/weft/weft.toml"), text) {
        Ok(config) => {
            assert!(config.run_dir.is_absolute() && config.socket.is_absolute());
            assert!(config.mtu.is_none_or(|mtu| (1280..=65_521).contains(&mtu)));
            assert!(config.local_mtu.is_none_or(|mtu| (1280..=65_521).contains(&mtu)));
            assert!(config.vxlan_port > 0 && config.workers <= 64);
            node_network(&config, None, &Machine::default()).expect("alone, a node needs no entry");
        }
        Err(ConfigError::Line { line, message, .. }) => named(text, line, &message),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// `cluster.toml`: what is taken is consistent, what is refused names a line that is there.
pub fn cluster(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let cluster = match Cluster::parse(text) {
        Ok(cluster) => cluster,
        Err(error) => return named(text, error.line, &error.message),
    };
    let names: HashSet<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    let underlays: HashSet<_> = cluster.nodes.iter().map(|node| node.underlay).collect();
    assert_eq!(
        (names.len(), underlays.len()),
        (cluster.nodes.len(), cluster.nodes.len()),
        "nodes are told apart"
    );
    let prefixes: Vec<_> = cluster.nodes.iter().flat_map(|node| &node.pod_cidrs).collect();
    for (index, a) in prefixes.iter().enumerate() {
        assert_eq!(a.trunc(), **a);
        assert!(cluster.cidrs.iter().any(|cidr| cidr.contains(*a)), "{a} is the cluster's");
        assert!(prefixes[index + 1..].iter().all(|b| !a.contains(*b) && !b.contains(*a)), "{a} overlaps");
        assert!(!underlays.iter().any(|ip| a.contains(ip)), "packets would loop");
    }
    let vni = cluster.vni.or(Vni::new(1)).expect("in range");
    for node in &cluster.nodes {
        assert_eq!(cluster.own(Some(&node.name), &[]), Ok(node));
        assert_eq!(cluster.peers(&node.name).count(), cluster.nodes.len() - 1);
        assert!(node.vtep_mac(vni).is_unicast());
        let config = Config { node: Some(node.name.clone()), ..Config::defaults() };
        let network =
            node_network(&config, Some(&cluster), &Machine::default()).expect("the node is in the file");
        assert_eq!(network.gateways.len(), node.pod_cidrs.len());
        if cluster.nodes.len() > 100 {
            break;
        }
    }
}

fn named(text: &str, line: usize, message: &str) {
    let lines = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    assert!((1..=lines).contains(&line), "line {line} of {lines}: {message}");
    assert!(!message.is_empty());
}
