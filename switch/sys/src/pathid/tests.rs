use std::ffi::OsStr;
use std::fs;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::UnshareFlags;

use super::*;
use crate::testing;

#[test]
fn a_replaced_file_has_another_identity() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    assert_eq!(dir.id_of("ns").unwrap(), None);
    fs::write(tmp.path().join("ns"), "").unwrap();
    let first = dir.id_of("ns").unwrap();
    assert!(first.is_some());
    // Another file must exist before the first goes, or its inode number may be used again.
    fs::write(tmp.path().join("other"), "").unwrap();
    fs::rename(tmp.path().join("other"), tmp.path().join("ns")).unwrap();
    assert_ne!(dir.id_of("ns").unwrap(), first);
}

#[test]
fn only_plain_names_and_directories() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = Dir::open(tmp.path()).unwrap();
    for name in ["", ".", "..", "../x", "/etc"] {
        assert_eq!(dir.id_of(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
    let file = fs::File::create(tmp.path().join("f")).unwrap();
    assert_eq!(Dir::from_fd(file.into()).unwrap_err().kind(), io::ErrorKind::NotADirectory);
}

/// Kernel fact: a directory's descriptor sees the mounts of the mount namespace where it was opened, from anywhere.
#[test]
fn a_mount_of_another_mount_namespace_is_seen() {
    if !testing::root() {
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let name = tmp.path().join("ns");
    fs::write(&name, "").unwrap();
    let netns = testing::namespace();
    let run = |program: &str, args: &[&OsStr]| {
        assert!(Command::new(program).args(args).status().unwrap().success(), "{program} {args:?}");
    };
    let (to_main, opened) = mpsc::channel();
    let (to_runtime, checked) = mpsc::channel::<()>();
    let (netns, name, dir) = (&netns, &name, tmp.path());
    thread::scope(|scope| {
        // The runtime: has a mount namespace of its own and names the network namespace only there.
        scope.spawn(move || {
            // SAFETY: FILES is not among the flags.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
            run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]);
            netns.enter().unwrap();
            run("mount", &["--bind".as_ref(), "/proc/self/ns/net".as_ref(), name.as_ref()]);
            to_main.send(Dir::open(dir).unwrap()).unwrap();
            let _ = checked.recv();
            run("umount", &[name.as_ref()]);
        });
        let there = opened.recv().unwrap();
        let here = Dir::open(dir).unwrap();
        let wanted = Some(netns.id().unwrap());
        let seen = (there.id_of("ns").unwrap() == wanted, here.id_of("ns").unwrap() == wanted);
        drop(to_runtime);
        assert_eq!(seen, (true, false));
        let end = Instant::now() + Duration::from_secs(10);
        while there.id_of("ns").unwrap() == wanted {
            assert!(Instant::now() < end, "the name is not seen to go");
            thread::sleep(Duration::from_millis(5));
        }
    });
}
