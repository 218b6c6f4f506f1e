use std::sync::Arc;

use weft_api::{BridgeSpec, Owner, PortKind, PortSpec};

use super::*;
use crate::control::state::{Lease, PortRecord};
use crate::control::testing::state_with_cluster;

fn busy_state() -> State {
    let mut state = state_with_cluster();
    state.bridges.insert("br1".into(), Arc::new(BridgeSpec::new("br1", Owner::Cli)));
    let mut spec = PortSpec::new("pod", "br0", PortKind::Tap, Owner::Cni);
    spec.ips = vec!["10.244.1.9/24".parse().unwrap()];
    state.put_port(PortRecord::new(spec));
    state.put_port(PortRecord::new(PortSpec::new("tap9", "br1", PortKind::Tap, Owner::Cli)));
    state.ipam.leases.insert("10.244.1.9".parse().unwrap(), Lease { port: "pod".into(), attachment: None });
    state.ipam.quarantine.insert("10.244.1.8".parse().unwrap(), 17);
    state
}

/// What of a state is kept.
fn kept(state: &State) -> State {
    let mut kept = state.clone();
    kept.node = Arc::default();
    kept.bridges.retain(|_, bridge| bridge.owner != Owner::File);
    kept.ports.retain(|_, port| port.spec.owner != Owner::File);
    kept
}

fn open(dir: &Path) -> (Store, Loaded) {
    Store::open(&dir.join("run"), &dir.join("lib"), "boot-1").unwrap()
}

#[test]
fn what_was_written_returns() {
    let dir = tempfile::tempdir().unwrap();
    let state = busy_state();
    let (store, loaded) = open(dir.path());
    assert_eq!(loaded.state, State::default());
    store.write(&State::default(), &state).unwrap();
    drop(store);
    let (store, loaded) = open(dir.path());
    assert_eq!(loaded.state, kept(&state));
    assert!(loaded.damaged.is_empty());
    // And the way back leaves nothing.
    store.write(&state, &State::default()).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).1.state, State::default());
}

#[test]
fn a_peek_sees_what_a_killed_daemon_left_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let peek = |at: &Path, boot| Store::peek(&at.join("run"), &at.join("lib"), boot);
    assert_eq!(peek(dir.path(), "boot-1"), None);
    let state = busy_state();
    let (store, _) = open(dir.path());
    store.write(&State::default(), &state).unwrap();
    // As kill -9 leaves them: open, never closed.
    let killed = tempfile::tempdir().unwrap();
    let mut before = Vec::new();
    for (folder, file) in [("run", "ports.redb"), ("lib", "settings.redb")] {
        fs::create_dir(killed.path().join(folder)).unwrap();
        let copy = killed.path().join(folder).join(file);
        fs::copy(dir.path().join(folder).join(file), &copy).unwrap();
        before.push((fs::read(&copy).unwrap(), copy));
    }
    assert_eq!(peek(killed.path(), "boot-1"), Some(kept(&state)));
    assert_eq!(peek(killed.path(), "boot-2"), None);
    assert!(before.iter().all(|(bytes, path)| fs::read(path).unwrap() == *bytes));
    assert_eq!(open(killed.path()).1.state, kept(&state));
    fs::write(&before[1].1, [0x5a; 4096]).unwrap();
    assert_eq!(peek(killed.path(), "boot-1"), None);
}

#[test]
fn files_can_be_lent() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store.release();
    assert!(store.write(&State::default(), &busy_state()).is_err());
    let (other, _) = open(dir.path());
    assert!(store.reopen().is_err(), "the other has them");
    other.write(&State::default(), &busy_state()).unwrap();
    drop(other);
    store.reopen().unwrap();
    // One file after the other: what is open stays so.
    store.release();
    let other = Database::create(dir.path().join("lib/settings.redb")).unwrap();
    assert!(store.reopen().is_err() && !store.is_open());
    drop(other);
    store.reopen().unwrap();
    assert!(store.is_open());
    store.write(&busy_state(), &State::default()).unwrap();
    drop(store);
    assert_eq!(open(dir.path()).1.state, State::default());
}

#[test]
fn a_boot_ends_pods_not_settings() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    store.write(&State::default(), &busy_state()).unwrap();
    drop(store);
    let (_, loaded) = Store::open(&dir.path().join("run"), &dir.path().join("lib"), "boot-2").unwrap();
    assert_eq!(loaded.state.ports.keys().collect::<Vec<_>>(), ["tap9"]);
    assert!(loaded.state.bridges.contains_key("br1") && loaded.state.ipam.leases.is_empty());
}

#[test]
fn a_damaged_file_is_moved_aside() {
    for (name, damage) in [("ports.redb", true), ("settings.redb", false)] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        store.write(&State::default(), &busy_state()).unwrap();
        drop(store);
        let folder = dir.path().join(if damage { "run" } else { "lib" });
        let path = folder.join(name);
        let length = fs::metadata(&path).unwrap().len();
        fs::write(&path, vec![0x5a; usize::try_from(length).unwrap()]).unwrap();
        let (_, loaded) = open(dir.path());
        assert_eq!(loaded.damaged.len(), 1, "{name}");
        assert!(loaded.damaged[0].contains("was moved to"), "{}", loaded.damaged[0]);
        let aside = fs::read_dir(&folder).unwrap().filter_map(Result::ok);
        assert!(
            aside
                .into_iter()
                .any(|f| f.file_name().to_string_lossy().starts_with(&format!("{name}.damaged-")))
        );
    }
}

#[test]
fn a_file_that_another_daemon_has_is_left_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    // Its own run directory, but the same settings.
    let second = Store::open(&dir.path().join("run2"), &dir.path().join("lib"), "boot-1").unwrap_err();
    assert!(second.to_string().contains("settings.redb is in use by another weftd"), "{second}");
    store.write(&State::default(), &busy_state()).unwrap();
    drop(store);
    assert!(open(dir.path()).1.state.bridges.contains_key("br1"));
}

#[test]
fn another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let write = store.ports.database.as_ref().unwrap().begin_write().unwrap();
    write.open_table(META).unwrap().insert("format", "9").unwrap();
    write.commit().unwrap();
    drop(store);
    let (_, loaded) = open(dir.path());
    assert!(loaded.damaged[0].contains("format `9`; this weftd reads format 1"), "{:?}", loaded.damaged);
}

#[test]
fn only_one_daemon_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _lock = Lock::take(dir.path()).unwrap();
    let second = Lock::take(dir.path()).unwrap_err().to_string();
    assert!(
        second.contains(&format!("in use by another weftd (process {})", std::process::id())),
        "{second}"
    );
}
