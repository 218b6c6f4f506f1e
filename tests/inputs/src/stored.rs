//! Objects of the store: a damaged one is refused, and what is taken is written again as it was read.

use weft_api::Owner;
use weft_switch::control::config::Config;
use weft_switch::control::derive;
use weft_switch::control::plan::plan;
use weft_switch::control::publish::{Devices, Publisher};
use weft_switch::control::state::{NodeNetwork, State};
use weft_switch::control::store::{changes, load_object};

use crate::record;

/// Records of keys and values in turn: the content of a store at start.
pub fn stored(mut data: &[u8]) {
    let mut state = State::default();
    while let Some(key) = record(&mut data) {
        let value = record(&mut data).unwrap_or_default();
        let Ok(key) = std::str::from_utf8(key) else { continue };
        // The daemon refuses the whole file then.
        let _ = load_object(&mut state, key, value);
    }
    comes_back(&state);
    started(state);
}

/// What is kept of a state is all of it but what the file owns.
pub(crate) fn comes_back(state: &State) {
    let mut again = State::default();
    for object in changes(&State::default(), state) {
        let value = object.value.expect("nothing goes");
        if let Err(error) = load_object(&mut again, &object.key, &value) {
            panic!("{} is not read back: {error}", object.key);
        }
    }
    let mut kept = state.clone();
    kept.node = Default::default();
    kept.bridges.retain(|_, bridge| bridge.owner != Owner::File);
    kept.ports.retain(|_, port| port.spec.owner != Owner::File);
    kept.routes.retain(|_, route| route.owner != Owner::File);
    assert_eq!(again, kept);
    assert_eq!(changes(state, state), []);
}

/// Makes it the state of a node with pods.
pub(crate) fn in_network(state: &mut State) {
    let network = NodeNetwork {
        bridge: "br0".into(),
        internal: Some("weft0".into()),
        pod_cidrs: vec!["10.244.1.0/24".parse().expect("a prefix")],
        gateways: vec!["10.244.1.1/24".parse().expect("an address")],
        ..NodeNetwork::default()
    };
    derive::apply(state, &Config::defaults(), network, 1);
}

/// What a start does with it before it touches the machine.
pub(crate) fn started(mut state: State) {
    in_network(&mut state);
    state.drop_dangling(1);
    assert_eq!(state.drop_dangling(1), Vec::<String>::new(), "what dangles goes at once");
    for port in state.ports.values() {
        assert!(state.bridges.contains_key(&port.spec.bridge), "{} has no bridge", port.spec.name);
    }
    for step in plan(&State::default(), &state) {
        assert_eq!(format!("{:?}", step.inverse().inverse()), format!("{step:?}"));
    }
    assert!(plan(&state, &state).is_empty(), "nothing to do");
    let _ = Publisher::default().build(&state, &Devices::default(), 0);
}
