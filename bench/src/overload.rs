//! What two pods notice of a third one that floods: round trips between the two meanwhile, on a weft node and on a
//! node of kernel bridge and veth, in turn.
//!
//! The same flood goes into both, from one thread. Requests of the API are a flood, too: a bridge of the kernel has none,
//! so it is measured while clients keep the weft node's daemon busy, which takes the same CPU time from it.

/// What the third pod sends.
mod flood;
/// Tables and figures.
pub mod report;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use weft_api::{BlockingClient, Client, paths};
use weft_sys::netns::Netns;

use crate::limits::Limits;
use crate::rr::{self, Answers, Question};

/// What floods.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Flood {
    /// Nothing: what the machine alone does
    Calm,
    /// Broadcasts
    Broadcast,
    /// A new flow with every packet: random ports
    Flows,
    /// Packets with foreign sources, wrong lengths, wrong versions
    Bad,
    /// Clients of the control socket that ask as fast as they are answered
    Api,
}

/// A node of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// The switch.
    Weft,
    /// The kernel's bridge.
    Kernel,
}

/// Both nodes, four pods each: two that talk, one that floods, one that it floods.
#[derive(Debug)]
pub struct Labs {
    weft: String,
    kernel: String,
    socket: PathBuf,
}

/// What one turn gave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Turn {
    /// The round trips.
    pub answers: Answers,
    /// Packets, or requests, that the flood sent per second.
    pub flood_per_second: f64,
}

/// The turns of one flood.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// Which.
    pub flood: Flood,
    /// Of the switch.
    pub weft: Vec<Turn>,
    /// Of the kernel's bridge.
    pub kernel: Vec<Turn>,
}

/// How a turn goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Turns of each side.
    pub rounds: usize,
    /// Round trips are taken for so long.
    pub time: Duration,
    /// Packets of a flood per second; 0: as many as one thread sends.
    pub rate: u64,
}

/// A request without a response within this time is lost.
const TIMEOUT: Duration = Duration::from_millis(500);
/// The flood runs so long before the first request.
const WARM_UP: Duration = Duration::from_millis(150);
/// Bytes of a request.
const SIZE: usize = 32;
/// Clients of the API.
const CLIENTS: usize = 4;

impl Labs {
    /// The labs of these names, as `scripts/lab.sh` makes them: `two-nodes` and `kernel-nodes`, `--pods 4`.
    ///
    /// # Errors
    /// One of them is not up.
    pub fn find(weft: &str, kernel: &str) -> anyhow::Result<Labs> {
        let socket = Path::new("/run/weft-lab").join(weft).join("n1/run/weft.sock");
        let labs = Labs { weft: weft.to_owned(), kernel: kernel.to_owned(), socket };
        for side in [Side::Weft, Side::Kernel] {
            (1..=4).try_for_each(|pod| labs.pod(side, pod).map(drop))?;
        }
        Ok(labs)
    }

    fn pod(&self, side: Side, pod: u32) -> anyhow::Result<Pod> {
        let lab = match side {
            Side::Weft => &self.weft,
            Side::Kernel => &self.kernel,
        };
        let name = format!("{lab}-n1-pod{pod}");
        let netns = Netns::by_name(&name).with_context(|| format!("namespace {name}"))?;
        match netns.run(|| super::chaos::local_address(GATEWAY.into()))? {
            Ok(IpAddr::V4(ip)) => Ok(Pod { netns, ip }),
            other => anyhow::bail!("{name} has no address: {other:?}"),
        }
    }

    /// One turn.
    ///
    /// # Errors
    /// The pods cannot talk at all, or nothing can flood.
    pub fn turn(&self, flood: Flood, side: Side, plan: &Plan) -> anyhow::Result<Turn> {
        let (near, far) = (self.pod(side, 1)?, self.pod(side, 2)?);
        let (noisy, sink) = (self.pod(side, 3)?, self.pod(side, 4)?);
        let server = far.netns.run(|| UdpSocket::bind(SocketAddr::new(far.ip.into(), 0)))??;
        let client = near.netns.run(|| UdpSocket::bind(SocketAddr::new(near.ip.into(), 0)))??;
        client.connect(server.local_addr()?)?;
        let question = Question { size: SIZE, timeout: TIMEOUT };
        let hello = Limits { time: 4 * TIMEOUT, count: 3 };
        let serving = Limits { time: WARM_UP + plan.time + 8 * TIMEOUT, count: 0 };
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let _ends = Stop(&stop);
            scope.spawn(|| serve(&server, &serving, &stop));
            let first = rr::udp_client(&client, &question, &hello)?;
            ensure!(first.responses > 0, "pods of the node {side:?} do not reach each other");
            match flood {
                Flood::Calm => {}
                Flood::Api => {
                    for _ in 0..CLIENTS {
                        scope.spawn(|| pester(&self.socket, &sent, &stop));
                    }
                }
                Flood::Broadcast | Flood::Flows | Flood::Bad => {
                    let mut source = flood::Source::new(flood, &noisy.netns, noisy.ip, sink.ip)?;
                    let (sent, stop) = (&sent, &stop);
                    scope.spawn(move || source.run(plan.rate, sent, stop));
                }
            }
            sleep(WARM_UP);
            // Relaxed, here and below: plain counts and flags, nothing is handed over by them.
            let before = sent.load(Ordering::Relaxed);
            let limits = Limits { time: plan.time, count: 0 };
            let answers = rr::udp_client(&client, &question, &limits)?;
            let flooded = sent.load(Ordering::Relaxed) - before;
            ensure!(flood == Flood::Calm || flooded > 0, "nothing was flooded");
            Ok(Turn { answers, flood_per_second: flooded as f64 / answers.seconds })
        })
    }

    /// All turns of these floods, the sides in turn; `say` is told of each flood as it ends.
    ///
    /// # Errors
    /// Those of [`Labs::turn`].
    pub fn run(&self, floods: &[Flood], plan: &Plan, mut say: impl FnMut(&Row)) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for &flood in floods {
            let mut row = Row { flood, weft: Vec::new(), kernel: Vec::new() };
            for round in 0..plan.rounds {
                let order = [Side::Weft, Side::Kernel];
                // Each side is the first as often as the other.
                for side in if round % 2 == 0 { order } else { [order[1], order[0]] } {
                    let turn =
                        self.turn(flood, side, plan).with_context(|| format!("{flood:?}, {side:?}"))?;
                    match side {
                        Side::Weft => row.weft.push(turn),
                        Side::Kernel => row.kernel.push(turn),
                    }
                }
            }
            say(&row);
            rows.push(row);
        }
        Ok(rows)
    }
}

/// Where every pod of node 1 has a route to; nothing is sent there.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

struct Pod {
    netns: Netns,
    ip: Ipv4Addr,
}

/// Ends the threads of a turn however it ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Serves until told to stop: an error of the socket is one that the client sees.
fn serve(socket: &UdpSocket, limits: &Limits, stop: &AtomicBool) {
    let clock = limits.start();
    while !stop.load(Ordering::Relaxed) && clock.left().is_some() {
        let slice = Limits { time: Duration::from_millis(100), count: 0 };
        let _ = rr::udp_server(socket, &slice);
    }
}

/// Asks the daemon for one thing after the other.
fn pester(socket: &Path, sent: &AtomicU64, stop: &AtomicBool) {
    let client = Client::new(socket).with_timeout(Duration::from_secs(2));
    let Ok(client) = BlockingClient::new(client) else { return };
    let questions = [paths::STATUS, paths::STATS, paths::PORTS];
    for path in questions.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        if client.get::<serde_json::Value>(path).is_ok() {
            sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
