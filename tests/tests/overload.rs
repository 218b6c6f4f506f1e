//! One pod floods, and clients of the API do: others on the node lose nothing, tables stay bounded, and it is shown.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use weft_sys::netns::Netns;
use weft_tests::traffic::ping;
use weft_tests::{Context, Lab, Namespace, Node, Options, Result, as_root, ensure};

/// Entries of a worker's flow cache (`DataplaneConfig`).
const CACHE: u64 = 65_536;
/// How long each flood lasts.
const FLOOD: Duration = Duration::from_secs(4);
/// How long an answer may take until its question counts as lost.
const PATIENCE: Duration = Duration::from_secs(1);

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
def ip(n):
    h=struct.pack('!BBHHHBBH4s4s',69,0,20+n,0,0,64,17,0,a,b); return h[:10]+struct.pack('!H',total(h))+h[12:]
head=peer+own+b'\\x08\\0'+ip(8+18)
def flows():
    n=random.getrandbits(32); return head+struct.pack('!HHHH',n&0xffff|1,n>>16|1,26,0)+bytes(18)
wide=b'\\xff'*6+own+b'\\x08\\0'+ip(8+18)+struct.pack('!HHHH',9,9,26,0)+bytes(18)
def broadcasts(): return wide
def garbage(): return (peer+own+b'\\x08\\0'+os.urandom(random.randrange(2,200)))
make={'flows':flows,'broadcasts':broadcasts,'garbage':garbage}[kind]
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
    let mut answers = 0;
    while !stop.load(Ordering::Relaxed) {
        node.weft(&["show"])?;
        node.weft(&["flow", "dump"])?;
        answers += 2;
    }
    Ok(answers)
}

#[test]
fn a_flood_and_a_busy_api_take_nothing_from_others() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        let (noisy, victim) = (node.pod("n")?, node.pod("v")?);
        ping(&a.ns, &b.ip(), 2)?;
        ping(&noisy.ns, &victim.ip(), 2)?;
        let mac = |ns: &Namespace| ns.sh("cat /sys/class/net/eth0/address").map(|mac| mac.trim().to_owned());
        let (own, peer) = (mac(&noisy.ns)?, mac(&victim.ns)?);
        let client = socket(&a.ns, &format!("{}:0", a.ip()))?;
        let server = socket(&b.ns, &format!("{}:7", b.ip()))?;
        let to = server.local_addr()?;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let answering = scope.spawn(|| answer(&server, &stop));
            let clients = scope.spawn(|| pester(node, &stop));
            let floods = ["flows", "broadcasts", "garbage"].map(|kind| {
                let seconds = (FLOOD.as_secs() + 1).to_string();
                let args = ["-c", FLOODER, kind, &seconds, &own, &noisy.ip(), &victim.ip(), &peer];
                let flood = noisy.ns.spawn("python3", &args)?;
                let (asked, lost) = ask(&client, to, FLOOD)?;
                let (out, errors, ok) = flood.finish()?;
                let sent: u64 = out.trim().parse().with_context(|| format!("{out}{errors}"))?;
                ensure!(ok && sent > 5_000, "{kind}: {sent} sent: {errors}");
                ensure!(asked > 500 && lost == 0, "{kind}: {lost} of {asked} lost while {sent} were sent");
                Ok(sent)
            });
            stop.store(true, Ordering::Relaxed);
            answering.join().expect("no panic")?;
            let answers = clients.join().expect("no panic")?;
            let sent = floods.into_iter().collect::<Result<Vec<u64>>>()?;
            ensure!(answers > 10, "{answers} answers of the API");
            let stats = node.weft_json(&["stats"])?;
            let total = |name: &str| stats["totals"][name].as_u64().unwrap_or(0);
            let (misses, evicted) = (total("cache_misses"), total("cache_evictions"));
            // What a pod's queue does not take never comes.
            ensure!(misses > 5_000, "{sent:?}: {stats}");
            let flows = misses.saturating_sub(sent[1] + sent[2]);
            ensure!(flows <= 2 * CACHE || evicted > 0, "{sent:?}: {stats}");
            ensure!(stats["drops"].as_array().is_some_and(|drops| !drops.is_empty()), "{stats}");
            Ok(())
        })
    });
}
