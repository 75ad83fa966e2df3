//! Operations on the fake kernel's sockets: connect, leave, fence, count drops.
//!
//! In: sockets by number, packets. Out: results and errnos. Next: `state.rs`.

use super::faults::Fault;
use super::state::{Reception, State};
use crate::driver::kernel::ReceiveMemory;
use crate::failpoint::{Mutation, is_active};
use crate::packet::SocketSlot;
use std::io;
use std::net::{IpAddr, SocketAddr};

impl State {
    /// Whether the queues of all sockets that were not left are empty.
    pub fn are_queues_empty(&self) -> bool {
        let mut receptions = self.receptions.iter().enumerate();
        receptions.all(|(listener, reception)| reception.is_left || self.is_queue_empty(listener))
    }

    /// Leaves a socket to others.
    pub fn leave(&mut self, listener: usize) {
        if let Some(reception) = self.receptions.get_mut(listener) {
            reception.is_left = true;
        }
    }

    /// Nothing new arrives at the sockets that were not left.
    pub fn fence(&mut self) {
        let is_fenced = |reception: &&Reception| !reception.is_left || is_active(Mutation::LeftSocketFenced);
        for reception in self.receptions.iter().filter(is_fenced) {
            let dropped = self.network.borrow_mut().fence(reception.socket, self.clock_us);
            (0..dropped).for_each(|_| self.faults.count(Fault::KernelDrop));
        }
    }

    /// The bytes queued and the datagrams dropped at a listening socket.
    pub fn receive_memory(&self, listener: usize) -> ReceiveMemory {
        let Some(reception) = self.receptions.get(listener) else { return ReceiveMemory::default() };
        let network = self.network.borrow();
        network.sockets.get(reception.socket).map_or(ReceiveMemory::default(), |socket| ReceiveMemory {
            queued_bytes: socket.queued_bytes() as u64,
            drops: socket.drops,
        })
    }

    /// Connects a socket to a backend. One to the same address must not be replaced while it holds packets: later ones would
    /// overtake them.
    pub fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> io::Result<IpAddr> {
        let index = slot.0 as usize;
        if self.backends.is_filled(index, address, self.clock_us) {
            self.violations.push(format!("socket {index} was replaced while its send buffer was full"));
        }
        if self.faults.strikes(Fault::OpenFailed, &mut self.random) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(self.backends.open(index, address, self.clock_us))
    }
}
