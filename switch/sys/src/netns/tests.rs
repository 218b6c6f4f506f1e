use std::fs::File;
use std::os::unix::net::UnixStream;

use super::*;
use crate::testing;

#[test]
fn run_acts_inside_and_the_caller_stays() {
    if !testing::root() {
        return;
    }
    let (home, other) = (Netns::current().unwrap(), testing::namespace());
    assert_ne!(home.id().unwrap(), other.id().unwrap());
    let inside = other.run(|| Netns::current().unwrap().id().unwrap()).unwrap();
    assert_eq!(inside, other.id().unwrap());
    assert_eq!(Netns::current().unwrap().id().unwrap(), home.id().unwrap());
}

#[test]
fn a_panic_inside_goes_on_outside() {
    if !testing::root() {
        return;
    }
    let netns = testing::namespace();
    let caught = std::panic::catch_unwind(|| netns.run(|| panic!("inside")));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"inside"));
}

/// Kernel fact: `NS_GET_NSTYPE` tells a network namespace from other namespaces and from other files.
#[test]
fn only_network_namespaces_are_taken() {
    let pair = UnixStream::pair().unwrap();
    let impostors: [OwnedFd; 4] = [
        File::open("/proc/self/ns/uts").unwrap().into(),
        File::open("/dev/null").unwrap().into(),
        tempfile::tempfile().unwrap().into(),
        pair.0.into(),
    ];
    for fd in impostors {
        assert_eq!(Netns::from_fd(fd).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    assert!(Netns::from_fd(File::open("/proc/self/ns/net").unwrap().into()).is_ok());
}

#[test]
fn the_same_namespace_has_the_same_id() {
    let by_pid = Netns::of_pid(std::process::id()).unwrap();
    let current = Netns::current().unwrap();
    assert_eq!(by_pid.id().unwrap(), current.id().unwrap());
    assert_eq!(current.try_clone().unwrap().id().unwrap(), current.id().unwrap());
}

#[test]
fn names_stay_inside_their_directory() {
    for name in ["", ".", "..", "../../proc/self/ns/net", "a/b"] {
        assert_eq!(Netns::by_name(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
    assert_eq!(Netns::by_name("weft-no-such-name").unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// To open a socket's file is an error of its own (`ENXIO`): it is not tried.
#[test]
fn other_files_are_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for path in [socket.as_path(), directory.path(), "/dev/null".as_ref(), "/proc/self/ns/uts".as_ref()] {
        assert_eq!(Netns::open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
    }
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
    assert_eq!(Netns::open(link).unwrap().id().unwrap(), Netns::current().unwrap().id().unwrap());
}
