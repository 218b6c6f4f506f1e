//! The IEEE 802.1Q tag. Only one tag is understood; a second one, or an 802.1ad tag, is an opaque ethertype.

use zerocopy::network_endian::U16;

use crate::VlanId;
use crate::wire::header;

header! {
    /// What follows the tag's own ethertype 0x8100.
    Tag, 4 {
        /// Priority (3 bits), drop eligible (1 bit), VLAN identifier (12 bits).
        tci: U16,
        /// Ethertype of what follows.
        ethertype: U16,
    }
}

/// What a tag adds to the length of a frame, bytes.
pub const LEN: usize = Tag::LEN;

/// The VLAN identifier of a tag control word. `None` for 0 (a priority tag) and for 4095 (reserved).
pub const fn id(tci: u16) -> Option<VlanId> {
    VlanId::new(tci & 0x0fff)
}

/// The tag control word of a VLAN with priority 0.
pub const fn tci(id: VlanId) -> u16 {
    id.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tci_splits() {
        assert_eq!(id(0xe000 | 7).unwrap().get(), 7);
        assert!(id(0xe000).is_none() && id(0xffff).is_none());
        let tag = Tag::of(&[0x20, 0x64, 0x08, 0x00]).unwrap();
        assert_eq!(id(tag.tci.get()).unwrap().get(), 100);
        assert_eq!(tag.ethertype.get(), crate::eth::IPV4);
    }
}
