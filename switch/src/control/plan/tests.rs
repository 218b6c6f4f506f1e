use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_api::{Owner, PortSpec};

use super::*;
use crate::control::testing::state_with_cluster;

/// What steps act on: the devices, sockets and host network that are there.
#[derive(Clone, Debug, Default, PartialEq)]
struct World {
    devices: BTreeMap<String, Option<DeviceSpec>>,
    underlays: BTreeMap<u16, UnderlayConfig>,
    host: Option<HostSpec>,
}

impl World {
    fn of(state: &State) -> World {
        let ports = state.ports.iter().filter(|(_, port)| has_device(port));
        World {
            devices: ports.map(|(name, port)| (name.clone(), device(state, port))).collect(),
            underlays: underlays(state),
            host: host(state),
        }
    }

    /// Carries a step out as the kernel would: what exists cannot be made, what does not cannot be taken away.
    fn carry_out(&mut self, step: &Step, state: &State) {
        match step {
            Step::Destroy(port) => assert!(self.devices.remove(&port.spec.name).is_some()),
            Step::Create(port) => {
                assert!(self.devices.insert(port.spec.name.clone(), device(state, port)).is_none());
            }
            Step::Change { new, .. } => {
                assert!(self.devices.insert(new.spec.name.clone(), device(state, new)).is_some());
            }
            Step::OpenUnderlay(config) => assert!(self.underlays.insert(config.port, *config).is_none()),
            Step::CloseUnderlay(config) => assert!(self.underlays.remove(&config.port).is_some()),
            Step::Host { old, new } => {
                assert_eq!(self.host.as_ref(), old.as_deref());
                self.host = new.as_deref().cloned();
            }
        }
    }
}

fn port() -> impl Strategy<Value = (PortSpec, bool)> {
    let names = prop::sample::select(vec!["a", "b", "c", "d"]);
    (names, 0u8..4, any::<bool>(), prop::option::of(1300u32..1302), 1u8..3, any::<bool>()).prop_map(
        |(name, ip, vxlan, mtu, queues, lost)| {
            let kind = if vxlan { PortKind::Vxlan } else { PortKind::Tap };
            let mut spec = PortSpec::new(name, "br0", kind, Owner::Cli);
            if vxlan {
                spec.udp_port = Some(4789 + u16::from(ip % 2));
            } else {
                spec.ips = vec![format!("10.244.1.{}/24", ip + 2).parse().unwrap()];
                (spec.mtu, spec.queues) = (mtu, queues);
            }
            (spec, lost && !vxlan)
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    (prop::collection::vec(port(), 0..6), 1400u32..1402, any::<bool>()).prop_map(|(ports, mtu, cluster)| {
        let mut state = state_with_cluster();
        let mut node = (*state.node).clone();
        node.underlay_mtu = Some(mtu);
        if !cluster {
            (node.vtep, node.peers) = (None, Vec::new());
        }
        state.node = node.into();
        for (spec, lost) in ports {
            let mut record = PortRecord::new(spec);
            record.lost = lost.then(|| "gone".to_owned());
            state.put_port(record);
        }
        state.follow_mtu();
        state
    })
}

proptest! {
    #[test]
    fn equal_states_have_no_steps(state in state()) {
        prop_assert!(plan(&state, &state).is_empty());
    }

    #[test]
    fn steps_lead_from_old_to_new_and_back(old in state(), new in state()) {
        let steps = plan(&old, &new);
        let mut world = World::of(&old);
        for step in &steps {
            world.carry_out(step, &new);
        }
        prop_assert_eq!(&world, &World::of(&new));
        for step in steps.iter().rev() {
            world.carry_out(&step.inverse(), &old);
        }
        prop_assert_eq!(world, World::of(&old));
    }

    #[test]
    fn what_does_not_differ_is_left_alone(old in state(), new in state()) {
        let same: BTreeSet<_> = old.ports.iter().filter(|(name, port)| {
            new.ports.get(*name).is_some_and(|is| is == *port && device(&old, port) == device(&new, is))
        }).map(|(name, _)| name.clone()).collect();
        for step in plan(&old, &new) {
            if let Step::Destroy(port) | Step::Create(port) | Step::Change { new: port, .. } = step {
                prop_assert!(!same.contains(&port.spec.name));
            }
        }
    }
}
