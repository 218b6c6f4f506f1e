//! States that tests of several modules start from.

use std::sync::Arc;

use weft_encap::{MacAddr, Vni};

use super::config::Config;
use super::derive;
use super::state::{NodeNetwork, Peer, State, Vtep};

/// Node n1 with pods 10.244.1.0/24, peer n2 at 192.0.2.2 with 10.244.2.0/24, bridge br0, port weft0.
pub(crate) fn state_with_cluster() -> State {
    let vni = Vni::new(1).unwrap();
    let network = NodeNetwork {
        name: Some("n1".into()),
        bridge: "br0".into(),
        internal: Some("weft0".into()),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        gateways: vec!["10.244.1.1/24".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
        vtep: Some(Vtep {
            underlay: "192.0.2.1".parse().unwrap(),
            vni,
            port: 4789,
            mac: MacAddr::vtep("192.0.2.1".parse().unwrap(), vni),
        }),
        peers: vec![Peer {
            name: "n2".into(),
            underlay: "192.0.2.2".parse().unwrap(),
            mac: MacAddr::vtep("192.0.2.2".parse().unwrap(), vni),
            pod_cidrs: vec!["10.244.2.0/24".parse().unwrap()],
        }],
        underlay_mtu: Some(1500),
        mtu_override: None,
        masquerade: true,
        notrack: true,
        has_ipv6: true,
    };
    let mut state = State { node: Arc::default(), ..State::default() };
    derive::apply(&mut state, &Config::defaults(), network, 0);
    state
}
