//! The new process's part.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use weft_api::report::{FdbEntry, NeighbourEntry};
use weft_sys::seqpacket::Connection;

use super::protocol::{HandOverError, Message, PROTOCOL, STATE, receive, send};
use super::{BUILDING, STEP, counts, socket};
use crate::control::publish::{PeerKey, Publisher};
use crate::path::{Bounds, Dataplane, Station};
use crate::table::FdbTarget;

/// What another daemon hands over.
#[derive(Debug)]
pub struct Taken {
    from: Connection,
    descriptors: BTreeMap<String, OwnedFd>,
    stations: Vec<FdbEntry>,
    neighbours: Vec<NeighbourEntry>,
    same_manager: bool,
}

/// Asks the daemon of this run directory for everything it has. `None`: there is no such daemon.
///
/// # Errors
/// Why it does not give it.
pub fn take(run_dir: &Path) -> Result<Option<Taken>, HandOverError> {
    let from = match Connection::connect(socket(run_dir)) {
        Ok(connection) => connection,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let manager = Some(super::manager().unwrap_or_default());
    let hello = Message::Hello { protocol: PROTOCOL, state: STATE, version, manager, counters: true };
    send(&from, &hello, &[])?;
    let mut taken = Taken {
        from,
        descriptors: BTreeMap::new(),
        stations: Vec::new(),
        neighbours: Vec::new(),
        same_manager: false,
    };
    loop {
        match receive(&taken.from, BUILDING)? {
            (Message::Descriptors { names }, fds) if names.len() == fds.len() => {
                taken.descriptors.extend(names.into_iter().zip(fds));
            }
            (Message::Stations(more), _) => taken.stations.extend(more),
            (Message::Neighbours(more), _) => taken.neighbours.extend(more),
            (Message::Refused { reason }, _) => return Err(HandOverError::Refused(reason)),
            (Message::Go { manager: theirs }, _) => {
                taken.same_manager = theirs.is_some() && theirs == super::manager();
                return Ok(Some(taken));
            }
            _ => return Err(HandOverError::Unexpected),
        }
    }
}

impl Taken {
    /// One descriptor that is no device's or underlay's.
    pub fn descriptor(&mut self, name: &str) -> Option<OwnedFd> {
        self.descriptors.remove(name)
    }

    /// All that were not asked for by name.
    pub fn descriptors(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.descriptors).into_iter().collect()
    }

    /// True if this process's service manager holds the same descriptors already.
    pub fn has_same_manager(&self) -> bool {
        self.same_manager
    }

    /// Puts what the other's workers had learned into this one's tables.
    pub fn teach(&self, publisher: &Publisher, dataplane: &Dataplane) {
        let snapshot = publisher.last();
        for entry in &self.stations {
            let (Some(bridge), Some(port)) =
                (publisher.bridge_slot(&entry.bridge), publisher.port_slot(&entry.port))
            else {
                continue;
            };
            let peer = entry.remote.map(|remote| PeerKey::Segment { port: entry.port.clone(), remote });
            let target = match peer.map(|key| publisher.peer_slot(&key)) {
                None => FdbTarget::Port(port),
                Some(Some(peer)) => FdbTarget::Peer(port, peer),
                Some(None) => continue,
            };
            let Some(of) = snapshot.bridges.get(bridge) else { continue };
            let bounds = Bounds { ageing_seconds: of.ageing_seconds, max: of.fdb_max };
            let station = Station { bridge, vlan: entry.vlan, mac: entry.mac };
            dataplane.teach_station(station, target, bounds, age(entry.age_seconds));
        }
        for entry in &self.neighbours {
            if let (Some(bridge), Some(port)) =
                (publisher.bridge_slot(&entry.bridge), publisher.port_slot(&entry.port))
            {
                dataplane.teach_neighbour(bridge, entry.ip, port, entry.mac, age(entry.age_seconds));
            }
        }
    }

    /// Says that all is built, and waits until the other's workers have stopped.
    ///
    /// # Errors
    /// When it has changed its mind or died.
    pub fn ready(&self) -> Result<(), HandOverError> {
        send(&self.from, &Message::Ready, &[])?;
        match receive(&self.from, STEP)? {
            (Message::Stopped, _) => Ok(()),
            _ => Err(HandOverError::Unexpected),
        }
    }

    /// Says that this process forwards.
    pub fn forwarding(&self) {
        // If it cannot be told, it is gone, which is what it is to be.
        let _ = send(&self.from, &Message::Forwarding, &[]);
    }

    /// Takes over what the other has counted, and waits until the service manager knows this process as the main one.
    pub fn wait_until_left(&self, publisher: &Publisher, dataplane: &Dataplane) {
        let mut counts = Vec::new();
        loop {
            match receive(&self.from, STEP) {
                Ok((Message::Counters(more), _)) => counts.push(*more),
                Ok(_) => break,
                Err(error) => {
                    tracing::info!(%error, "the other weftd left without a word");
                    break;
                }
            }
        }
        dataplane.carry_on(counts::carried(&counts, publisher));
    }
}

fn age(seconds: u64) -> u32 {
    u32::try_from(seconds).unwrap_or(u32::MAX)
}
