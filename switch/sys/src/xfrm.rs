//! IPsec policies (`linux/xfrm.h`): only whether there are any.
use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_XFRM};
use rustix::net::RecvFlags;

const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// Length of `struct nlmsghdr`, and of the flags that follow it.
const HEADER: usize = 16;
const FLAGS: usize = 4;

/// How many policies of the calling thread's namespace say what becomes of packets that leave it: those that are encrypted,
/// for example.
///
/// # Errors
/// `Unsupported` where nobody can ask by netlink; `PermissionDenied` without CAP_NET_ADMIN; what the socket says.
pub fn output_policies() -> io::Result<u32> {
    let mut socket = match Socket::new(NETLINK_XFRM) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "IPsec policies cannot be asked for"));
        }
        other => other?,
    };
    socket.bind_auto()?;
    let mut request = Vec::with_capacity(HEADER + FLAGS);
    request.extend_from_slice(&((HEADER + FLAGS) as u32).to_ne_bytes());
    request.extend_from_slice(&XFRM_MSG_GETSPDINFO.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request.resize(HEADER + FLAGS, 0);
    socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
    let mut answer = Vec::with_capacity(512);
    socket.recv(&mut answer, RecvFlags::empty().bits() as libc::c_int)?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> io::Result<u32> {
    let bad =
        || io::Error::new(io::ErrorKind::InvalidData, "an answer about IPsec policies that makes no sense");
    let word = |at: usize| answer.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let half = |at: usize| answer.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
    match half(4).ok_or_else(bad)? {
        XFRM_MSG_NEWSPDINFO => {}
        NLMSG_ERROR => {
            let errno = word(HEADER).ok_or_else(bad)?.cast_signed();
            return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
        }
        _ => return Err(bad()),
    }
    let mut at = HEADER + FLAGS;
    while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
        if kind == XFRMA_SPD_INFO {
            // `struct xfrmu_spdinfo`: in, out, forwarded.
            return word(at + 4 + 4).ok_or_else(bad);
        }
        at += usize::from(length.max(4)).next_multiple_of(4);
    }
    Err(bad())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing;

    #[test]
    fn policies_that_say_what_leaves_are_counted() {
        if !testing::root() {
            return;
        }
        testing::namespace()
            .run(|| {
                assert_eq!(output_policies().unwrap(), 0);
                let policy = |direction: &str| {
                    let args =
                        ["xfrm", "policy", "add", "dst", "192.0.2.0/24", "dir", direction, "action", "block"];
                    let done = Command::new("ip").args(args).output().unwrap();
                    assert!(done.status.success(), "{done:?}");
                };
                policy("in");
                assert_eq!(output_policies().unwrap(), 0);
                policy("out");
                assert_eq!(output_policies().unwrap(), 1);
            })
            .unwrap();
    }

    #[test]
    fn answers_that_make_no_sense_are_errors() {
        for answer in [
            &[][..],
            &[0; 20],
            &[0xff; 40],
            &[20, 0, 0, 0, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(parse(answer).unwrap_err().kind(), io::ErrorKind::InvalidData, "{answer:?}");
        }
        let refused = [36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(parse(&refused).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
