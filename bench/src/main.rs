//! `weft-bench`: the traffic tool of weft's benches and tests.
//!
//! Every run is bounded in time, reports to stdout (text, or JSON with `--json`), and exits with 1 on an error.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand, ValueEnum};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;
use weft_bench::chaos::event::Event;
use weft_bench::chaos::lab::Lab;
use weft_bench::chaos::{self, Path};
use weft_bench::limits::Limits;
use weft_bench::overload::{self, Flood, Labs};
use weft_bench::side::{self, Peer};
use weft_bench::{plain, rr, udp};

/// Sends, counts and times traffic.
#[derive(Parser, Debug)]
#[command(
    version,
    after_help = "Example, in two shells:\n  weft-bench udp-count --listen 10.244.1.8:9000 --seconds 20 --json\n  \
                  weft-bench udp-send --to 10.244.1.8:9000 --size 18 --seconds 10"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Prints the report as one line of JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Sends numbered datagrams.
    UdpSend(UdpSend),
    /// Counts datagrams and looks for gaps in their numbers.
    UdpCount(UdpCount),
    /// Sends requests one after the other and times their responses.
    RrClient(RrClient),
    /// Sends every request back.
    RrServer(RrServer),
    /// Lets things happen to a node under load, and tells what traffic noticed.
    Chaos(Chaos),
    /// Times requests and responses between two pods while a third one floods, on weft and on the kernel's bridge.
    Overload(Overload),
    /// Measures weft and other switches side by side, in labs that are up; `scripts/bench.sh` makes them.
    Side(Side),
    /// Copies frames between two TAP devices that it makes, until they are gone.
    PlainSwitch(PlainSwitch),
}

#[derive(Args, Debug)]
struct Bounds {
    /// Ends after this many seconds.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Ends after this many datagrams or requests; 0: only the time counts.
    #[arg(long, default_value_t = 0)]
    count: u64,
}

impl Bounds {
    fn limits(&self) -> Limits {
        Limits { time: Duration::from_secs_f64(self.seconds), count: self.count }
    }
}

#[derive(Args, Debug)]
struct UdpSend {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// Bytes of payload of a datagram, at least 16; 18 make a frame of 64 bytes.
    #[arg(long, default_value_t = 18)]
    size: usize,
    /// Datagrams of one send (UDP_SEGMENT), at most 64.
    #[arg(long, default_value_t = 1)]
    burst: usize,
    /// Datagrams per second; 0: as fast as they go.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Flows that take turns, each to a port of its own from the given one on; not with bursts.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    flows: u16,
    /// Sockets that take turns, each with a port of its own: as many times the flows.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    sources: u16,
    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Args, Debug)]
struct UdpCount {
    /// Address and port; port 0: any, it is printed to stderr.
    #[arg(long)]
    listen: SocketAddr,
    /// Ends when nothing has come for this many milliseconds after the first datagram.
    #[arg(long, default_value_t = 1000)]
    idle_ms: u64,
    /// Ports to listen on, from the given one on.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    flows: u16,
    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Args, Debug)]
struct RrClient {
    /// The server.
    #[arg(long)]
    to: SocketAddr,
    /// Over what.
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    over: Transport,
    /// Bytes of a message, at least 12.
    #[arg(long, default_value_t = 32)]
    size: usize,
    /// A response that takes longer is lost.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: u64,
    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Args, Debug)]
struct RrServer {
    /// Address and port; port 0: any, it is printed to stderr.
    #[arg(long)]
    listen: SocketAddr,
    /// Over what.
    #[arg(long, value_enum, default_value_t = Transport::Udp)]
    over: Transport,
    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Args, Debug)]
struct Chaos {
    /// The lab: two nodes with keepers, see scripts/lab.sh.
    #[arg(long)]
    lab: String,
    /// Where weft, weftd and weft-keeper are.
    #[arg(long)]
    bin_dir: PathBuf,
    /// How often each event happens on each path.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// What happens; default: everything that this version knows.
    #[arg(long, value_enum, value_delimiter = ',')]
    events: Vec<Event>,
    /// Between which ends the load is; default: all, one after the other.
    #[arg(long, value_enum, value_delimiter = ',')]
    paths: Vec<Path>,
    /// Writes the sums of all paths there, as JSON.
    #[arg(long)]
    json_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Overload {
    /// The lab with weft nodes, four pods each, see scripts/lab.sh.
    #[arg(long)]
    lab: String,
    /// The lab with nodes of the kernel's bridge, as many pods.
    #[arg(long)]
    kernel_lab: String,
    /// Turns of each side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long a turn is, in seconds.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    seconds: f64,
    /// Packets of a flood per second; 0: as many as one thread sends.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// What floods; default: all, one after the other.
    #[arg(long, value_enum, value_delimiter = ',')]
    floods: Vec<Flood>,
    /// Adds the figures to the JSON array in that file.
    #[arg(long)]
    json_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Side {
    /// A switch and its lab, NAME=LAB; those called weft and kernel are what ratios are made of.
    #[arg(long = "peer", required = true)]
    peers: Vec<Peer>,
    /// Where the binaries are that the lab of weft runs.
    #[arg(long)]
    bin_dir: PathBuf,
    /// Works, by the start of their names; default: all.
    #[arg(long, value_delimiter = ',')]
    works: Vec<String>,
    /// Rounds; the first does not count.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..))]
    rounds: u16,
    /// Length of one measurement.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Does what takes long (cni, idle, scale) in one round only.
    #[arg(long)]
    quick: bool,
    /// Writes the medians there, as JSON.
    #[arg(long)]
    json_file: Option<PathBuf>,
    /// Writes the table there, as Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Draws the ratios there, as SVG.
    #[arg(long)]
    plot: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct PlainSwitch {
    /// A network namespace by name.
    #[arg(long)]
    between: String,
    /// The other.
    #[arg(long)]
    and: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Transport {
    Udp,
    Tcp,
    /// TCP, a new connection for each request.
    Connect,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    match &cli.verb {
        Verb::UdpSend(verb) => report(&verb.run()?, cli.json),
        Verb::UdpCount(verb) => report(&verb.run()?, cli.json),
        Verb::RrClient(verb) => report(&verb.run()?, cli.json),
        Verb::RrServer(verb) => report(&verb.run()?, cli.json),
        Verb::Chaos(verb) => verb.run(cli.json),
        Verb::Overload(verb) => verb.run(cli.json),
        Verb::Side(verb) => verb.run(),
        Verb::PlainSwitch(verb) => plain::run(&verb.between, &verb.and),
    }
}

impl UdpSend {
    fn run(&self) -> anyhow::Result<udp::Sent> {
        allow_descriptors()?;
        let sockets: Result<Vec<_>, _> = (0..self.sources).map(|_| udp::bind(any_for(self.to))).collect();
        let sockets = sockets.context("cannot open a socket")?;
        let load = udp::Load { size: self.size, burst: self.burst, rate: self.rate, flows: self.flows };
        udp::send(&sockets, self.to, &load, &self.bounds.limits())
            .with_context(|| format!("cannot send to {}", self.to))
    }
}

impl UdpCount {
    fn run(&self) -> anyhow::Result<udp::Counted> {
        let context = || format!("cannot listen on {}", self.listen);
        let mut sockets = vec![udp::bind(self.listen).with_context(context)?];
        let first = sockets[0].local_addr()?;
        for flow in 1..self.flows {
            let port = first.port().checked_add(flow).with_context(context)?;
            sockets.push(udp::bind(SocketAddr::new(first.ip(), port)).with_context(context)?);
        }
        announce(first);
        let idle = Duration::from_millis(self.idle_ms);
        Ok(udp::count(&sockets, idle, &self.bounds.limits())?)
    }
}

impl RrClient {
    fn run(&self) -> anyhow::Result<rr::Answers> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let question = rr::Question { size: self.size, timeout };
        let answers = match self.over {
            Transport::Udp => {
                let socket = UdpSocket::bind(any_for(self.to)).context("cannot open a socket")?;
                socket.connect(self.to).with_context(|| format!("cannot reach {}", self.to))?;
                rr::udp_client(&socket, &question, &self.bounds.limits())
            }
            Transport::Tcp => {
                let stream = rr::connect(self.to, timeout)
                    .with_context(|| format!("cannot connect to {}", self.to))?;
                rr::tcp_client(stream, &question, &self.bounds.limits())
            }
            Transport::Connect => rr::connect_client(self.to, &question, &self.bounds.limits()),
        };
        answers.with_context(|| format!("no conversation with {}", self.to))
    }
}

impl RrServer {
    fn run(&self) -> anyhow::Result<rr::Served> {
        let context = || format!("cannot listen on {}", self.listen);
        Ok(match self.over {
            Transport::Udp => {
                let socket = UdpSocket::bind(self.listen).with_context(context)?;
                announce(socket.local_addr()?);
                rr::udp_server(&socket, &self.bounds.limits())?
            }
            over => {
                let listener = TcpListener::bind(self.listen).with_context(context)?;
                announce(listener.local_addr()?);
                let serve = if over == Transport::Tcp { rr::tcp_server } else { rr::connect_server };
                serve(&listener, &self.bounds.limits())?
            }
        })
    }
}

impl Chaos {
    fn run(&self, json: bool) -> anyhow::Result<()> {
        let mut lab = Lab::find(&self.lab, &self.bin_dir)?;
        let mut events = self.events.clone();
        if events.is_empty() {
            events = Event::value_variants().to_vec();
        }
        events.retain(|event| {
            let obstacle = event.obstacle(&lab);
            if let Some(why) = obstacle {
                eprintln!("left out: {event} ({why})");
            }
            obstacle.is_none()
        });
        let paths = if self.paths.is_empty() { &Path::ALL } else { &self.paths[..] };
        let table = |text: String| {
            if !json {
                print!("{text}");
            }
        };
        table(chaos::report::head());
        let rounds = self.rounds.into();
        let say = |row: &_| table(chaos::report::body(row));
        let (rows, failures) = chaos::run_all(&mut lab, &events, paths, rounds, say);
        table(format!("\n{}{}", chaos::report::head(), chaos::report::foot(&rows)));
        let summaries = chaos::report::summaries(&rows);
        let text = serde_json::to_string(&summaries)?;
        if json {
            println!("{text}");
        }
        if let Some(file) = &self.json_file {
            std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        let broken: usize = summaries.iter().map(|summary| summary.connections_broken).sum();
        anyhow::ensure!(broken + failures == 0, "{broken} connections broke, {failures} runs failed");
        Ok(())
    }
}

impl Overload {
    fn run(&self, json: bool) -> anyhow::Result<()> {
        let labs = Labs::find(&self.lab, &self.kernel_lab)?;
        let floods = if self.floods.is_empty() { Flood::value_variants() } else { &self.floods[..] };
        let plan = overload::Plan {
            rounds: self.rounds.into(),
            time: Duration::from_secs_f64(self.seconds),
            rate: self.rate,
        };
        let table = |text: String| {
            if !json {
                print!("{text}");
            }
        };
        table(overload::report::head());
        let rows = labs.run(floods, &plan, |row| table(overload::report::body(row)))?;
        let summaries: Vec<_> = rows.iter().map(overload::Row::summary).collect();
        if json {
            println!("{}", serde_json::to_string(&summaries)?);
        }
        if let Some(file) = &self.json_file {
            add_to_array(file, &summaries).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

/// Adds values to the JSON array in a file, which need not exist.
fn add_to_array(file: &std::path::Path, values: &[impl Serialize]) -> anyhow::Result<()> {
    let mut array: Vec<serde_json::Value> = match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    for value in values {
        array.push(serde_json::to_value(value)?);
    }
    Ok(std::fs::write(file, serde_json::to_string(&array)? + "\n")?)
}

impl Side {
    fn run(&self) -> anyhow::Result<()> {
        let plan = side::Plan {
            works: side::works(&self.works, self.quick),
            rounds: self.rounds.into(),
            time: Duration::from_secs_f64(self.seconds),
            quick: self.quick,
            bin_dir: self.bin_dir.clone(),
        };
        anyhow::ensure!(!plan.works.is_empty(), "no work is called so");
        let table = side::run(&self.peers, &plan)?;
        print!("{}", table.markdown());
        let write = |file: &Option<PathBuf>, text: String| match file {
            Some(file) => {
                std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
            }
            None => Ok(()),
        };
        write(&self.json_file, table.json()? + "\n")?;
        write(&self.markdown, table.markdown())?;
        write(&self.plot, table.plot()?)
    }
}

/// Lets this process have as many descriptors open as it may.
fn allow_descriptors() -> anyhow::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("limit of descriptors")
}

/// Any port of the family that reaches `to`.
fn any_for(to: SocketAddr) -> SocketAddr {
    SocketAddr::new(udp::any(to.is_ipv6()), 0)
}

/// Tells whoever started us that traffic may come.
fn announce(local: SocketAddr) {
    eprintln!("listening on {local}");
}

/// Prints a report: JSON, or a line per value.
fn report(report: &impl Serialize, json: bool) -> anyhow::Result<()> {
    let value = serde_json::to_value(report)?;
    match value.as_object().filter(|_| !json) {
        Some(fields) => fields.iter().for_each(|(name, value)| println!("{name:<12} {}", rounded(value))),
        None => println!("{value}"),
    }
    Ok(())
}

fn rounded(value: &serde_json::Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() => format!("{number:.3}"),
        _ => value.to_string(),
    }
}

/// A time that a clock can hold: up to a day.
fn seconds(text: &str) -> Result<f64, String> {
    let range = 0.001..=86_400.0;
    text.parse().ok().filter(|value| range.contains(value)).ok_or_else(|| "0.001 to 86400 seconds".to_owned())
}
