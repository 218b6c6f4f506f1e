use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

use super::*;

fn connected() -> (tempfile::TempDir, Connection, Connection) {
    let tmp = tempfile::tempdir().unwrap();
    let listener = Listener::bind(tmp.path().join("s"), 0o600, None).unwrap();
    let client = Connection::connect(listener.path()).unwrap();
    let server = listener.accept().unwrap();
    (tmp, client, server)
}

#[test]
fn messages_and_descriptors_arrive_together() {
    let (_tmp, client, server) = connected();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"through the socket").unwrap();
    client.send(b"one", &[file.as_fd(), client.as_fd()]).unwrap();
    client.send(b"two", &[]).unwrap();
    let mut buf = [0; 100];
    let (len, mut fds) = server.recv(&mut buf).unwrap();
    assert_eq!((&buf[..len], fds.len()), (&b"one"[..], 2));
    let mut got = File::from(fds.remove(0));
    got.rewind().unwrap();
    let mut text = String::new();
    got.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through the socket");
    let flags = rustix::io::fcntl_getfd(&got).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    assert_eq!(server.recv(&mut buf).unwrap().0, 3);
    assert_eq!(server.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn the_longest_message_passes_and_longer_ones_do_not() {
    let (client, server) = Connection::pair().unwrap();
    let message = vec![7; MAX_MESSAGE];
    match client.send(&message, &[]) {
        Ok(()) => {
            let mut buf = vec![0; MAX_MESSAGE];
            assert_eq!(server.recv(&mut buf).unwrap().0, MAX_MESSAGE);
        }
        Err(error) => println!("skipped: needs CAP_NET_ADMIN ({error})"),
    }
    let invalid =
        |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    invalid(client.send(&vec![0; MAX_MESSAGE + 1], &[]));
    invalid(client.send(b"", &[]));
    invalid(client.send(b"x", &[server.as_fd(); MAX_FDS + 1]));
}

#[test]
fn what_does_not_fit_is_an_error_and_leaks_nothing() {
    let (client, server) = Connection::pair().unwrap();
    let (read, write) = rustix::pipe::pipe().unwrap();
    client.send(&[0; 101], &[write.as_fd()]).unwrap();
    drop(write);
    assert_eq!(server.recv(&mut [0; 100]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    // The pipe ends only when every copy of its other end is closed.
    assert_eq!(rustix::io::read(&read, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn hanging_up_is_a_message_of_no_bytes() {
    let (client, server) = Connection::pair().unwrap();
    drop(client);
    assert_eq!(server.recv(&mut [0; 10]).unwrap().0, 0);
    assert_eq!(server.send(b"x", &[]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn the_peer_is_known() {
    let (_tmp, client, server) = connected();
    let me = PeerCred {
        pid: std::process::id().try_into().unwrap(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
    };
    assert_eq!(server.peer_cred().unwrap(), me);
    assert_eq!(client.peer_cred().unwrap(), me);
}

#[test]
fn bind_replaces_only_a_dead_socket() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("s");
    let kind = || Listener::bind(&path, 0o660, None).unwrap_err().kind();
    let live = Listener::bind(&path, 0o660, None).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    assert_eq!(live.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(kind(), io::ErrorKind::AddrInUse);
    drop(live);
    assert!(path.exists(), "the file stays over a restart");
    let group = rustix::process::getegid().as_raw();
    let again = Listener::bind(&path, 0o600, Some(group)).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().gid(), group);
    again.unlink().unwrap();
    drop(again);
    let _stream = UnixListener::bind(&path).unwrap();
    assert_eq!(kind(), io::ErrorKind::AddrInUse, "a live socket of another type");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    assert_eq!(kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn only_such_sockets_are_taken_over() {
    let (client, _server) = Connection::pair().unwrap();
    assert!(Connection::from_fd(client.into()).is_ok());
    let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert_eq!(Connection::from_fd(stream.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
