//! Packet bytes: what a frame is made of, how it is read and how it is changed.
//!
//! This crate does no I/O, reads no clock and holds no unsafe code. Every function takes bytes and gives bytes,
//! offsets, or a named [`Reason`] to drop the frame.
#![forbid(unsafe_code)]

/// MAC addresses, VXLAN network identifiers, VLAN identifiers.
pub mod addr;
/// The one list of reasons for which a frame may die.
pub mod reason;

pub use addr::{MacAddr, VlanId, Vni};
pub use reason::Reason;
