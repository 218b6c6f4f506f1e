//! IPsec policies (`linux/xfrm.h`): only whether there are any.
use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_XFRM;

use crate::ask::Question;

const XFRM_MSG_NEWSPDINFO: u16 = 0x24;
const XFRM_MSG_GETSPDINFO: u16 = 0x25;
const XFRMA_SPD_INFO: u16 = 1;

const QUESTION: Question = Question {
    protocol: NETLINK_XFRM,
    ask: XFRM_MSG_GETSPDINFO,
    answer: XFRM_MSG_NEWSPDINFO,
    attribute: XFRMA_SPD_INFO,
};

/// Policies of the namespace in which they were first asked for.
#[derive(Debug, Default)]
pub struct Policies(Option<Socket>);

impl Policies {
    /// How many say what becomes of packets that leave: those that are encrypted, for example.
    ///
    /// # Errors
    /// `Unsupported` where nobody can ask by netlink; `PermissionDenied` without CAP_NET_ADMIN; what the socket says.
    pub fn outgoing(&mut self) -> io::Result<u32> {
        let socket = match self.0.take() {
            Some(socket) => socket,
            None => QUESTION.socket().map_err(|error| match error.kind() {
                io::ErrorKind::Unsupported => {
                    io::Error::new(error.kind(), "IPsec policies cannot be asked for")
                }
                _ => error,
            })?,
        };
        let value = QUESTION.ask(&socket)?;
        self.0 = Some(socket);
        // `struct xfrmu_spdinfo`: in, out, forwarded.
        let out = value.get(4..8).and_then(|out| out.try_into().ok());
        out.map(u32::from_ne_bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
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
                let mut policies = Policies::default();
                assert_eq!(policies.outgoing().unwrap(), 0);
                let policy = |direction: &str| {
                    let args =
                        ["xfrm", "policy", "add", "dst", "192.0.2.0/24", "dir", direction, "action", "block"];
                    let done = Command::new("ip").args(args).output().unwrap();
                    assert!(done.status.success(), "{done:?}");
                };
                policy("in");
                assert_eq!(policies.outgoing().unwrap(), 0);
                policy("out");
                assert_eq!(policies.outgoing().unwrap(), 1);
            })
            .unwrap();
    }
}
