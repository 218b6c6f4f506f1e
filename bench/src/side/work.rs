//! The works, and the names that their numbers have.

use std::fmt;

use super::scale::{SIZES, Scale};

/// Where the two ends are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Two pods of one node.
    SameNode,
    /// The same, with devices of the biggest MTU that a TAP has.
    SameNodeBigMtu,
    /// Pods of two nodes.
    Across,
    /// The same, and the underlay cuts to its MTU what it sends, as a NIC does.
    AcrossCut,
}

/// What the ends do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// So many TCP streams one way.
    Tcp {
        /// Streams.
        streams: u8,
        /// Congestion control reno; else BBR, where the kernel has it.
        reno: bool,
    },
    /// Datagrams of 1400 bytes from a sender that leaves their segmentation to the device, as QUIC does.
    UdpGso,
    /// Frames of 64 bytes, of so many flows in turns.
    Udp64 {
        /// Flows.
        flows: u16,
    },
    /// Requests, one outstanding.
    Requests {
        /// Over TCP, else UDP.
        tcp: bool,
    },
    /// TCP connections, one request each.
    Connections,
    /// Calls of CNI plugins; no traffic.
    Cni {
        /// All at once, else one after the other.
        at_once: bool,
    },
    /// A node whose pods do nothing.
    Idle,
    /// What more of something costs.
    Scale(Scale),
}

/// One work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// What.
    pub kind: Kind,
    /// Between whom.
    pub way: Way,
}

impl Work {
    /// True for those that take long because they make much that they then measure: with `--quick` they are done once.
    pub(super) fn is_long(&self) -> bool {
        matches!(self.kind, Kind::Cni { .. } | Kind::Idle | Kind::Scale(_))
    }

    /// True if who cannot do this one cannot do the other: TCP between nodes is all the same to a switch without it.
    pub(super) fn implies(&self, other: &Work) -> bool {
        let is_tcp = |work: &Work| {
            matches!(work.kind, Kind::Tcp { .. } | Kind::Requests { tcp: true } | Kind::Connections)
                && matches!(work.way, Way::Across | Way::AcrossCut)
        };
        self == other || (is_tcp(self) && is_tcp(other))
    }

    /// Kinds of nodes (as `lab.sh` names them) that can do it; `None`: all.
    pub(super) fn nodes(&self) -> Option<&'static [&'static str]> {
        match self.kind {
            Kind::Cni { .. } | Kind::Scale(Scale::Flows(_)) => Some(&["weft", "kernel"]),
            Kind::Idle | Kind::Scale(_) => Some(&["weft"]),
            // What AF_XDP ports are compared by is among the others.
            Kind::Tcp { streams: 2.., .. } | Kind::UdpGso | Kind::Connections => {
                Some(&["weft", "kernel", "ovs", "plain"])
            }
            _ => None,
        }
    }
}

/// Flows of the works called mixed.
pub(super) const MIXED: u16 = 64;

/// All works whose names start with one of `starts`. For none all of them; a quick run leaves out what says least: eight
/// streams, and four with reno.
pub fn works(starts: &[String], quick: bool) -> Vec<Work> {
    use Way::{Across, AcrossCut, SameNode, SameNodeBigMtu};
    let mut all = vec![Work { kind: Kind::Tcp { streams: 1, reno: false }, way: SameNodeBigMtu }];
    for streams in [1, 4, 8] {
        for reno in [false, true] {
            let kind = Kind::Tcp { streams, reno };
            all.extend([SameNode, Across, AcrossCut].map(|way| Work { kind, way }));
        }
    }
    let others = [
        Kind::UdpGso,
        Kind::Udp64 { flows: 1 },
        Kind::Udp64 { flows: MIXED },
        Kind::Requests { tcp: false },
        Kind::Requests { tcp: true },
        Kind::Connections,
    ];
    for kind in others {
        all.extend([SameNode, Across].map(|way| Work { kind, way }));
    }
    let alone = [Kind::Cni { at_once: false }, Kind::Cni { at_once: true }, Kind::Idle];
    let alone = alone.into_iter().chain(SIZES.map(Kind::Scale));
    all.extend(alone.map(|kind| Work { kind, way: SameNode }));
    let says_least = |work: &Work| {
        matches!(work.kind, Kind::Tcp { streams: 8, .. } | Kind::Tcp { streams: 4, reno: true })
    };
    all.retain(|work| match starts {
        [] => !(quick && says_least(work)),
        _ => starts.iter().any(|start| work.to_string().starts_with(start)),
    });
    all
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::SameNode => "same-node",
            Way::SameNodeBigMtu => "same-node-bigmtu",
            Way::Across => "across",
            Way::AcrossCut => "across-cut",
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = self.way;
        match self.kind {
            Kind::Tcp { streams, reno: false } => write!(f, "tcp{streams}-{way}"),
            Kind::Tcp { streams, reno: true } => write!(f, "tcp{streams}-{way}-reno"),
            Kind::UdpGso => write!(f, "udp1400-gso-{way}"),
            Kind::Udp64 { flows: 1 } => write!(f, "udp64-{way}"),
            Kind::Udp64 { .. } => write!(f, "udp64-mixed-{way}"),
            Kind::Requests { tcp: false } => write!(f, "rr-{way}"),
            Kind::Requests { tcp: true } => write!(f, "rr-tcp-{way}"),
            Kind::Connections => write!(f, "crr-{way}"),
            Kind::Cni { at_once: false } => f.write_str("cni"),
            Kind::Cni { at_once: true } => write!(f, "cni-add-{}-at-once", super::cni::CALLS),
            Kind::Idle => f.write_str("idle"),
            Kind::Scale(scale) => scale.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_can_be_chosen_by() {
        let all: Vec<String> = works(&[], false).iter().map(Work::to_string).collect();
        let mut unique = all.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
        let quick = works(&[], true);
        assert_eq!(quick.len(), all.len() - 9);
        assert!(quick.iter().any(|work| work.to_string() == "tcp4-across-cut"));
        let chosen: Vec<String> =
            works(&["tcp1-across".to_owned(), "crr".to_owned()], true).iter().map(Work::to_string).collect();
        let wanted = [
            "tcp1-across",
            "tcp1-across-cut",
            "tcp1-across-reno",
            "tcp1-across-cut-reno",
            "crr-same-node",
            "crr-across",
        ];
        assert_eq!(chosen, wanted);
    }
}
