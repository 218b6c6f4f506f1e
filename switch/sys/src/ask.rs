//! One question to the kernel by netlink, and of its one answer one attribute: for families that the netlink library does
//! not know. (RFC 3549; `linux/netlink.h`.)
use std::io;

use netlink_sys::{Socket, SocketAddr};
use rustix::net::RecvFlags;

const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
/// Length of `struct nlmsghdr`, and of the family's own header that follows it: four bytes of zeros ask for everything.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;

/// What is asked, and how it is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    /// The netlink protocol, as NETLINK_NETFILTER.
    pub protocol: isize,
    /// Message type of the question.
    pub ask: u16,
    /// Message type of the answer.
    pub answer: u16,
    /// Type of the attribute that is wanted.
    pub attribute: u16,
}

impl Question {
    /// A socket for [`Question::ask`], in the calling thread's namespace.
    ///
    /// # Errors
    /// `Unsupported` where the kernel has no such protocol; what `socket(2)` says.
    pub(crate) fn socket(self) -> io::Result<Socket> {
        let mut socket = match Socket::new(self.protocol) {
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
                return Err(io::ErrorKind::Unsupported.into());
            }
            other => other?,
        };
        socket.bind_auto()?;
        Ok(socket)
    }

    /// The attribute's value. After an error the socket is of no use any more: the answer may still come.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; `InvalidData` when the answer makes no sense; what the socket says.
    pub(crate) fn ask(self, socket: &Socket) -> io::Result<Vec<u8>> {
        let mut request = Vec::with_capacity(HEADER + FAMILY_HEADER);
        request.extend_from_slice(&((HEADER + FAMILY_HEADER) as u32).to_ne_bytes());
        request.extend_from_slice(&self.ask.to_ne_bytes());
        request.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        request.resize(HEADER + FAMILY_HEADER, 0);
        socket.send_to(&request, &SocketAddr::new(0, 0), 0)?;
        let mut answer = Vec::with_capacity(512);
        socket.recv(&mut answer, RecvFlags::empty().bits() as libc::c_int)?;
        self.find(&answer)
    }

    fn find(self, answer: &[u8]) -> io::Result<Vec<u8>> {
        let bad =
            || io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel that makes no sense");
        let half = |at: usize| answer.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes);
        match half(4).ok_or_else(bad)? {
            kind if kind == self.answer => {}
            NLMSG_ERROR => {
                let errno = answer.get(HEADER..HEADER + 4).and_then(|errno| errno.try_into().ok());
                let errno = i32::from_ne_bytes(errno.ok_or_else(bad)?);
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            _ => return Err(bad()),
        }
        let mut at = HEADER + FAMILY_HEADER;
        while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
            let length = usize::from(length.max(4));
            if kind == self.attribute {
                return answer.get(at + 4..at + length).map(<[u8]>::to_vec).ok_or_else(bad);
            }
            at += length.next_multiple_of(4);
        }
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_make_no_sense_are_errors() {
        let question = Question { protocol: 0, ask: 0x25, answer: 0x24, attribute: 1 };
        for answer in [
            &[][..],
            &[0; 20],
            &[0xff; 40],
            &[20, 0, 0, 0, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[28, 0, 0, 0, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 1, 0, 7, 7, 7, 7],
        ] {
            assert_eq!(question.find(answer).unwrap_err().kind(), io::ErrorKind::InvalidData, "{answer:?}");
        }
        let refused = [36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(question.find(&refused).unwrap_err().raw_os_error(), Some(libc::EPERM));
        let found = [
            32, 0, 0, 0, 0x24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 9, 0, 1, 0, 0, 0, 6, 0, 1,
            0, 7, 8,
        ];
        assert_eq!(question.find(&found).unwrap(), [7, 8]);
    }
}
