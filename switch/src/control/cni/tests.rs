use std::os::fd::AsFd;
use std::sync::mpsc;

use tokio::sync::oneshot;
use weft_api::cni::{Attach, ContainerInterface, DelegatedIp, Ipam};
use weft_api::{Owner, PortKind, PortSpec};

use super::*;
use crate::control::engine::{self, Draft, HangUp, Job};
use crate::control::state::{PortRecord, State};
use crate::control::testing::state_with_cluster;

/// An engine without effects: edits a state, takes back what nobody waits for.
struct Engine {
    state: State,
    jobs: mpsc::Receiver<Job>,
}

impl Engine {
    /// Does the next `count` edits, then gives itself back.
    fn work(mut self, count: usize) -> Engine {
        for _ in 0..count {
            let Ok(Job::Edit { edit, finish, hang_up, .. }) = self.jobs.recv() else { panic!("no edit") };
            let mut draft = Draft {
                state: self.state.clone(),
                netns: Default::default(),
                forget: Vec::new(),
                origins: Default::default(),
                now: engine::unix_now(),
                is_learned: Arc::new(|_, _, _| false),
            };
            let done = edit(&mut draft).is_ok();
            let told = finish(Ok(1));
            if done && (told || hang_up == HangUp::Keep) {
                self.state = draft.state;
            }
        }
        self
    }

    fn pods(&self) -> Vec<&Arc<PortRecord>> {
        self.state.ports.values().filter(|port| port.spec.owner == Owner::Cni).collect()
    }
}

/// A runtime with a server on it, and the engine.
fn bench(queue: &Path) -> (tokio::runtime::Runtime, PathBuf, Engine) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (handle, jobs) = engine::queue();
    let socket = queue.join("cni.sock");
    let server = {
        let _guard = runtime.enter();
        Server::bind(&socket, queue, handle).unwrap()
    };
    runtime.spawn(server.run(Gate::open()));
    (runtime, socket, Engine { state: state_with_cluster(), jobs })
}

fn attachment(id: &str) -> Attachment {
    Attachment { network: "pods".into(), container_id: id.into(), ifname: "eth0".into() }
}

fn attach(id: &str, ipam: Ipam) -> Request {
    Request::Add(Box::new(Attach {
        attachment: attachment(id),
        netns: "/run/netns/none".into(),
        bridge: None,
        mac: None,
        mtu: None,
        kind: PortKind::Tap,
        ipam,
        pod_namespace: Some("default".into()),
        pod_name: Some("web".into()),
    }))
}

fn built_in() -> Ipam {
    Ipam::BuiltIn { wanted: Vec::new() }
}

/// A connected client that has sent `message`, with the descriptors of a namespace.
fn client(socket: &Path, message: &[u8]) -> Connection {
    let client = Connection::connect(socket).unwrap();
    let (netns, dir) = (Netns::current().unwrap(), Dir::open("/run").unwrap());
    client.send(message, &[netns.as_fd(), dir.as_fd()]).unwrap();
    client
}

fn ask(socket: &Path, request: &Request) -> Connection {
    client(socket, &serde_json::to_vec(request).unwrap())
}

/// Runs the server until `work` on another thread is done.
fn during<R: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    work: impl FnOnce() -> R + Send + 'static,
) -> R {
    let (done, end) = oneshot::channel();
    std::thread::spawn(move || drop(done.send(work())));
    let result = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), end).await });
    result.expect("in time").expect("no panic")
}

fn read(client: &Connection) -> Reply {
    let mut buffer = vec![0; MAX_BODY];
    let mut fds = [rustix::event::PollFd::new(client, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
    let (length, _) = client.recv(&mut buffer).unwrap();
    serde_json::from_slice(&buffer[..length]).unwrap()
}

#[test]
fn add_del_and_gc_edit_the_state() {
    let directory = tempfile::tempdir().unwrap();
    let (runtime, socket, mut engine) = bench(directory.path());
    let mut by_hand = PortRecord::new(PortSpec::new("hand", "br0", PortKind::Tap, Owner::Cli));
    by_hand.attachment = Some(attachment("hand"));
    engine.state.ports.insert("hand".into(), by_hand.into());
    let engine = during(&runtime, move || {
        let clients: Vec<_> = ["a", "b", "c"].map(|id| ask(&socket, &attach(id, built_in()))).into();
        let engine = engine.work(3);
        for client in &clients {
            let Reply::Added(added) = read(client) else { panic!("not added") };
            assert_eq!(added.mtu, 1450);
            assert_eq!(added.ips[0].gateway, Some("10.244.1.1".parse().unwrap()));
            assert_eq!(added.routes[0].dst.to_string(), "0.0.0.0/0");
        }
        drop(clients);
        let pods = engine.pods();
        let mut ips: Vec<_> = pods.iter().map(|port| port.spec.ips[0].to_string()).collect();
        ips.sort();
        assert_eq!(ips, ["10.244.1.2/24", "10.244.1.3/24", "10.244.1.4/24"]);
        assert_eq!(pods[0].spec.external_ids["pod"], "web");
        assert!(pods[0].spec.name.starts_with("cni-") && pods[0].spec.name.len() == 20);

        let del = ask(&socket, &Request::Del { attachment: attachment("a") });
        let twice = ask(&socket, &Request::Del { attachment: attachment("a") });
        let valid = vec![ContainerInterface { container_id: "b".into(), ifname: "eth0".into() }];
        let engine = engine.work(2);
        assert_eq!((read(&del), read(&twice)), (Reply::Ok, Reply::Ok));
        let other = ask(&socket, &Request::Gc { network: "other".into(), valid: Some(Vec::new()) });
        let mut engine = engine.work(1);
        assert_eq!((read(&other), engine.pods().len()), (Reply::Ok, 2));
        let silent = Request::Gc { network: "pods".into(), valid: None };
        let client = ask(&socket, &silent);
        engine = engine.work(1);
        assert_eq!((read(&client), engine.pods().len()), (Reply::Ok, 2), "nobody said that they are dead");
        let name_of_c = engine.state.port_of(&attachment("c")).expect("c").spec.name.clone();
        engine.state.mark_lost(&name_of_c, "its link was deleted");
        let client = ask(&socket, &silent);
        engine = engine.work(1);
        assert_eq!((read(&client), engine.pods().len()), (Reply::Ok, 1));
        let again = ask(&socket, &attach("c", built_in()));
        engine = engine.work(1);
        assert!(matches!(read(&again), Reply::Added(_)));
        drop(again);
        let gc = ask(&socket, &Request::Gc { network: "pods".into(), valid: Some(valid) });
        let engine = engine.work(1);
        assert_eq!(read(&gc), Reply::Ok);
        engine
    });
    let pods = engine.pods();
    assert!(pods.len() == 1 && pods[0].attachment == Some(attachment("b")));
    assert!(engine.state.ports.contains_key("hand"), "an operator's port is none of GC's business");
}

#[test]
fn addresses_of_a_delegated_plugin_are_taken_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let (runtime, socket, engine) = bench(directory.path());
    let ip =
        DelegatedIp { address: "10.9.0.5/16".parse().unwrap(), gateway: Some("10.9.0.1".parse().unwrap()) };
    let engine = during(&runtime, move || {
        let delegated = |ip: &DelegatedIp| Ipam::Delegated { ips: vec![ip.clone()], routes: Vec::new() };
        let first = ask(&socket, &attach("a", delegated(&ip)));
        let engine = engine.work(1);
        let Reply::Added(added) = read(&first) else { panic!("not added") };
        assert!(added.ips == [ip.clone()] && added.routes.is_empty());
        drop(first);
        let second = ask(&socket, &attach("b", delegated(&ip)));
        let engine = engine.work(1);
        let Reply::Error(error) = read(&second) else { panic!("added twice") };
        assert!(error.msg.contains("10.9.0.5"), "{error}");
        engine
    });
    assert!(engine.pods().len() == 1 && engine.state.ipam.leases.is_empty());
}

#[test]
fn a_client_that_is_gone_takes_its_add_back() {
    let directory = tempfile::tempdir().unwrap();
    let (runtime, socket, engine) = bench(directory.path());
    let engine = during(&runtime, move || {
        // Before its edit is done. A DEL follows here, too: the answer may be on its way.
        drop(ask(&socket, &attach("a", built_in())));
        std::thread::sleep(Duration::from_millis(100));
        let engine = engine.work(2);
        assert!(engine.pods().is_empty() && engine.state.ipam.leases.is_empty());
        // With the reply unread in its socket: a DEL follows.
        let unread = ask(&socket, &attach("b", built_in()));
        let engine = engine.work(1);
        assert_eq!(engine.pods().len(), 1);
        let mut fds = [rustix::event::PollFd::new(&unread, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        drop(unread);
        engine.work(1)
    });
    assert!(engine.pods().is_empty() && engine.state.ipam.leases.is_empty());
}

#[test]
fn what_is_no_request_is_told_so() {
    let directory = tempfile::tempdir().unwrap();
    let (runtime, socket, _engine) = bench(directory.path());
    during(&runtime, move || {
        let code_of = |client: &Connection| match read(client) {
            Reply::Error(error) => error.code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code_of(&client(&socket, b"{")), code::DECODE);
        assert_eq!(code_of(&client(&socket, br#"{"verb":"fly"}"#)), code::DECODE);
        let bare = Connection::connect(&socket).unwrap();
        bare.send(&serde_json::to_vec(&attach("a", built_in())).unwrap(), &[]).unwrap();
        assert_eq!(code_of(&bare), code::INVALID_NETNS);
        let wrong = Connection::connect(&socket).unwrap();
        let file = Dir::open("/run").unwrap();
        let request = serde_json::to_vec(&attach("a", built_in())).unwrap();
        wrong.send(&request, &[file.as_fd(), file.as_fd()]).unwrap();
        assert_eq!(code_of(&wrong), code::INVALID_NETNS);
        let one = Connection::connect(&socket).unwrap();
        one.send(&request, &[file.as_fd()]).unwrap();
        assert_eq!(code_of(&one), code::DECODE);
        // A silent client disturbs nobody; the engine is not there, but STATUS asks no engine.
        let _silent = Connection::connect(&socket).unwrap();
        let status = Request::Status { network: "pods".into(), delegated_ipam: false };
        assert_eq!(code_of(&ask(&socket, &status)), code::UNAVAILABLE);
        let check =
            Request::Check { attachment: attachment("a"), ips: Vec::new(), mac: None, routes: Vec::new() };
        assert_eq!(code_of(&ask(&socket, &check)), code::UNKNOWN_CONTAINER);
    });
}

#[test]
fn dels_left_on_disk_come_first() {
    let directory = tempfile::tempdir().unwrap();
    let queued = attachment("a");
    let file = directory.path().join(queued.queue_file());
    std::fs::write(&file, serde_json::to_vec(&queued).unwrap()).unwrap();
    let broken = directory.path().join("0123456789abcdef.json");
    std::fs::write(&broken, "{").unwrap();
    let (runtime, socket, mut engine) = bench(directory.path());
    let mut port = PortRecord::new(PortSpec::new("cni-a", "br0", PortKind::Tap, Owner::Cni));
    port.attachment = Some(queued);
    engine.state.ports.insert("cni-a".into(), port.into());
    let engine = during(&runtime, move || {
        let client = ask(&socket, &attach("a", built_in()));
        let engine = engine.work(1);
        assert!(engine.pods().is_empty());
        let engine = engine.work(1);
        assert!(matches!(read(&client), Reply::Added(_)));
        engine
    });
    assert_eq!(engine.pods().len(), 1);
    assert!(!file.exists() && !broken.exists() && broken.with_extension("bad").exists());
}

#[test]
fn dels_left_on_disk_later_are_done_too_unless_an_add_voids_them() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(attachment("a").queue_file());
    let path = file.clone();
    let (runtime, socket, engine) = bench(directory.path());
    let engine = during(&runtime, move || {
        let first = ask(&socket, &attach("a", built_in()));
        let engine = engine.work(1);
        assert!(matches!(read(&first), Reply::Added(_)));
        drop(first);
        std::fs::write(&path, serde_json::to_vec(&attachment("a")).unwrap()).unwrap();
        let engine = engine.work(1);
        assert!(engine.pods().is_empty());
        while path.exists() {
            std::thread::sleep(Duration::from_millis(10));
        }
        // Just after a look, so that the ADD comes before the next one.
        std::fs::write(&path, serde_json::to_vec(&attachment("a")).unwrap()).unwrap();
        let second = ask(&socket, &attach("a", built_in()));
        let engine = engine.work(1);
        assert!(matches!(read(&second), Reply::Added(_)));
        engine
    });
    assert!(engine.pods().len() == 1 && !file.exists());
}

#[test]
fn only_queue_files_are_replayed() {
    assert!(is_queued("0123456789abcdef.json"));
    for other in [".0123456789abcdef.json.17", "0123456789abcdef.bad", "x.json", "0123456789abcdeg.json"] {
        assert!(!is_queued(other), "{other}");
    }
}
