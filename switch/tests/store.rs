//! The store against death and damage: a writer killed at any instant has kept every change that it acknowledged, and
//! a file that was damaged is refused, kept aside and replaced.
//!
//! More rounds: `WEFT_STORE_ROUNDS=5000 cargo test -p weft-switch --test store`.

#[path = "common/dice.rs"]
mod dice;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dice::Dice;
use weft_api::{BridgeSpec, Owner, PortKind, PortSpec};
use weft_switch::control::state::{Lease, PortRecord, State};
use weft_switch::control::store::{Loaded, Place, Store, changes};

const BOOT: &str = "boot-1";
/// Directory and number of the state to start from, for the process that writes.
const WRITER: &str = "WEFT_STORE_WRITER";
/// Writers killed, and the time that may take, unless the environment asks for more.
const ROUNDS: u32 = 120;
const TIME: Duration = Duration::from_secs(20);

/// The states that writers go through, one after the other.
struct Sequence {
    number: u64,
    state: State,
}

impl Sequence {
    fn at(number: u64) -> Self {
        let mut sequence = Sequence { number: 0, state: State::default() };
        while sequence.number < number {
            sequence.step();
        }
        sequence
    }

    /// One change: of pods, of settings, or of both, as transactions make them.
    fn step(&mut self) {
        self.number += 1;
        let mut dice = Dice(self.number);
        let kind = dice.below(5);
        if kind != 1 {
            for _ in 0..=dice.below(8) {
                self.pod(dice.below(60) as u8);
            }
        }
        if kind <= 1 {
            self.setting(dice.below(40) as u64, dice.roll());
        }
    }

    fn pod(&mut self, n: u8) {
        let (name, ip) = (format!("pod{n}"), IpAddr::from([10, 244, 1, n]));
        if self.state.ports.remove(&name).is_some() {
            self.state.ipam.leases.remove(&ip);
            self.state.ipam.quarantine.insert(ip, self.number);
            return;
        }
        let mut spec = PortSpec::new(&name, "br0", PortKind::Tap, Owner::Cni);
        spec.external_ids = [("padding".to_owned(), "x".repeat(usize::from(n) * 20))].into();
        self.state.ports.insert(name.clone(), Arc::new(PortRecord::new(spec)));
        self.state.ipam.quarantine.remove(&ip);
        self.state.ipam.leases.insert(ip, Lease { port: name, attachment: None });
    }

    fn setting(&mut self, n: u64, value: u64) {
        let name = format!("br{n}");
        if value.is_multiple_of(3) && self.state.bridges.remove(&name).is_some() {
            return;
        }
        let mut bridge = BridgeSpec::new(&name, Owner::Cli);
        bridge.flood_pps = value as u32;
        self.state.bridges.insert(name, Arc::new(bridge));
    }
}

type Objects = BTreeMap<String, Vec<u8>>;

/// What one of the files keeps of a state, or both.
fn objects(state: &State, place: Option<Place>) -> Objects {
    let kept = changes(&State::default(), state);
    let kept = kept.into_iter().filter(|object| place.is_none_or(|place| object.place == place));
    kept.map(|object| (object.key, object.value.unwrap_or_default())).collect()
}

fn open(dir: &Path) -> (Store, Loaded) {
    Store::open(&dir.join("run"), &dir.join("lib"), BOOT).expect("the directories can be written to")
}

/// Not a test by itself: the process that is killed.
#[test]
fn writer() {
    let Ok(told) = std::env::var(WRITER) else { return };
    let (dir, number) = told.rsplit_once(' ').expect("directory and number");
    let mut sequence = Sequence::at(number.parse().expect("a number"));
    let (store, _) = open(Path::new(dir));
    let mut out = std::io::stdout();
    loop {
        let before = sequence.state.clone();
        sequence.step();
        store.write(&before, &sequence.state).expect("it is written");
        // A pipe: whole lines, also when killed.
        out.write_all(format!("kept {}\n", sequence.number).as_bytes()).expect("somebody reads");
        out.flush().expect("somebody reads");
    }
}

fn start(dir: &Path, number: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--exact", "writer", "--nocapture"]).env(WRITER, format!("{} {number}", dir.display()));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// What a line acknowledges; the test harness writes before the first one.
fn number_of(line: &str) -> Option<u64> {
    line.split_once("kept ")?.1.parse().ok()
}

/// Lets a writer go on from state `number` and kills it; the last state it acknowledged.
fn killed(dir: &Path, number: u64, dice: &mut Dice) -> u64 {
    let mut child = start(dir, number);
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut last = number;
    let mut note = |line: String| {
        last = number_of(&line).unwrap_or(last);
    };
    // It dies between any two instructions: some while after it acknowledged some change.
    let (patience, target) = (Duration::from_micros(dice.below(6000) as u64), number + dice.below(20) as u64);
    for line in lines.by_ref().map_while(Result::ok) {
        let enough = number_of(&line).is_some_and(|number| number >= target);
        note(line);
        if enough {
            break;
        }
    }
    std::thread::sleep(patience);
    child.kill().expect("it runs");
    child.wait().expect("it ended");
    lines.map_while(Result::ok).for_each(note);
    last
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_instant() {
    let dir = tempfile::tempdir().expect("a directory");
    let asked: Option<u32> = std::env::var("WEFT_STORE_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
    let (mut dice, begun) = (Dice(1), Instant::now());
    let (mut sequence, mut ahead) = (Sequence::at(0), 0);
    drop(open(dir.path()));
    for round in 0..asked.unwrap_or(ROUNDS) {
        if asked.is_none() && begun.elapsed() > TIME {
            assert!(round >= ROUNDS / 4, "{round} rounds in {TIME:?}");
            break;
        }
        let acknowledged = killed(dir.path(), sequence.number, &mut dice);
        while sequence.number < acknowledged {
            sequence.step();
        }
        let mut next = Sequence { number: sequence.number, state: sequence.state.clone() };
        next.step();
        let (store, loaded) = open(dir.path());
        assert_eq!(loaded.damaged, Vec::<String>::new(), "round {round}");
        // The change under way is there or not, file by file; the settings come last.
        let found = objects(&loaded.state, None);
        let mixed = |ports: &State, settings: &State| {
            let mut all = objects(ports, Some(Place::Ports));
            all.extend(objects(settings, Some(Place::Settings)));
            all
        };
        let kept = [
            mixed(&sequence.state, &sequence.state),
            mixed(&next.state, &sequence.state),
            mixed(&next.state, &next.state),
        ];
        let which = kept.iter().position(|kept| *kept == found);
        assert!(which.is_some(), "round {round}: neither state {acknowledged} nor the next");
        ahead += u32::from(which != Some(0));
        // The next writer starts from a whole state.
        store.write(&loaded.state, &next.state).expect("it is written");
        sequence = next;
    }
    println!(
        "{ahead} times the change under way was kept; {} changes, {:?}",
        sequence.number,
        begun.elapsed()
    );
}

/// A store with something in both files, closed.
fn filled(dir: &Path) -> State {
    let state = Sequence::at(60).state;
    let (store, _) = open(dir);
    store.write(&State::default(), &state).expect("it is written");
    state
}

fn files_aside(folder: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a directory").flatten().map(|entry| entry.path());
    let ours = |path: &PathBuf| {
        path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&format!("{name}.damaged-")))
    };
    entries.filter(ours).collect()
}

#[test]
fn damage_is_refused_and_kept_aside_or_harmless() {
    let mut dice = Dice(7);
    let (mut refused, mut harmless) = (0, 0);
    for round in 0..60 {
        let dir = tempfile::tempdir().expect("a directory");
        let state = filled(dir.path());
        let (folder, name) = [("run", "ports.redb"), ("lib", "settings.redb")][round % 2];
        let (folder, path) = (dir.path().join(folder), dir.path().join(folder).join(name));
        let good = fs::read(&path).expect("a file");
        let mut bytes = good.clone();
        let at = dice.below(bytes.len());
        match round / 2 % 5 {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << dice.below(8),
            2 => bytes[at..].fill(0),
            3 => bytes.iter_mut().skip(at).take(4096).for_each(|byte| *byte = 0),
            // Something that is there for certain.
            _ => {
                let needle: &[u8] = if round % 2 == 0 { b"10.244.1." } else { b"flood_pps" };
                let found = bytes.windows(needle.len()).position(|window| window == needle);
                bytes[found.expect("it is kept as text")] ^= 1;
            }
        }
        fs::write(&path, &bytes).expect("it can be written");
        let (store, loaded) = open(dir.path());
        let aside = files_aside(&folder, name);
        if loaded.damaged.is_empty() {
            assert_eq!(
                objects(&loaded.state, None),
                objects(&state, None),
                "round {round}: silently changed"
            );
            assert!(aside.is_empty());
            harmless += 1;
        } else {
            let message = &loaded.damaged[0];
            assert!(message.contains(name) && message.contains("was moved to"), "{message}");
            assert_eq!(aside.len(), 1, "{message}");
            // The ports are rebuilt, the settings cannot be.
            let place = (round % 2 == 1).then_some(Place::Ports);
            assert_eq!(objects(&loaded.state, None), objects(&state, place), "{message}");
            assert_eq!((loaded.settings_lost, message.contains("rebuilt")), (round % 2 == 1, round % 2 == 0));
            refused += 1;
        }
        store.write(&loaded.state, &state).expect("the fresh file is written");
        drop(store);
        let (_, again) = open(dir.path());
        assert_eq!(objects(&again.state, None), objects(&state, None));
        assert!(again.damaged.is_empty());
    }
    println!("{refused} refused, {harmless} harmless");
    assert!(refused >= 20);
}

#[test]
fn a_missing_file_is_rebuilt_and_that_of_another_boot_is_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let state = filled(dir.path());
    let ports = || fs::read_dir(dir.path().join("run/ports.d")).expect("a directory").count();
    assert_eq!(ports(), objects(&state, Some(Place::Ports)).len());
    fs::remove_file(dir.path().join("run/ports.redb")).expect("a file");
    let (store, loaded) = open(dir.path());
    assert_eq!(objects(&loaded.state, None), objects(&state, None));
    assert!(loaded.damaged[0].contains("ports.redb is missing"), "{:?}", loaded.damaged);
    drop(store);
    let (_, loaded) =
        Store::open(&dir.path().join("run"), &dir.path().join("lib"), "boot-2").expect("it opens");
    assert_eq!(loaded.damaged, Vec::<String>::new());
    assert_eq!((objects(&loaded.state, Some(Place::Ports)).len(), ports()), (0, 0));
}

#[test]
fn an_empty_file_is_damaged_too() {
    let dir = tempfile::tempdir().expect("a directory");
    filled(dir.path());
    fs::write(dir.path().join("lib/settings.redb"), b"").expect("it can be written");
    let (_, loaded) = open(dir.path());
    assert!(loaded.damaged[0].contains("settings.redb"), "{:?}", loaded.damaged);
}
