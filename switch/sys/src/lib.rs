//! Thin typed wrappers of the Linux kernel: the only crate of weft that contains `unsafe`.
//!
//! What lives here is what the kernel says and takes, one subject per file, without policy: no configuration,
//! no logging, no retry. Every wrapper names the kernel header or function that it mirrors. Functions that act on
//! "the current namespace" mean the network namespace of the *calling thread*; use [`netns::Netns::run`] to act
//! in another one.
//!
//! - `netns`: network namespaces by descriptor, and running code inside one
//! - `tun`: TAP devices with vnet header and offloads
//! - `tunnel_gso`: a device that takes VXLAN superframes whole
//! - `udp`: underlay sockets with `UDP_SEGMENT`, `UDP_GRO` and ECN
//! - `xdp`: AF_XDP sockets, the memory they share with the kernel, and the programs that feed them
//! - `packet`: packet sockets that send superframes by a device
//! - `ethtool`: drivers and features of devices
//! - `nftables`: has anybody changed it; `xfrm`: are there IPsec policies
//! - `seqpacket`: Unix sequenced-packet sockets that carry descriptors
//! - `link`: rtnetlink requests (links, addresses, routes, neighbours) and a change monitor
//! - `checksum`: sums and summing copies by the CPU's vectors
//! - `sysctl`: `/proc/sys` of the current namespace
//! - `pathid`: does a name in a directory still mean the same file
//! - `machine`: CPUs, boot id, monotonic clock, host name
//! - `notify`: the service manager's protocol, both ends
//! - `listen`: descriptors passed by the service manager
//! - `privilege`: giving up capabilities and system calls
//! - `process`: children that inherit descriptors, signals as a descriptor
//! - `thread`: what a thread costs
#![deny(unsafe_op_in_unsafe_fn)]

mod ask;
mod bpf;
pub mod checksum;
mod cmsg;
pub mod ethtool;
mod ioctl;
pub mod link;
pub mod listen;
pub mod machine;
pub mod netns;
pub mod nftables;
pub mod notify;
pub mod packet;
pub mod pathid;
pub mod privilege;
pub mod process;
pub mod seqpacket;
mod step;
pub mod sysctl;
pub mod thread;
pub mod tun;
pub mod tunnel_gso;
pub mod udp;
pub mod xdp;
pub mod xfrm;

#[cfg(test)]
mod testing;
