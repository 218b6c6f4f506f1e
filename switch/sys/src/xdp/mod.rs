//! AF_XDP: frames of a device's queue, past the kernel's network stack, in memory that this process shares with the
//! kernel (`Documentation/networking/af_xdp.rst`).
//!
//! - `umem`: the memory, in chunks of which each has one owner
//! - `buffer`: a frame's bytes, in a chunk or elsewhere
//! - `socket`: one for one queue of one device; `transfer`: receiving and sending
//! - `program`: what is sent to the sockets: all frames, or those of a VXLAN endpoint
//! - `attach`: a program at a device, never in the place of another
//! - `rings`, `ring`: entries and indices that the kernel sees, too
//! - `mapping`: memory shared with the kernel
//! - `sole`: a socket's rings have one user
mod attach;
mod buffer;
mod mapping;
mod program;
mod ring;
mod rings;
mod socket;
mod sole;
mod transfer;
mod umem;

pub use crate::link::XdpMode;
pub use attach::{Attachment, Want, refuse_beside_another};
pub use buffer::Buffer;
pub use program::{Endpoints, Program, XskMap};
pub use rustix::net::xdp::XdpStatistics;
pub use socket::{CopyMode, Place, XdpOptions, XdpSocket};
pub use transfer::MAX_PIECES;
pub use umem::{CHUNK_SIZES, Chunk, HEADROOM, MAX_SIZE, Piece, Umem};

#[cfg(test)]
mod tests;
