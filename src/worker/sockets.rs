//! Which backend has which socket slot of the driver; identical backends keep theirs across reloads.
//!
//! In: a route table. Out: its backends' slots in its order, and when to try again what could not be made. Next:
//! `relay/reroute.rs`.

use super::Report;
use super::reporter::Reporter;
use crate::driver::Driver;
use crate::packet::SocketSlot;
use crate::planted::{Defect, is_planted};
use crate::relay::{Relay, RouteNode, RouteTable};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// The pause before a socket that could not be made is tried again, µs: a route or an address may come at any time, and
/// nobody tells.
const RETRY_US: u64 = 1_000_000;

/// A connected socket.
struct Open {
    name: Arc<str>,
    address: SocketAddr,
    gso: bool,
}

/// The sockets of one worker.
pub struct Sockets {
    open: Vec<Option<Open>>,
    /// Where each open one lies.
    by_name: HashMap<Arc<str>, usize>,
    /// Those of the table that was followed last, in its order.
    slots: Vec<Option<SocketSlot>>,
    /// Backends of that table whose socket could not be made, with the errno that was told.
    missing: HashMap<Arc<str>, Option<i32>>,
    retry_at_us: Option<u64>,
}

impl Sockets {
    /// None yet; at most `sockets_max` at once.
    pub fn new(sockets_max: usize) -> Sockets {
        Sockets {
            open: std::iter::repeat_with(|| None).take(sockets_max).collect(),
            by_name: HashMap::new(),
            slots: Vec::new(),
            missing: HashMap::new(),
            retry_at_us: None,
        }
    }

    /// Whether every backend of a table has its socket already.
    pub fn has_all(&self, table: &RouteTable) -> bool {
        table.nodes.iter().all(|node| node.address.is_none() || self.kept(node).is_some())
    }

    /// The slots of the table that was followed last, in its order.
    pub fn slots(&self) -> &[Option<SocketSlot>] {
        &self.slots
    }

    /// When to follow the table once more, µs of the driver's clock: a socket could not be made.
    pub fn retry_at_us(&self) -> Option<u64> {
        self.retry_at_us
    }

    /// Finds the slots for a table: those it has are kept, missing ones are made. A backend that moved keeps its slot and
    /// gets a socket to its new address; if that fails it has none, rather than one to where it no longer is, until the next
    /// try. Sockets that are no longer needed stay until [`Sockets::release`].
    pub fn follow(&mut self, table: &RouteTable, driver: &mut impl Driver, reporter: &mut Reporter) {
        let told = std::mem::take(&mut self.missing);
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        for node in table.nodes.iter() {
            let slot = match self.slot_of(node, driver) {
                Ok(slot) => {
                    if told.contains_key(&node.name) {
                        reporter.tell(Report::SocketMade { node: Arc::clone(&node.name) });
                    }
                    slot
                }
                Err(error) => {
                    let errno = error.raw_os_error();
                    self.missing.insert(Arc::clone(&node.name), errno);
                    if told.get(&node.name) != Some(&errno) {
                        reporter.tell(Report::SocketFailed {
                            node: Arc::clone(&node.name),
                            address: node.address,
                            error,
                        });
                    }
                    None
                }
            };
            slots.push(slot);
        }
        self.slots = slots;
        self.retry_at_us = (!self.missing.is_empty()).then(|| driver.now_us() + RETRY_US);
    }

    /// The slot of one backend; one whose address is not known has that of its old address, if any.
    fn slot_of(&mut self, node: &RouteNode, driver: &mut impl Driver) -> std::io::Result<Option<SocketSlot>> {
        let known = self.by_name.get(&node.name).copied();
        let Some(address) = node.address else { return Ok(known.map(slot)) };
        if let Some(index) = self.kept(node)
            && !is_planted(Defect::SocketReplacedAtReload)
        {
            self.follow_gso(index, node, driver);
            return Ok(Some(slot(index)));
        }
        let index = known.or_else(|| self.open.iter().position(Option::is_none)).ok_or_else(no_slot)?;
        driver.open_backend(slot(index), address)?;
        self.by_name.insert(Arc::clone(&node.name), index);
        self.open[index] = Some(Open { name: Arc::clone(&node.name), address, gso: node.gso });
        Ok(Some(slot(index)))
    }

    /// Where the socket lies that leads to this backend's address, if there is one.
    fn kept(&self, node: &RouteNode) -> Option<usize> {
        let index = *self.by_name.get(&node.name)?;
        let open = self.open.get(index)?.as_ref()?;
        (node.address == Some(open.address)).then_some(index)
    }

    /// Who switches trains off and on wants to try them again.
    fn follow_gso(&mut self, index: usize, node: &RouteNode, driver: &mut impl Driver) {
        if let Some(open) = &mut self.open[index]
            && !std::mem::replace(&mut open.gso, node.gso)
            && node.gso
        {
            driver.allow_trains(slot(index));
        }
    }

    /// Where the rules leave the size of packets to the paths: asks the paths.
    pub fn limit_packets(&self, relay: &mut Relay, driver: &impl Driver) {
        if relay.table().rules.packet_auto {
            let path = |slot: &Option<SocketSlot>| slot.and_then(|slot| driver.path_payload_bytes(slot));
            relay.limit_packets(self.slots.iter().map(path));
        }
    }

    /// Closes the sockets of backends that the table does not list.
    pub fn release(&mut self, table: &RouteTable, driver: &mut impl Driver) {
        let listed: HashSet<&str> = table.nodes.iter().map(|node| &*node.name).collect();
        for (index, place) in self.open.iter_mut().enumerate() {
            let is_gone = place.as_ref().is_some_and(|open| !listed.contains(&*open.name));
            if is_gone
                && !is_planted(Defect::SocketLeakedAtReload)
                && let Some(open) = place.take()
            {
                self.by_name.remove(&open.name);
                driver.close_backend(slot(index));
            }
        }
    }
}

fn slot(index: usize) -> SocketSlot {
    SocketSlot(index as u32)
}

fn no_slot() -> std::io::Error {
    std::io::Error::other("all socket slots are taken; restart with the new list of nodes")
}
