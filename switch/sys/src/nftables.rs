//! nftables (`linux/netfilter/nf_tables.h`): only whether anybody has changed something.
use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::ask::Question;

const SUBSYSTEM: u16 = 10 << 8;
const NFT_MSG_NEWGEN: u16 = 15;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_GEN_ID: u16 = 1;

/// The generation of the calling thread's namespace: another one after every transaction, whoever made it.
///
/// # Errors
/// `Unsupported` or `NotFound`, `InvalidInput` where the kernel has no nftables; `PermissionDenied` without CAP_NET_ADMIN;
/// what the socket says.
pub fn generation() -> io::Result<u32> {
    let question = Question {
        protocol: NETLINK_NETFILTER,
        ask: SUBSYSTEM | NFT_MSG_GETGEN,
        answer: SUBSYSTEM | NFT_MSG_NEWGEN,
        attribute: NFTA_GEN_ID,
    };
    let value = question.ask(&question.socket()?)?;
    let value = value.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(u32::from_be_bytes(value))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::testing;

    #[test]
    fn every_change_is_another_generation() {
        if !testing::root() {
            return;
        }
        let changed = || {
            let nft = |words: &[&str]| assert!(Command::new("nft").args(words).status().unwrap().success());
            let mut seen = vec![generation().unwrap()];
            assert_eq!(generation().unwrap(), seen[0]);
            for words in [["add", "table", "inet", "t"], ["delete", "table", "inet", "t"]] {
                nft(&words);
                seen.push(generation().unwrap());
            }
            seen
        };
        let seen = testing::namespace().run(changed).unwrap();
        assert!(seen[0] != seen[1] && seen[1] != seen[2], "{seen:?}");
    }
}
