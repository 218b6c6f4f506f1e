//! Devices and sockets whose descriptors were held while no daemon ran, or that another process hands over.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use weft_api::PortKind;
use weft_sys::netns::Netns;
use weft_sys::udp::UdpSocket;

use super::{Live, Opened};
use crate::control::effects::EffectError;
use crate::control::effects::port::{self, LivePort};
use crate::control::effects::veth;
use crate::control::holder::{self, Holder};
use crate::control::plan::{self, device};
use crate::control::state::{PortRecord, State};
use crate::control::watch::{self, NetnsName};
use crate::port::Device;
use crate::port::underlay::SocketSpec;

impl Live {
    /// Lets go of descriptors of the last run that `state` has no use for.
    pub fn refuse_unwanted(&mut self, state: &State) {
        let ports = state.ports.values().filter(|record| record.lost.is_none());
        let taps = ports.flat_map(|record| names(record));
        let sockets = plan::underlays(state).into_values().flat_map(|config| {
            config.sockets().map(move |spec| holder::socket_name(config.port, spec.addr.is_ipv6(), spec.role))
        });
        let whole = self.wants_tunnel_gso().then(|| holder::TUNNEL_GSO.to_owned());
        let uplink = self.wants_uplink();
        let wanted: BTreeSet<String> = taps.chain(sockets).chain(whole).collect();
        self.holder.refuse(|name| wanted.contains(name) || uplink && holder::is_of_uplink(name));
    }

    /// After the start: whatever of the last run was not asked for goes, and the service manager holds what is open.
    pub fn settle(&mut self) {
        self.holder.refuse(|_| false);
        self.sync();
    }

    /// The service manager listens to this process from now on: it is told what it is to hold.
    pub fn speak(&mut self) {
        self.holder.speak();
        self.sync();
    }

    /// Tells the service manager again what it did not take.
    pub fn catch_up(&mut self) {
        if self.holder.is_behind() {
            self.sync();
        }
    }

    /// How many ports came back with their descriptors, device and queue untouched.
    pub fn adopted(&self) -> usize {
        self.adopted.len()
    }

    /// Does for one port that came back with its descriptors what could wait until frames flow again. False: there is
    /// none left.
    pub fn refit_one(&mut self, state: &State) -> bool {
        let Some(name) = self.adopted.pop() else { return false };
        let (Some(open), Some(record)) = (self.ports.get(&name), state.ports.get(&name)) else { return true };
        if let Device::Xdp(xdp) = &open.live.device {
            xdp.settle_in();
        }
        let Some(spec) = device(state, record) else { return true };
        if let Err(error) = port::refit(&spec, &open.netns) {
            tracing::warn!(port = name, %error, "the MTU of a port that came back");
        }
        true
    }

    /// Takes a stored port up again by the descriptors that were held meanwhile, if they are what they should be.
    /// Where another process still has them (`in_use`), [`Live::activate`] is to be called when it has stopped.
    pub fn adopt(&mut self, state: &State, record: &PortRecord, in_use: bool) -> Option<Opened> {
        let name = &record.spec.name;
        let names = names(record);
        let offered: Vec<_> = names.iter().map(|name| self.holder.take(name)).collect();
        if offered.iter().all(Vec::is_empty) {
            return None;
        }
        let adopted = self.adopted_device(state, record, offered).and_then(|(live, netns)| {
            if let (Device::Xdp(xdp), false) = (&live.device, in_use) {
                xdp.activate().map_err(EffectError::io("take the AF_XDP socket over"))?;
            }
            Ok((live, netns))
        });
        match adopted {
            Ok((live, netns)) => {
                if let Some(kept) = &record.netns {
                    self.names.insert(name.clone(), NetnsName::new(kept, None));
                }
                for held in names {
                    self.holder.keeps_device(held, &live.device);
                }
                self.adopted.push(name.clone());
                Some(self.keep(name, record.spec.queues, live, netns, record.netns.clone()))
            }
            Err(error) => {
                tracing::info!(port = name, %error, "its held descriptor is of no use");
                self.refused.extend(names);
                None
            }
        }
    }

    /// Lets the service manager close the descriptors that [`Live::adopt`] had no use for, before devices are attached
    /// to by name: a device of one queue is attached to only once.
    pub fn let_go_of_refused(&mut self) {
        self.holder.let_go(&std::mem::take(&mut self.refused));
    }

    fn adopted_device(
        &self,
        state: &State,
        record: &PortRecord,
        offered: Vec<Vec<OwnedFd>>,
    ) -> Result<(LivePort, Arc<Netns>), EffectError> {
        let spec = device(state, record).ok_or_else(|| EffectError::Invalid("it has no device".into()))?;
        let netns = match &record.netns {
            None => Arc::clone(&self.own),
            Some(kept) => match watch::reopen(kept).map_err(EffectError::io("open its namespace"))? {
                Some(netns) => Arc::new(netns),
                None => return Err(EffectError::Invalid("its namespace is gone".into())),
            },
        };
        if record.spec.kind == PortKind::Afxdp {
            let parts: Vec<OwnedFd> = offered.into_iter().filter_map(|mut one| one.pop()).collect();
            let parts =
                parts.try_into().map_err(|_| EffectError::Invalid("a descriptor is missing".into()))?;
            return veth::adopt(&record.spec.name, &spec, &netns, parts).map(|live| (live, netns));
        }
        let index = record.tap.as_ref().map(|tap| tap.ifindex);
        port::adopt(&spec, index, &netns, offered).map(|live| (live, netns))
    }

    /// A socket that was held meanwhile, if it is what it should be.
    pub(super) fn inherit(holder: &mut Holder, port: u16, spec: &SocketSpec) -> Option<UdpSocket> {
        let name = holder::socket_name(port, spec.addr.is_ipv6(), spec.role);
        let offered = holder.take(&name);
        if offered.is_empty() {
            return None;
        }
        for fd in offered {
            match UdpSocket::adopt(fd, spec.addr, &spec.options) {
                Ok(socket) => return Some(socket),
                Err(error) => tracing::info!(name, %error, "a held socket is of no use; bound anew"),
            }
        }
        holder.let_go(&[name]);
        None
    }

    pub(super) fn sync(&mut self) {
        let devices = self.devices();
        self.holder.sync(&devices);
    }
}

/// Under which names the descriptors of a port's device are held.
fn names(record: &PortRecord) -> Vec<String> {
    holder::port_names(&record.spec.name, record.spec.kind, record.spec.queues)
}
