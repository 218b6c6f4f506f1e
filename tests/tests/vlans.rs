//! VLANs that ports carry tagged (`trunks=`) or are in (`tag=`): frames pass only where both ends have the VLAN.

use weft_tests::raw::{count, counted, send};
use weft_tests::{Lab, Namespace, Options, Result, as_root, ensure, eventually};

const BROADCAST: &str = "ff:ff:ff:ff:ff:ff";
/// Frames of each burst.
const BURST: usize = 5;

/// Three ports of one bridge and what came in at each: untagged, VLAN 7, 8, 9.
struct Ports {
    lab: Lab,
    ends: [Namespace; 3],
    expected: [[u64; 4]; 3],
    dropped: u64,
}

/// Places of the ports: VLANs 8 and 9 tagged, VLAN 8 tagged, VLAN 9 untagged.
const BOTH: usize = 0;
const FIRST: usize = 1;
const ACCESS: usize = 2;

impl Ports {
    fn up() -> Result<Self> {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let ends = [Namespace::new("both")?, Namespace::new("first")?, Namespace::new("access")?];
        lab.nodes[0].weft(&["add-br", "lan"])?;
        let settings = [("both", "trunks=8,9"), ("first", "trunks=8"), ("access", "tag=9")];
        for (end, (port, setting)) in ends.iter().zip(settings) {
            lab.nodes[0].weft(&["add-port", "lan", port, &format!("netns={}", end.name()), setting])?;
            count(end, &[7, 8, 9])?;
        }
        Ok(Ports { lab, ends, expected: [[0; 4]; 3], dropped: 0 })
    }

    fn mac(&self, end: usize) -> Result<String> {
        self.ends[end].sh("cat /sys/class/net/eth0/address")
    }

    /// A burst from one end; `to` are those that get it, each with the VLAN of the tag that it has then. `dropped`: the
    /// sender's port refuses it, and it is counted.
    fn burst(
        &mut self,
        (from, mac, vlan): (usize, &str, Option<u16>),
        to: &[(usize, Option<u16>)],
        dropped: bool,
    ) -> Result<()> {
        send(&self.ends[from], mac, vlan, BURST)?;
        for (end, vlan) in to {
            let column = vlan.map_or(0, |vlan| usize::from(vlan) - 6);
            self.expected[*end][column] += BURST as u64;
        }
        self.dropped += if dropped { BURST as u64 } else { 0 };
        eventually(5, || {
            for (end, expected) in self.ends.iter().zip(self.expected) {
                let found = counted(end)?;
                ensure!(
                    found == expected,
                    "{vlan:?} to {mac}: {} got {found:?}, not {expected:?}",
                    end.name()
                );
            }
            let found = self.lab.nodes[0].drops("vlan")?;
            ensure!(found == self.dropped, "{vlan:?} to {mac}: {found} dropped, not {}", self.dropped);
            Ok(())
        })
    }
}

#[test]
fn tagged_frames_pass_only_where_trunks_allow() {
    as_root(|| {
        let mut ports = Ports::up()?;
        let (first, access) = (ports.mac(FIRST)?, ports.mac(ACCESS)?);
        let (v7, v8, v9) = (Some(7), Some(8), Some(9));
        ports.burst((BOTH, BROADCAST, v8), &[(FIRST, v8)], false)?;
        ports.burst((BOTH, BROADCAST, v9), &[(ACCESS, None)], false)?;
        ports.burst((BOTH, BROADCAST, None), &[(FIRST, None)], false)?;
        ports.burst((FIRST, BROADCAST, v8), &[(BOTH, v8)], false)?;
        ports.burst((ACCESS, BROADCAST, None), &[(BOTH, v9)], false)?;
        // Tags that the sender's own port does not carry: an access port none, not even its own VLAN's.
        ports.burst((BOTH, BROADCAST, v7), &[], true)?;
        ports.burst((FIRST, BROADCAST, v9), &[], true)?;
        ports.burst((ACCESS, BROADCAST, v9), &[], true)?;
        // The same by name.
        ports.burst((BOTH, &first, v8), &[(FIRST, v8)], false)?;
        ports.burst((BOTH, &access, v9), &[(ACCESS, None)], false)?;
        ports.burst((BOTH, &first, v9), &[], false)?;
        ports.burst((FIRST, &access, v9), &[], true)?;
        // A change holds at once, for stations that are known as well.
        ports.lab.nodes[0].weft(&["set", "port", "first", "trunks=9"])?;
        ports.burst((BOTH, &first, v9), &[(FIRST, v9)], false)?;
        ports.burst((FIRST, BROADCAST, v9), &[(BOTH, v9), (ACCESS, None)], false)?;
        ports.burst((BOTH, &first, v8), &[], false)?;
        ports.burst((FIRST, BROADCAST, v8), &[], true)?;
        // A copy too many would be here by now.
        std::thread::sleep(std::time::Duration::from_millis(300));
        ports.burst((BOTH, BROADCAST, v9), &[(FIRST, v9), (ACCESS, None)], false)
    });
}
