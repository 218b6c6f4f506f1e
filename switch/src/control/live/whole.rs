//! The device by which superframes leave whole. It is made, or taken over, once frames flow: until then they are cut. One that
//! loses frames is not used for a while, for cutting goes by the sockets, whose errors are seen. Nor is it used while IPsec
//! policies say what becomes of packets that leave the node: they do not see what leaves by the device.

use std::sync::Arc;

use weft_sys::tunnel_gso::TunnelGso;

use super::Live;
use crate::control::holder;

/// For so many looks, of a second each, a device that has lost frames is not used.
const REST: u32 = 30;

/// The device, and what is known of it.
#[derive(Debug)]
pub(super) enum Whole {
    /// The configuration does not want it, or the kernel does not have it.
    Never,
    /// Not looked for yet.
    Wanted,
    Open(Open),
}

#[derive(Debug)]
pub(super) struct Open {
    device: Arc<TunnelGso>,
    /// Frames that it had lost at the last look.
    lost: u64,
    /// Looks until it is used again.
    rests: u32,
    /// There are IPsec policies.
    guarded: bool,
}

impl Open {
    fn is_in_use(&self) -> bool {
        self.rests == 0 && !self.guarded
    }
}

impl Live {
    /// Whether superframes may leave whole.
    #[must_use]
    pub fn with_tunnel_gso(mut self, wanted: bool) -> Self {
        self.whole = if wanted { Whole::Wanted } else { Whole::Never };
        self
    }

    /// True if a held device is of use.
    pub(super) fn wants_tunnel_gso(&self) -> bool {
        !matches!(self.whole, Whole::Never)
    }

    /// Gives the device to underlays that have none.
    pub fn send_whole(&mut self) {
        if self.underlays.is_empty() {
            return;
        }
        if matches!(self.whole, Whole::Wanted) {
            self.whole = match self.open_tunnel_gso() {
                Ok(device) => Whole::Open(Open { device, lost: 0, rests: 0, guarded: has_ipsec() }),
                Err(error) => {
                    tracing::info!(%error, "superframes to other nodes are cut by weftd");
                    Whole::Never
                }
            };
        }
        if let Whole::Open(open) = &self.whole {
            for underlay in self.underlays.values().filter(|underlay| underlay.tunnel_gso().is_none()) {
                underlay.set_tunnel_gso(Arc::clone(&open.device), open.is_in_use());
            }
        }
    }

    /// Looks after the device; says how many frames it has lost since the last look.
    pub fn look_at_tunnel_gso(&mut self) -> u64 {
        let Whole::Open(open) = &mut self.whole else { return 0 };
        let lost = open.device.lost().unwrap_or(open.lost);
        let new = lost.saturating_sub(std::mem::replace(&mut open.lost, lost));
        let before = open.is_in_use();
        if new > 0 {
            tracing::warn!(
                lost = new,
                "superframes had no way to other nodes, or one of a smaller MTU: cut by weftd for {REST} seconds"
            );
            open.rests = REST;
        } else {
            open.rests = open.rests.saturating_sub(1);
        }
        let guarded = has_ipsec();
        if guarded != std::mem::replace(&mut open.guarded, guarded) {
            tracing::info!(
                ipsec = guarded,
                "superframes to other nodes are cut by weftd while there are IPsec policies"
            );
        }
        let in_use = open.is_in_use();
        if in_use != before {
            self.underlays.values().for_each(|underlay| underlay.use_tunnel_gso(in_use));
        }
        new
    }

    fn open_tunnel_gso(&mut self) -> std::io::Result<Arc<TunnelGso>> {
        for held in self.holder.take(holder::TUNNEL_GSO) {
            match TunnelGso::adopt(held) {
                Ok(device) => {
                    let device = Arc::new(device);
                    self.holder.keeps_tunnel_gso(&device);
                    return Ok(device);
                }
                Err(error) => tracing::info!(%error, "a held device for superframes is of no use; made anew"),
            }
        }
        self.holder.let_go(&[holder::TUNNEL_GSO.to_owned()]);
        TunnelGso::create().map(Arc::new)
    }
}

/// True if there are policies, or that cannot be known.
fn has_ipsec() -> bool {
    weft_sys::xfrm::output_policies().map_or(true, |count| count > 0)
}
