use std::fs;
use std::sync::mpsc;

use super::*;

#[test]
fn a_name_dies_when_it_means_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ns");
    fs::write(&path, "").unwrap();
    let id = id_at(&path).unwrap().unwrap();
    let record = NetnsRecord { path: path.to_str().unwrap().to_owned(), dev: id.dev, ino: id.ino };
    let name = NetnsName::new(&record, None);
    let by_fd = NetnsName::new(&record, Some(Arc::new(Dir::open(dir.path()).unwrap())));
    assert!(name.is_watched() && name.lives() && by_fd.lives());
    let other = dir.path().join("other");
    fs::write(&other, "").unwrap();
    fs::rename(&other, &path).unwrap();
    assert!(!name.lives() && !by_fd.lives());
    fs::remove_file(&path).unwrap();
    assert!(!name.lives() && !by_fd.lives());
    let blind = NetnsName::new(&record, None);
    assert!(!blind.is_watched() && blind.lives());
}

#[test]
fn a_process_namespace_is_followed_through_its_link() {
    let path = format!("/proc/{}/ns/net", std::process::id());
    let id = Netns::open(&path).unwrap().id().unwrap();
    let record = NetnsRecord { path, dev: id.dev, ino: id.ino };
    let name = NetnsName::new(&record, None);
    assert!(name.is_watched() && name.lives());
    assert!(reopen(&record).unwrap().is_some());
    let other = NetnsRecord { ino: id.ino + 1_000_000, ..record.clone() };
    assert!(reopen(&other).unwrap().is_none());
    let gone = NetnsRecord { path: "/proc/0/ns/net".to_owned(), ..other };
    assert!(reopen(&gone).unwrap().is_none());
    // The path is another mount namespace's, but a process lives in the namespace.
    let elsewhere = NetnsRecord { path: "/proc/0/ns/net".to_owned(), ..record };
    assert!(reopen(&elsewhere).unwrap().is_some());
}

#[test]
fn tells_edits_and_seconds_and_stops_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster.toml");
    fs::write(&path, "[cluster]\nvni = 7\n").unwrap();
    let (sender, events) = mpsc::channel();
    let watch =
        Watch::start(Some(FileWatch::new(&path)), true, move |event| sender.send(event).is_ok()).unwrap();
    let next_cluster = || loop {
        if let Event::Cluster(result) = events.recv_timeout(Duration::from_secs(10)).unwrap() {
            return result;
        }
    };
    assert_eq!(next_cluster().unwrap().vni.map(|vni| vni.get()), Some(7));
    fs::write(&path, "[cluster]\nvni = 0\n").unwrap();
    let error = next_cluster().unwrap_err();
    assert!(error.starts_with(&format!("{}:2: 0 is not a VNI", path.display())), "{error}");
    while !matches!(events.recv_timeout(Duration::from_secs(10)).unwrap(), Event::Tick { .. }) {}
    drop(watch);
    assert!(events.try_iter().last().is_none() || events.recv().is_err());
}

#[test]
fn a_mount_is_noticed_once() {
    use crate::control::effects::testing::{root, sh};
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display();
    let mounts = Mounts::open().unwrap();
    // Others may mount things meanwhile, but not all the time.
    let is_told_once = || mounts.have_changed() && (0..100).any(|_| !mounts.have_changed());
    sh(&format!("mount -t tmpfs weft-test {path}"));
    let mounted = is_told_once();
    sh(&format!("umount {path}"));
    assert!(mounted && is_told_once());
}
