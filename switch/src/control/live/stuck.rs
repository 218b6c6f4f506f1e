//! AF_XDP devices that do not send what they were given. No error tells of that: the kernel gives no chunk back, and soon
//! every frame finds the queue full.

use std::collections::BTreeSet;

use super::Live;
use crate::port::Device;

/// A device is stuck after so many looks, of a second each, at which nothing had left it.
const STUCK: u32 = 5;

impl Live {
    /// Looks at every port and at the uplink, which is closed when it is stuck. True for a port that is stuck now and was
    /// not, or the other way round; true for another uplink.
    pub fn look_at_queues(&mut self) -> (bool, bool) {
        let stuck = |(name, open): (&String, &super::Open)| match &open.live.device {
            Device::Xdp(xdp) => (xdp.look() >= STUCK).then(|| name.clone()),
            _ => None,
        };
        let stuck: BTreeSet<String> = self.ports.iter().filter_map(stuck).collect();
        for port in stuck.difference(&self.stuck) {
            tracing::warn!(port, "its device does not send what it was given");
        }
        for port in self.stuck.difference(&stuck).filter(|port| self.ports.contains_key(*port)) {
            tracing::info!(port, "its device sends again");
        }
        let changed = stuck != self.stuck;
        self.stuck = stuck;
        let uplink = self.uplink.device().is_some_and(|uplink| uplink.look() >= STUCK);
        if uplink {
            self.end_stuck_uplink();
        }
        (changed, uplink)
    }

    /// What of that works worse than it could.
    pub(super) fn stuck(&self) -> impl Iterator<Item = String> {
        self.stuck.iter().map(|port| format!("port {port}: its device does not send what it was given"))
    }
}
