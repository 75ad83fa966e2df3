//! Which backend has which socket slot of the driver; identical backends keep theirs across reloads.
//!
//! In: a route table. Out: its backends' slots in its order. Next: `relay/reroute.rs`.

use super::Report;
use super::reporter::Reporter;
use crate::driver::Driver;
use crate::packet::SocketSlot;
use crate::planted::{Defect, is_planted};
use crate::relay::RouteTable;
use std::net::SocketAddr;
use std::sync::Arc;

/// A connected socket.
struct Open {
    name: Arc<str>,
    address: SocketAddr,
}

/// The sockets of one worker.
pub struct Sockets {
    slots: Vec<Option<Open>>,
}

impl Sockets {
    /// None yet; at most `sockets_max` at once.
    pub fn new(sockets_max: usize) -> Sockets {
        Sockets { slots: std::iter::repeat_with(|| None).take(sockets_max).collect() }
    }

    /// Whether every backend of a table has its socket already.
    pub fn has_all(&self, table: &RouteTable) -> bool {
        table.nodes.iter().all(|node| {
            node.address.is_none_or(|address| {
                self.find(&node.name).is_some_and(|index| {
                    self.slots[index].as_ref().is_some_and(|open| open.address == address)
                })
            })
        })
    }

    /// The slots for a table: those it has are kept, missing ones are made. A backend that moved keeps its slot and
    /// gets a socket to its new address; if that fails it has none, rather than one to where it no longer is, until
    /// the next table. Sockets that are no longer needed stay until [`Sockets::release`].
    pub fn follow(
        &mut self,
        table: &RouteTable,
        driver: &mut impl Driver,
        reporter: &mut Reporter,
    ) -> Vec<Option<SocketSlot>> {
        table
            .nodes
            .iter()
            .map(|node| {
                let known = self.find(&node.name);
                let Some(address) = node.address else { return known.map(slot) };
                if let Some(index) = known
                    && self.slots[index].as_ref().is_some_and(|open| open.address == address)
                    && !is_planted(Defect::SocketReplacedAtReload)
                {
                    return Some(slot(index));
                }
                let index = known.or_else(|| self.slots.iter().position(Option::is_none));
                match index
                    .ok_or_else(no_slot)
                    .and_then(|index| driver.open_backend(slot(index), address).map(|()| index))
                {
                    Ok(index) => {
                        self.slots[index] = Some(Open { name: Arc::clone(&node.name), address });
                        Some(slot(index))
                    }
                    Err(error) => {
                        reporter.tell(Report::SocketFailed { node: Arc::clone(&node.name), error });
                        None
                    }
                }
            })
            .collect()
    }

    /// For each of these slots the longest datagram that its path takes in one piece, if that is known.
    pub fn path_payload_bytes<'a>(
        slots: &'a [Option<SocketSlot>],
        driver: &'a impl Driver,
    ) -> impl Iterator<Item = Option<usize>> + 'a {
        slots.iter().map(|slot| slot.and_then(|slot| driver.path_payload_bytes(slot)))
    }

    /// Closes the sockets of backends that the table does not list.
    pub fn release(&mut self, table: &RouteTable, driver: &mut impl Driver) {
        for (index, entry) in self.slots.iter_mut().enumerate() {
            let gone =
                entry.as_ref().is_some_and(|open| !table.nodes.iter().any(|node| node.name == open.name));
            if gone && !is_planted(Defect::SocketLeakedAtReload) {
                driver.close_backend(slot(index));
                *entry = None;
            }
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.slots.iter().position(|entry| entry.as_ref().is_some_and(|open| &*open.name == name))
    }
}

fn slot(index: usize) -> SocketSlot {
    SocketSlot(index as u32)
}

fn no_slot() -> std::io::Error {
    std::io::Error::other("all socket slots are taken; restart with the new list of nodes")
}
