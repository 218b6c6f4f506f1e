//! What traffic notices of a daemon that dies, restarts, hangs, or is reconfigured: events under load, and their marks.
//!
//! The load is the same during every event, between two ends at a time ([`Path`]): connections that carry checked bytes
//! ([`connections`]), and numbered datagrams one way a millisecond apart and the other way at 10 kpps ([`stream`]). An
//! event that does nothing stands beside the others, since the machine's own scheduling makes gaps, too.

/// Connections that carry bytes which are checked.
mod connections;
/// What happens to the node.
pub mod event;
/// The lab that it happens in.
pub mod lab;
/// Tables and figures.
pub mod report;
/// Numbered datagrams at a steady pace.
mod stream;
/// The tables of a node, to compare with those of a fresh one.
mod tables;

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context as _;

use self::connections::Connections;
use self::event::Event;
use self::lab::{Lab, Place};
use self::report::{Figures, Row};
use self::stream::Stream;

/// Connections at a time.
pub const CONNECTIONS: usize = 16;
/// Between two datagrams of the one stream and of the other.
const INTERVALS: [Duration; 2] = [Duration::from_millis(1), Duration::from_micros(100)];
/// The load runs so long before the first event.
const WARM_UP: Duration = Duration::from_millis(700);
/// What happens so long after an event is still its doing. Longer than the second within which weft-keeper calls a death
/// young: after five of those it waits before it starts another, and a daemon that cannot live is not the event here.
const AFTERMATH: Duration = Duration::from_millis(1200);
/// A connection that carries nothing for so long after an event counts as broken. A sender that has met silence for
/// five seconds looks again within as many (RFC 6298, section 5.5).
const PATIENCE: Duration = Duration::from_secs(15);

/// Two ends of the load; the first is on, or is, the node that things happen to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Path {
    /// Two pods of the node.
    SameNode,
    /// A pod of the node, and one of the other node.
    AcrossNodes,
    /// The node itself, and a pod of it.
    NodePod,
}

impl Path {
    /// All, in the order of reports.
    pub const ALL: [Path; 3] = [Path::SameNode, Path::AcrossNodes, Path::NodePod];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Path::SameNode => "same node",
            Path::AcrossNodes => "across nodes",
            Path::NodePod => "node and pod",
        }
    }

    fn ends(self) -> (Place, Place) {
        match self {
            Path::SameNode => (Place::Pod(1, 1), Place::Pod(1, 2)),
            Path::AcrossNodes => (Place::Pod(1, 1), Place::Pod(2, 1)),
            Path::NodePod => (Place::Node(1), Place::Pod(1, 2)),
        }
    }
}

/// Lets an event happen so many times under load between the two ends.
///
/// # Errors
/// The load cannot be made, or the event did not end as it should.
pub fn run(lab: &mut Lab, event: Event, path: Path, rounds: usize) -> anyhow::Result<Figures> {
    let mut load = Load::start(lab, path).with_context(|| format!("load on the path {}", path.name()))?;
    sleep(WARM_UP);
    let mut figures = Figures::default();
    for round in 0..rounds {
        load.streams.iter().for_each(Stream::forget_gaps);
        event.happen(lab, round).with_context(|| format!("{event} under load, {}", path.name()))?;
        sleep(AFTERMATH);
        let gaps = load.streams.iter().map(Stream::longest_gap);
        figures.blocked.push(gaps.max().unwrap_or_default());
        let broken = load.connections.broken(PATIENCE);
        figures.connections_broken += broken.len();
        for reason in &broken {
            eprintln!("{event}, {}: connection {reason}", path.name());
        }
        if !broken.is_empty() {
            load.connections = connections(lab, path)?;
            sleep(WARM_UP);
        }
    }
    for stream in load.streams {
        let (sent, came) = stream.finish();
        figures.packets_sent += sent;
        figures.packets_lost += sent - came;
    }
    Ok(figures)
}

/// All events on all paths, one row each; `say` is told of each as it ends. What fails is told on stderr and left out;
/// how often that was.
pub fn run_all(
    lab: &mut Lab,
    events: &[Event],
    paths: &[Path],
    rounds: usize,
    mut say: impl FnMut(&Row),
) -> (Vec<Row>, usize) {
    let (mut rows, mut failures) = (Vec::new(), 0);
    for &event in events {
        for &path in paths {
            match run(lab, event, path, rounds) {
                Ok(figures) => {
                    let row = Row { event, path: path.name(), figures };
                    say(&row);
                    rows.push(row);
                }
                Err(error) => {
                    eprintln!("failed: {error:#}");
                    failures += 1;
                }
            }
        }
    }
    (rows, failures)
}

struct Load {
    connections: Connections,
    streams: [Stream; 2],
}

impl Load {
    fn start(lab: &Lab, path: Path) -> anyhow::Result<Load> {
        let (near, far) = path.ends();
        let (near_ns, far_ns, to) = (lab.namespace(near)?, lab.namespace(far)?, lab.address(far)?);
        // What the far end sees as the near one's address.
        let back = near_ns.run(|| local_address(to))?.with_context(|| format!("no route to {to}"))?;
        let streams = [
            Stream::start(&near_ns, &far_ns, to, INTERVALS[0])?,
            Stream::start(&far_ns, &near_ns, back, INTERVALS[1])?,
        ];
        Ok(Load { connections: connections(lab, path)?, streams })
    }
}

fn connections(lab: &Lab, path: Path) -> anyhow::Result<Connections> {
    let (near, far) = path.ends();
    let (near_ns, far_ns) = (lab.namespace(near)?, lab.namespace(far)?);
    Connections::open(&near_ns, &far_ns, lab.address(far)?, CONNECTIONS).context("connections")
}

/// The address that this namespace's packets to `to` come from.
pub(crate) fn local_address(to: IpAddr) -> std::io::Result<IpAddr> {
    let any = crate::udp::any(to.is_ipv6());
    let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
    // Any port: nothing is sent.
    socket.connect(SocketAddr::new(to, 9))?;
    Ok(socket.local_addr()?.ip())
}
