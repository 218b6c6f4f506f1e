//! What XDP program a link has (`IFLA_XDP`, `linux/if_link.h`).
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};

use super::device::by_index;
use super::{Error, Netlink};

/// Where an XDP program runs (`XDP_ATTACHED_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XdpMode {
    /// In the driver, before there is a socket buffer.
    Native,
    /// After the driver.
    Generic,
    /// In the hardware.
    Offloaded,
}

/// A link's XDP program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpProgram {
    /// The program's id, unique on the machine while it is loaded.
    pub id: u32,
    /// Where it runs.
    pub mode: XdpMode,
}

impl Netlink {
    /// The XDP program of a link; the hardware's, else the driver's, if it has several. `None` when there is none, and
    /// for a link that does not exist.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn xdp_program(&mut self, index: u32) -> Result<Option<XdpProgram>, Error> {
        let found = self.get_link(by_index(index), || format!("look the XDP program of link {index} up"))?;
        Ok(found.as_ref().and_then(parse))
    }
}

fn parse(message: &LinkMessage) -> Option<XdpProgram> {
    let attributes = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::Xdp(attributes) => Some(attributes),
        _ => None,
    });
    let programs = attributes.flatten().filter_map(|attribute| {
        let (id, mode) = match attribute {
            LinkXdp::HwProgId(id) => (*id, XdpMode::Offloaded),
            LinkXdp::DrvProgId(id) => (*id, XdpMode::Native),
            LinkXdp::SkbProgId(id) => (*id, XdpMode::Generic),
            _ => return None,
        };
        Some(XdpProgram { id, mode })
    });
    programs.max_by_key(|program| match program.mode {
        XdpMode::Offloaded => 2,
        XdpMode::Native => 1,
        XdpMode::Generic => 0,
    })
}
