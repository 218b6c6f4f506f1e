//! rtnetlink (`linux/rtnetlink.h`, RFC 3549): links, addresses, routes and neighbours of the *current* namespace.
//!
//! One [`Netlink`] is one blocking socket, reused for every request (a request takes 10 to 50 microseconds). It stays
//! in the namespace of the thread that made it, also when used from another thread. [`LinkMonitor`] is a second,
//! non-blocking socket that hears of changes.
//!
//! - `socket`: request, acknowledgement, dump, errors
//! - `device`: links
//! - `addr`: addresses
//! - `route`: routes
//! - `neigh`: neighbours
//! - `xdp`: the XDP program of a link
//! - `monitor`: changes as they happen
pub mod addr;
pub mod device;
pub mod monitor;
pub mod neigh;
pub mod route;
pub mod socket;
pub mod xdp;

pub use addr::{AddrFlags, Address};
pub use device::{Link, LinkChange, TunInfo};
pub use monitor::{Event, LinkMonitor};
pub use neigh::Neighbour;
pub use route::{MAIN_TABLE, RTPROT_WEFT, Route, RouteKind};
pub use socket::{Error, Netlink};
pub use xdp::{XdpMode, XdpProgram};

#[cfg(test)]
mod tests;
