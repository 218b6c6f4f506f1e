//! One pod floods, and clients of both sockets do: others on the node lose nothing, tables stay bounded, and it is shown.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_api::{BlockingClient, Client, paths};
use weft_sys::netns::Netns;
use weft_sys::seqpacket::Connection;
use weft_tests::traffic::ping;
use weft_tests::{Context, Lab, Namespace, Node, Options, Result, as_root, ensure};

/// Entries of a worker's flow cache (`DataplaneConfig`).
const CACHE: u64 = 65_536;
/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(4);
/// How long an answer may take until its question counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Frames of a flood that must have reached the switch: with fewer it is none.
const FLOODED: u64 = 1_000;

/// Sends frames by a raw socket as fast as they go: argument 1 says which, 2 for how many seconds, 3 the own MAC, 4 and 5
/// the own and another pod's address, 6 that pod's MAC.
const FLOODER: &str = "
import os,random,socket,struct,sys,time
kind,seconds=sys.argv[1],float(sys.argv[2])
mac=lambda t: bytes.fromhex(t.replace(':',''))
own,peer=mac(sys.argv[3]),mac(sys.argv[6])
a,b=socket.inet_aton(sys.argv[4]),socket.inet_aton(sys.argv[5])
s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW); s.bind(('eth0',0))
def total(h):
    t=sum(struct.unpack('!10H',h)); t=(t&0xffff)+(t>>16); t=(t&0xffff)+(t>>16); return ~t&0xffff
def ip(n,to=b):
    h=struct.pack('!BBHHHBBH4s4s',69,0,20+n,0,0,64,17,0,a,to); return h[:10]+struct.pack('!H',total(h))+h[12:]
head=peer+own+b'\\x08\\0'+ip(8+18)
def flows():
    # Another address each time: ports do not make a flow another one for the switch.
    return head[:14]+ip(8+18,b'\\xc6\\x12'+os.urandom(2))+struct.pack('!HHHH',9,9,26,0)+bytes(18)
wide=b'\\xff'*6+own+b'\\x08\\0'+ip(8+18)+struct.pack('!HHHH',9,9,26,0)+bytes(18)
def broadcasts(): return wide
def garbage(): return (peer+own+b'\\x08\\0'+os.urandom(random.randrange(2,200)))
rest=head[12:]+struct.pack('!HHHH',9,9,26,0)+bytes(18)
def stations(): return peer+b'\\2'+os.urandom(5)+rest
def once(): return peer+own+rest
make={'flows':flows,'broadcasts':broadcasts,'garbage':garbage,'stations':stations,'once':once}[kind]
if kind=='once': s.send(once()); seconds=0
end=time.monotonic()+seconds; sent=0
while time.monotonic()<end:
    for _ in range(64):
        try: s.send(make()); sent+=1
        except OSError: pass
print(sent)
";

/// A pod's socket.
fn socket(ns: &Namespace, address: &str) -> Result<UdpSocket> {
    let address: SocketAddr = address.parse()?;
    let netns = Netns::by_name(ns.name())?;
    Ok(netns.run(move || UdpSocket::bind(address))??)
}

/// Asks a thousand times a second for so long, and counts the questions and those without an answer.
fn ask(from: &UdpSocket, to: SocketAddr, lasting: Duration) -> Result<(u64, u64)> {
    from.set_nonblocking(true)?;
    let (begun, mut asked, mut answered) = (Instant::now(), 0u64, 0u64);
    let mut buffer = [0; 64];
    let mut hear = |answered: &mut u64| -> Result<()> {
        loop {
            match from.recv(&mut buffer) {
                Ok(_) => *answered += 1,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    };
    while begun.elapsed() < lasting {
        from.send_to(&asked.to_ne_bytes(), to)?;
        asked += 1;
        std::thread::sleep(Duration::from_millis(1));
        hear(&mut answered)?;
    }
    let last = Instant::now();
    while answered < asked && last.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
        hear(&mut answered)?;
    }
    Ok((asked, asked - answered))
}

fn answer(socket: &UdpSocket, stop: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = [0; 64];
    // Relaxed: seen within a turn or two.
    while !stop.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..length], from)?;
        }
    }
    Ok(())
}

/// Keeps the API busy until told to stop; the number of answers.
fn pester(node: &Node, stop: &AtomicBool) -> Result<u64> {
    let client = BlockingClient::new(Client::new(node.socket()))?;
    let mut answers = 0;
    // Relaxed: seen within a turn or two.
    while !stop.load(Ordering::Relaxed) {
        for path in [paths::STATS, paths::PORTS, paths::FDB, paths::FLOWS] {
            let _: Value = client.get(path).with_context(|| path.to_owned())?;
            answers += 1;
        }
    }
    Ok(answers)
}

/// Keeps the plugin's socket busy until told to stop, with one connection after the other that asks nothing sensible.
fn knock(node: &Node, stop: &AtomicBool) -> Result<u64> {
    let mut knocks = 0;
    while !stop.load(Ordering::Relaxed) {
        for bytes in [&b"{"[..], b"{}", &[0xff; 4000]] {
            // It may be hung up before all is said: that is its right.
            let Ok(socket) = Connection::connect(Path::new(&node.cni_socket())) else { continue };
            let _ = socket.send(bytes, &[]);
            knocks += 1;
        }
    }
    Ok(knocks)
}

/// Two pods: one that floods the other.
struct Noise<'a> {
    ns: &'a Namespace,
    ip: String,
    victim_ip: String,
    victim_mac: String,
}

impl Noise<'_> {
    fn args(&self, kind: &str, seconds: u64, own: &str) -> Vec<String> {
        let words =
            ["-c", FLOODER, kind, &seconds.to_string(), own, &self.ip, &self.victim_ip, &self.victim_mac];
        words.map(str::to_owned).to_vec()
    }

    /// Floods while `client` asks `to`, of which nothing may be lost.
    fn flood(&self, node: &Node, kind: &str, client: &UdpSocket, to: SocketAddr) -> Result<()> {
        let args = self.args(kind, FLOOD.as_secs() + 1, &mac_of(self.ns)?);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let missed = node.total("cache_misses")?;
        let flood = self.ns.spawn("/usr/bin/python3", &args)?;
        let (asked, lost) = ask(client, to, FLOOD)?;
        let (out, errors, ok) = flood.finish()?;
        let sent: u64 = out.trim().parse().with_context(|| format!("{kind}: {out}{errors}"))?;
        // All of a flood misses the cache; what a device's queue does not take never comes.
        let taken = node.total("cache_misses")? - missed;
        ensure!(ok && taken > FLOODED, "{kind}: {taken} of {sent} taken: {errors}");
        ensure!(asked > 200 && lost == 0, "{kind}: {lost} of {asked} lost while {sent} were sent");
        Ok(())
    }
}

fn mac_of(ns: &Namespace) -> Result<String> {
    Ok(ns.sh("cat /sys/class/net/eth0/address")?.trim().to_owned())
}

#[test]
fn a_flood_and_busy_sockets_take_nothing_from_others() {
    as_root(|| {
        let mut lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        // What nonsense on the plugin's socket is told.
        lab.nodes[0].expect_log("cni");
        let node = &lab.nodes[0];
        let (a, b, noisy, victim) = (node.pod("a")?, node.pod("b")?, node.pod("n")?, node.pod("v")?);
        ping(&a.ns, &b.ip(), 2)?;
        ping(&noisy.ns, &victim.ip(), 2)?;
        let noise =
            Noise { ns: &noisy.ns, ip: noisy.ip(), victim_ip: victim.ip(), victim_mac: mac_of(&victim.ns)? };
        let client = socket(&a.ns, &format!("{}:0", a.ip()))?;
        let server = socket(&b.ns, &format!("{}:7", b.ip()))?;
        let to = server.local_addr()?;
        let stop = AtomicBool::new(false);
        let (floods, answers, knocks) = std::thread::scope(|scope| {
            let answering = scope.spawn(|| answer(&server, &stop));
            let clients = scope.spawn(|| pester(node, &stop));
            let knocking = scope.spawn(|| knock(node, &stop));
            let floods = ["flows", "broadcasts", "garbage"].map(|kind| noise.flood(node, kind, &client, to));
            stop.store(true, Ordering::Relaxed);
            let served = answering.join().expect("no panic");
            (floods.into_iter().chain([served]).collect::<Result<()>>(), clients.join(), knocking.join())
        });
        floods?;
        let (answers, knocks) = (answers.expect("no panic")?, knocks.expect("no panic")?);
        ensure!(answers > 100 && knocks > 100, "{answers} answers, {knocks} knocks");
        let (entries, evicted) = (node.total("cache_entries")?, node.total("cache_evictions")?);
        ensure!(entries > FLOODED && entries <= CACHE, "{entries} places taken, {evicted} evictions");
        ensure!(node.drops("bad-ipv4")? > 0, "{}", node.weft(&["drops"])?);
        ping(&noisy.ns, &victim.ip(), 2)
    });
}

#[test]
fn a_flood_of_stations_pushes_out_none_of_a_quiet_port() {
    as_root(|| {
        const MOST: usize = 64;
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (quiet, loud) = (Namespace::new("quiet")?, Namespace::new("loud")?);
        node.weft(&["add-br", "lan"])?;
        node.weft(&["set", "bridge", "lan", &format!("fdb-max={MOST}")])?;
        for (name, ns) in [("quiet", &quiet), ("loud", &loud)] {
            node.weft(&["add-port", "lan", name, &format!("netns={}", ns.name()), "guard=off"])?;
            ns.sh("ip link set eth0 up")?;
        }
        let station = "02:00:00:00:0c:0c";
        for (ns, kind) in [(&quiet, "once"), (&loud, "stations")] {
            let (ip, victim_ip) = ("10.9.0.2".to_owned(), "10.9.0.3".to_owned());
            let args = Noise { ns, ip, victim_ip, victim_mac: station.to_owned() }.args(kind, 2, station);
            ns.run("/usr/bin/python3", &args.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let client = BlockingClient::new(Client::new(node.socket()))?;
        let fdb: Vec<Value> = client.get(paths::FDB)?;
        let learned: Vec<&Value> = fdb.iter().filter(|entry| entry["is_static"] == false).collect();
        let of_quiet = |entry: &&&Value| entry["mac"] == station && entry["port"] == "quiet";
        ensure!(learned.iter().any(|entry| of_quiet(&entry)), "the quiet port's station went: {learned:?}");
        ensure!(learned.len() <= MOST && node.total("learned")? <= MOST as u64, "{}", learned.len());
        let evicted = node.total("learned_evictions")?;
        ensure!(evicted > 100, "{evicted} evictions: {}", node.weft(&["stats"])?);
        Ok(())
    });
}
