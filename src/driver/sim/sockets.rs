//! What both drivers do with the fake kernel's sockets: connect, leave, fence, count drops.
//!
//! In: sockets by number, packets. Out: results and errnos. Next: `kernel.rs` and `calls.rs`, which have the rest.

use super::faults::Fault;
use super::kernel::Kernel;
use crate::packet::SocketSlot;
use std::io;
use std::net::{IpAddr, SocketAddr};

impl Kernel {
    /// Whether nothing has arrived that waits at a socket that was not left.
    pub fn are_queues_empty(&self) -> bool {
        let mut receptions = self.receptions.iter().enumerate();
        receptions.all(|(listener, reception)| reception.is_left || self.is_queue_empty(listener))
    }

    /// Others receive there from now on.
    pub fn leave(&mut self, listener: usize) {
        if let Some(reception) = self.receptions.get_mut(listener) {
            reception.is_left = true;
        }
    }

    /// Nothing new arrives at the sockets that were not left.
    pub fn fence(&mut self) {
        for reception in self.receptions.iter().filter(|reception| !reception.is_left) {
            let dropped = self.network.borrow_mut().fence(reception.socket, self.clock_us);
            (0..dropped).for_each(|_| self.faults.count(Fault::KernelDrop));
        }
    }

    /// Datagrams dropped at a listening socket.
    pub fn kernel_drops(&self, listener: usize) -> u64 {
        self.receptions.get(listener).map_or(0, |reception| {
            self.network.borrow().sockets.get(reception.socket).map_or(0, |socket| socket.drops)
        })
    }

    /// Connects a socket to a backend. One that leads there already is not to be replaced while it holds packets: they would
    /// be overtaken.
    pub fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> io::Result<IpAddr> {
        let index = slot.0 as usize;
        if self.slots.iter().flatten().any(|slotted| slotted.packet.socket == slot) {
            self.violations.push(format!("socket {index} was replaced while a packet for it was in flight"));
        }
        if self.backends.is_filled(index, address, self.clock_us) {
            self.violations.push(format!("socket {index} was replaced while its send buffer was full"));
        }
        if self.faults.strikes(Fault::OpenFailed, &mut self.random) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        Ok(self.backends.open(index, address, self.clock_us))
    }
}
