//! The fake host's network: listening sockets that several fake kernels may share, and the datagrams to come.
//!
//! In: a script of datagrams, each for an address. Out: each in the queue of one socket at its address, or refused if
//! there is none. Next: `kernel.rs`, one for each worker, receives from the queues.
//!
//! The fake kernels of several workers have separate clocks, at most one step apart: a worker sees a datagram in a queue
//! only when its clock has reached the arrival.

use super::listener::{Listener, Queued};
use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// A scheduled datagram.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Coming {
    address: usize,
    /// Which sender: of several sockets at an address, the same one gets all of a sender's.
    sender: u64,
    bytes: Box<[u8]>,
}

/// The listening sockets by number, and the datagrams scheduled for them.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub sockets: Vec<Listener>,
    script: BinaryHeap<Reverse<(u64, u64, Coming)>>,
    scripted: u64,
    /// The latest clock so far.
    latest_us: u64,
    arrived: u64,
    /// When datagrams found no socket at their address, and at which.
    refused: Vec<(u64, usize)>,
    /// Datagrams in the queues of sockets as their last holder closed them.
    lost_in_queues: u64,
}

impl Network {
    fn script(&mut self, at_us: u64, coming: Coming) {
        self.scripted += 1;
        self.script.push(Reverse((at_us, self.scripted, coming)));
    }

    /// When the next datagram arrives.
    pub fn next_us(&self) -> Option<u64> {
        self.script.peek().map(|Reverse((at_us, ..))| *at_us)
    }

    /// Delivers the datagrams that are due; how many found a full queue.
    pub fn advance(&mut self, now_us: u64) -> u64 {
        let mut dropped = 0;
        self.latest_us = self.latest_us.max(now_us);
        while self.next_us().is_some_and(|at_us| at_us <= now_us) {
            let Some(Reverse((arrived_us, _, Coming { address, sender, bytes }))) = self.script.pop() else {
                break;
            };
            self.arrived += 1;
            match self.socket_for(address, sender) {
                Some(socket) => {
                    let datagram = Queued { arrived_us, sender, bytes };
                    dropped += u64::from(!self.sockets[socket].arrive(datagram));
                }
                None => self.refused.push((arrived_us, address)),
            }
        }
        dropped
    }

    /// Nothing new arrives at `socket` after `now_us`; what another worker's later clock has let in goes elsewhere. How many
    /// of the datagrams that were due found a full queue.
    pub fn fence(&mut self, socket: usize, now_us: u64) -> u64 {
        let dropped = self.advance(now_us);
        let address = self.sockets[socket].address;
        for Queued { arrived_us, bytes, .. } in self.sockets[socket].fence(now_us) {
            self.arrived -= 1;
            // Not before the latest clock, or that worker would have it long after it arrived.
            let at_us = arrived_us.max(self.latest_us);
            self.script(at_us, Coming { address, sender: 0, bytes });
        }
        dropped
    }

    fn socket_for(&self, address: usize, sender: u64) -> Option<usize> {
        let takes = |socket: &Listener| socket.address == address && socket.takes_new();
        let count = self.sockets.iter().filter(|socket| takes(socket)).count();
        let place = sender as usize % count.max(1);
        let mut taking = self.sockets.iter().enumerate().filter(|(_, socket)| takes(socket));
        taking.nth(place).map(|(index, _)| index)
    }
}

/// The test's handle of the network.
#[derive(Clone, Default)]
pub struct SimNetwork {
    pub(super) network: Rc<RefCell<Network>>,
}

impl SimNetwork {
    /// Without sockets.
    pub fn new() -> SimNetwork {
        SimNetwork::default()
    }

    /// A socket at the `address`-th address that holds `bytes_max`, and nothing arrives at it before it is bound; its
    /// number. It has one holder.
    pub fn socket(&self, address: usize, bytes_max: usize) -> usize {
        let sockets = &mut self.network.borrow_mut().sockets;
        sockets.push(Listener::new(address, bytes_max));
        sockets.len() - 1
    }

    /// From now on it takes its share of the datagrams to its address.
    pub fn bind(&self, socket: usize) {
        self.network.borrow_mut().sockets[socket].is_bound = true;
    }

    /// Adds a holder.
    pub fn hold(&self, socket: usize) {
        self.network.borrow_mut().sockets[socket].holders += 1;
    }

    /// Removes a holder; after the last one the socket is closed and its queue lost.
    pub fn release(&self, socket: usize) {
        let mut network = self.network.borrow_mut();
        let closed = &mut network.sockets[socket];
        closed.holders = closed.holders.saturating_sub(1);
        if closed.holders == 0 {
            let lost = closed.clear();
            network.lost_in_queues += lost;
        }
    }

    /// A datagram of `sender` will arrive at the `address`-th address at `at_us`.
    pub fn datagram_at(&self, at_us: u64, address: usize, sender: u64, bytes: impl Into<Box<[u8]>>) {
        let coming = Coming { address, sender, bytes: bytes.into() };
        self.network.borrow_mut().script(at_us, coming);
    }

    /// Whether the socket takes new datagrams: it is bound, open, and not fenced.
    pub fn takes_new(&self, socket: usize) -> bool {
        self.network.borrow().sockets[socket].takes_new()
    }

    /// Datagrams dropped because its queue was full.
    pub fn drops(&self, socket: usize) -> u64 {
        self.network.borrow().sockets[socket].drops
    }

    /// Datagrams in the queues of all open sockets.
    pub fn queued(&self) -> usize {
        self.network.borrow().sockets.iter().map(Listener::len).sum()
    }

    /// Datagrams that have arrived so far, including dropped ones.
    pub fn arrived(&self) -> u64 {
        self.network.borrow().arrived
    }

    /// When datagrams found no socket at the `address`-th address.
    pub fn refused_us(&self, address: usize) -> Vec<u64> {
        let network = self.network.borrow();
        network.refused.iter().filter(|(_, of)| *of == address).map(|(at_us, _)| *at_us).collect()
    }

    /// Datagrams that were in the queues of sockets as their last holder closed them.
    pub fn lost_in_queues(&self) -> u64 {
        self.network.borrow().lost_in_queues
    }

    /// When the next datagram arrives; `None` if none is scheduled.
    pub fn next_us(&self) -> Option<u64> {
        self.network.borrow().next_us()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_keeps_its_socket_until_that_is_fenced_and_a_closed_one_loses_its_queue() {
        let network = SimNetwork::new();
        let sockets = [0, 0, 1].map(|address| network.socket(address, 10_000));
        for socket in sockets {
            network.bind(socket);
        }
        for (at_us, sender) in [(1, 4), (2, 5), (3, 5), (9, 4)] {
            network.datagram_at(at_us, 0, sender, b"x".as_slice());
        }
        network.network.borrow_mut().advance(3);
        let lengths = || sockets.map(|socket| network.network.borrow().sockets[socket].len());
        assert_eq!((lengths(), network.next_us()), ([1, 2, 0], Some(9)));
        network.network.borrow_mut().fence(sockets[0], 3);
        network.network.borrow_mut().advance(9);
        assert_eq!((lengths(), network.arrived(), network.refused_us(0)), ([1, 3, 0], 4, vec![]));
        network.hold(sockets[1]);
        network.release(sockets[1]);
        assert_eq!(network.queued(), 4);
        network.release(sockets[1]);
        assert_eq!((network.queued(), network.lost_in_queues()), (1, 3));
        network.datagram_at(10, 0, 4, b"x".as_slice());
        network.network.borrow_mut().advance(10);
        assert_eq!((network.refused_us(0), network.refused_us(1)), (vec![10], vec![]));
    }
}
