//! The device by which superframes leave whole: made where it gains something, tended, and left alone for a while when it
//! loses frames, for cutting goes by the sockets, whose errors are seen.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use weft_sys::ethtool::Device;
use weft_sys::sysctl::{self, Key};
use weft_sys::tunnel_gso::TunnelGso;
use weft_sys::xfrm::Policies;

use super::{Live, port};
use crate::control::config::TunnelGsoUse;
use crate::control::effects::underlay;
use crate::control::holder;
use crate::port::Underlay;

/// For so many looks, of a second each, a device that has lost frames, or could not be made, is left alone; twice as long each
/// time.
const REST: u32 = 30;
const LONGEST_REST: u32 = 3600;
/// After so many looks without a loss the next rest is a short one again.
const CALM: u32 = 3600;
/// Every so many looks, and after a change of links, the underlays' devices are asked again and the device is tended: that
/// takes milliseconds.
const THOROUGH: u32 = 30;
/// What a device of the underlay has to do itself, or the kernel does it in software, which costs more than to cut here.
const FEATURES: [&str; 4] =
    ["tx-udp_tnl-csum-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"];
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
    /// How long the last rest was.
    last_rest: u32,
    /// Looks without a loss since.
    calm: u32,
    /// Whether the devices that have the underlays' addresses segment tunnels.
    segments: BTreeMap<IpAddr, bool>,
    /// Looks until that is asked again.
    thorough_in: u32,
    policies: Policies,
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
                    return;
                }
                Err(error) => tracing::info!(%error, "a held device for superframes is of no use"),
            }
        }
        self.holder.let_go(&[holder::TUNNEL_GSO.to_owned()]);
    }

    /// Links or addresses changed, maybe what their devices can: superframes leave accordingly at once, and the next look
    /// is a thorough one.
    pub fn look_again_at_devices(&mut self) {
        self.whole.segments.clear();
        self.whole.thorough_in = 0;
        self.send_whole();
    }

    /// Looks after the device, and makes it when it is wanted; says how many frames it has lost since the last look.
    pub fn look_at_tunnel_gso(&mut self) -> u64 {
        let whole = &mut self.whole;
        whole.next_look();
        let lost = whole.device.as_ref().and_then(|device| device.lost().ok()).unwrap_or(whole.lost);
        let new = lost.saturating_sub(std::mem::replace(&mut whole.lost, lost));
        // Later ones had been on their way.
        if new > 0 && whole.rests == 0 {
            let seconds = whole.rest();
            tracing::warn!(
                lost = new,
                seconds,
                "superframes had no way to other nodes, or one of a smaller MTU; weftd cuts them meanwhile"
            );
        }
        self.send_whole();
        if self.whole.thorough_in == THOROUGH {
            self.tend_tunnel_gso();
        }
        new
    }

    /// Gives the device to the underlays that gain by it, and takes it from the others.
    fn send_whole(&mut self) {
        let whole = &mut self.whole;
        // Who wants raw frames of the interface has it beside.
        let may = whole.wanted != TunnelGsoUse::Never && whole.rests == 0 && !self.uplink.is_wanted();
        let (mut gain, mut others): (Vec<_>, Vec<_>) =
            self.underlays.values().partition(|underlay| may && whole.gains(underlay));
        // Their policies do not meet what leaves by the device.
        if !gain.is_empty() && whole.has_ipsec() {
            others.append(&mut gain);
        }
        let is_new = whole.device.is_none() && !gain.is_empty();
        if is_new {
            whole.create();
        }
        gain.iter().for_each(|underlay| underlay.set_tunnel_gso(whole.device.as_ref()));
        others.iter().for_each(|underlay| underlay.set_tunnel_gso(None));
        if is_new {
            self.sync();
        }
    }

    /// Mends the device, or lets it go when it was deleted.
    fn tend_tunnel_gso(&mut self) {
        let whole = &mut self.whole;
        let Some(device) = &whole.device else { return };
        match device.tend() {
            Ok(true) => return,
            Ok(false) => tracing::warn!("the device by which superframes leave whole is gone"),
            Err(error) => {
                tracing::warn!(%error, "the device by which superframes leave whole cannot be tended; made anew");
            }
        }
        if whole.rests == 0 {
            whole.rest();
        }
        whole.lost = 0;
        let device = whole.device.take();
        self.underlays.values().for_each(|underlay| underlay.set_tunnel_gso(None));
        self.sync();
        port::close(device);
    }
}

impl Whole {
    /// Says how long.
    fn rest(&mut self) -> u32 {
        self.last_rest = self.last_rest.saturating_mul(2).clamp(REST, LONGEST_REST);
        self.rests = self.last_rest;
        self.calm = 0;
        self.rests
    }

    fn next_look(&mut self) {
        self.rests = self.rests.saturating_sub(1);
        self.calm = self.calm.saturating_add(1);
        if self.calm == CALM + LONGEST_REST {
            self.last_rest = 0;
        }
        self.thorough_in = self.thorough_in.saturating_sub(1);
        if self.thorough_in == 0 {
            self.segments.clear();
            self.thorough_in = THOROUGH;
        }
    }

    /// True if the devices that have the underlay's addresses cut superframes of tunnels, or need not. Of a family without an
    /// address of the node's own, nothing leaves whole.
    fn gains(&mut self, underlay: &Underlay) -> bool {
        let config = underlay.config();
        let addresses: Vec<IpAddr> = [config.v4.map(IpAddr::from), config.v6.map(IpAddr::from)]
            .into_iter()
            .flatten()
            .filter(|address| !address.is_unspecified())
            .collect();
        // What comes in by IPv6 is handed on as the host's switch says.
        let forwards = |address: &IpAddr| {
            let switch = || sysctl::get(&Key::interface("ipv6", "all", "forwarding")?);
            address.is_ipv4() || switch().is_ok_and(|is| is != "0")
        };
        if addresses.is_empty() || !addresses.iter().all(forwards) {
            return false;
        }
        self.wanted == TunnelGsoUse::Always || addresses.into_iter().all(|address| self.segments(address))
    }

    fn segments(&mut self, address: IpAddr) -> bool {
        let ask = || {
            let device = Device::new(&underlay::detect(address).ok()?.device).ok()?;
            let is_known = DRIVERS.contains(&device.driver().ok()?.as_str());
            Some(is_known && FEATURES.iter().all(|feature| device.has_feature(feature).unwrap_or(false)))
        };
        if let Some(known) = self.segments.get(&address) {
            return *known;
        }
        // Who could not be asked is asked again at the next look.
        let Some(answer) = ask() else { return false };
        self.segments.insert(address, answer);
        answer
    }

    fn create(&mut self) {
        match TunnelGso::create() {
            Ok(device) => self.device = Some(Arc::new(device)),
            Err(error) if error.kind() == std::io::ErrorKind::Unsupported => self.give_up(&error),
            Err(error) => {
                let seconds = self.rest();
                tracing::warn!(%error, seconds, "superframes to other nodes are cut by weftd meanwhile");
            }
        }
    }

    fn give_up(&mut self, why: &std::io::Error) {
        tracing::info!(%why, "superframes to other nodes are cut by weftd");
        self.wanted = TunnelGsoUse::Never;
    }

    /// True if policies say what becomes of packets that leave the node, or that cannot be known.
    fn has_ipsec(&mut self) -> bool {
        match self.policies.outgoing() {
            Ok(count) => count > 0,
            Err(error) => {
                if error.kind() == std::io::ErrorKind::Unsupported {
                    self.give_up(&error);
                }
                true
            }
        }
    }
}
