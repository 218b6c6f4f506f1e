//! The device by which superframes leave whole: made where it gains something, tended, and left alone for a while when it
//! loses frames, for cutting goes by the sockets, whose errors are seen.

use std::net::IpAddr;
use std::sync::Arc;

use weft_sys::ethtool::Device;
use weft_sys::tunnel_gso::TunnelGso;

use super::Live;
use crate::control::config::TunnelGsoUse;
use crate::control::effects::underlay;
use crate::control::holder;
use crate::port::Underlay;

/// For so many looks, of a second each, a device that has lost frames is not used; twice as long each time.
const REST: u32 = 30;
const LONGEST_REST: u32 = 3600;
/// Looks until a device that could not be made, or was deleted, is made anew.
const PAUSE: u32 = 30;
/// What a device of the underlay has to do itself, or the kernel does it in software, which costs more than to cut here.
const FEATURE: &str = "tx-udp_tnl-csum-segmentation";
/// Drivers that do it with frames like these. Others (`vxlan_features_check`) only with those of a kernel's VXLAN device.
const DRIVERS: [&str; 2] = ["veth", "virtio_net"];

/// The device, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Whole {
    wanted: TunnelGsoUse,
    device: Option<Arc<TunnelGso>>,
    /// Frames that it had lost at the last look.
    lost: u64,
    /// Looks until it is used again, or made.
    rests: u32,
    /// How long the next rest is.
    next_rest: u32,
}

impl Live {
    /// When superframes may leave whole.
    #[must_use]
    pub fn with_tunnel_gso(mut self, wanted: TunnelGsoUse) -> Self {
        self.whole.wanted = wanted;
        self
    }

    /// True if a held device is of use.
    pub(super) fn wants_tunnel_gso(&self) -> bool {
        self.whole.wanted != TunnelGsoUse::Never
    }

    /// The device.
    pub(super) fn tunnel_gso(&self) -> Option<Arc<TunnelGso>> {
        self.whole.device.clone()
    }

    /// Takes up the device of the last run.
    pub fn adopt_tunnel_gso(&mut self) {
        for held in self.holder.take(holder::TUNNEL_GSO) {
            match TunnelGso::adopt(held) {
                Ok(device) => {
                    let device = Arc::new(device);
                    self.holder.keeps_tunnel_gso(&device);
                    self.whole.device = Some(device);
                    self.send_whole();
                    return;
                }
                Err(error) => tracing::info!(%error, "a held device for superframes is of no use"),
            }
        }
        self.holder.let_go(&[holder::TUNNEL_GSO.to_owned()]);
    }

    /// Looks after the device, and makes it when it is wanted; says how many frames it has lost since the last look.
    pub fn look_at_tunnel_gso(&mut self) -> u64 {
        let new = self.tend_tunnel_gso();
        let whole = &mut self.whole;
        if new > 0 {
            whole.next_rest = whole.next_rest.saturating_mul(2).clamp(REST, LONGEST_REST);
            whole.rests = whole.next_rest;
            tracing::warn!(
                lost = new,
                seconds = whole.rests,
                "superframes had no way to other nodes, or one of a smaller MTU; weftd cuts them meanwhile"
            );
        } else {
            whole.rests = whole.rests.saturating_sub(1);
        }
        self.send_whole();
        new
    }

    /// Gives the device to the underlays that gain by it, and takes it from the others.
    fn send_whole(&mut self) {
        let may = self.wants_tunnel_gso() && self.whole.rests == 0 && !has_ipsec();
        let wanted = self.whole.wanted;
        let (gain, others): (Vec<_>, Vec<_>) = self
            .underlays
            .values()
            .partition(|underlay| may && (wanted == TunnelGsoUse::Always || segments(underlay)));
        let device = match (&self.whole.device, gain.is_empty()) {
            (Some(device), _) => Some(Arc::clone(device)),
            (None, true) => None,
            (None, false) => match TunnelGso::create() {
                Ok(device) => Some(Arc::new(device)),
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
                    tracing::info!(%error, "superframes to other nodes are cut by weftd");
                    self.whole.wanted = TunnelGsoUse::Never;
                    None
                }
                Err(error) => {
                    tracing::warn!(%error, "superframes to other nodes are cut by weftd for now");
                    self.whole.rests = PAUSE;
                    None
                }
            },
        };
        gain.iter().for_each(|underlay| underlay.set_tunnel_gso(device.as_ref()));
        others.iter().for_each(|underlay| underlay.set_tunnel_gso(None));
        let is_new = device.is_some() && self.whole.device.is_none();
        self.whole.device = device;
        if is_new {
            self.sync();
        }
    }

    /// Mends the device, or lets it go when it was deleted.
    fn tend_tunnel_gso(&mut self) -> u64 {
        let whole = &mut self.whole;
        let Some(device) = &whole.device else { return 0 };
        let lost = device.lost().unwrap_or(whole.lost);
        let new = lost.saturating_sub(std::mem::replace(&mut whole.lost, lost));
        if let Err(error) = device.tend() {
            tracing::warn!(%error, "the device by which superframes leave whole is gone");
            (whole.device, whole.lost, whole.rests) = (None, 0, PAUSE);
            self.underlays.values().for_each(|underlay| underlay.set_tunnel_gso(None));
            self.sync();
        }
        new
    }
}

/// True if the devices that have the underlay's addresses cut superframes of tunnels, or need not. Of a family without an
/// address of the node's own, nothing leaves whole.
fn segments(underlay: &Underlay) -> bool {
    let config = underlay.config();
    let addresses: Vec<IpAddr> = [config.v4.map(IpAddr::from), config.v6.map(IpAddr::from)]
        .into_iter()
        .flatten()
        .filter(|address| !address.is_unspecified())
        .collect();
    let device_segments = |address| {
        let found = underlay::detect(address).ok()?;
        let device = Device::new(&found.device).ok()?;
        let driver = device.driver().ok()?;
        Some(DRIVERS.contains(&driver.as_str()) && device.has_feature(FEATURE).ok()?)
    };
    !addresses.is_empty() && addresses.into_iter().all(|address| device_segments(address) == Some(true))
}

/// True if policies say what becomes of packets that leave the node (what leaves by the device does not meet them), or that
/// cannot be known.
fn has_ipsec() -> bool {
    weft_sys::xfrm::output_policies().map_or(true, |count| count > 0)
}
