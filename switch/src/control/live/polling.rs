//! Whether AF_XDP sockets, of ports and of the uplink, poll their devices.

use super::Live;
use crate::port::Device;

impl Live {
    /// Whether sockets that are opened from now on poll their devices.
    #[must_use]
    pub fn with_busy_poll(mut self, wanted: bool) -> Self {
        self.busy_poll = wanted;
        self
    }

    /// The same for those that are open, too.
    pub fn set_busy_poll(&mut self, wanted: bool) {
        self.busy_poll = wanted;
        self.ports.iter().for_each(|(name, open)| self.let_poll(name, &open.live.device));
        self.let_uplink_poll();
    }

    /// Tells the socket of a port. Traffic goes on without it where the kernel refuses, and `weft show` does not name it.
    pub(super) fn let_poll(&self, port: &str, device: &Device) {
        if let Device::Xdp(xdp) = device
            && let Err(error) = xdp.set_busy_poll(self.busy_poll)
        {
            tracing::warn!(port, %error, "its socket does not do as `busy_poll` says");
        }
    }

    /// Tells the sockets of the uplink.
    pub(super) fn let_uplink_poll(&self) {
        if let Some(uplink) = self.uplink.device()
            && let Err(error) = uplink.set_busy_poll(self.busy_poll)
        {
            tracing::warn!(%error, "the AF_XDP uplink does not do as `busy_poll` says");
        }
    }
}
