//! What one backend has coming: the packet that is being filled, and the packets that wait because its socket is busy.
//!
//! In: lines from `mod.rs`. Out: closed packets. Order is kept: while packets wait here, newer ones queue behind them.

use super::waiting::{List, Waiting};
use crate::packet::{Packet, SocketSlot};

/// One backend's way out.
#[derive(Debug, Default)]
pub struct Egress {
    /// Its socket; `None` if it could not be made.
    pub socket: Option<SocketSlot>,
    /// The packet being filled.
    pub open: Option<Packet>,
    /// Counts the packets opened, so that a remembered deadline can tell whether it still stands.
    pub opened: u64,
    /// Packets that wait for a busy socket.
    backlog: List,
    backlog_bytes: usize,
    /// Whether its socket was busy at the last send.
    pub busy: bool,
    /// The largest packet that metrics for it are gathered into.
    pub packet_bytes_max: usize,
    /// The last look through the ready packets that found one of its own.
    pub seen_at: u64,
    /// Whether its packets may go in trains.
    pub takes_trains: bool,
}

impl Egress {
    /// Nothing there yet.
    pub fn new(socket: Option<SocketSlot>, takes_trains: bool) -> Egress {
        Egress { socket, takes_trains, ..Egress::default() }
    }

    /// Memory of the packets that wait for the busy socket.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Queues a packet at its place; the caller has checked the bounds. If it fits into the newest one waiting, its
    /// lines go there and it comes back, free: a trickle for a busy backend would else fill the queue with near-empty packets.
    pub fn wait(&mut self, waiting: &mut Waiting, packet: Packet) -> Option<Packet> {
        if let Some(newest) = waiting.newest_mut(&self.backlog)
            && newest.sequence < packet.sequence
            && newest.absorb(&packet, self.packet_bytes_max)
        {
            return Some(packet);
        }
        self.backlog_bytes += packet.capacity();
        waiting.insert(&mut self.backlog, packet);
        None
    }

    /// The newest waiting packet.
    pub fn next_back(&mut self, waiting: &mut Waiting) -> Option<Packet> {
        let packet = waiting.take_newest(&mut self.backlog)?;
        self.backlog_bytes -= packet.capacity();
        Some(packet)
    }

    /// Metrics here.
    pub fn metrics(&self, waiting: &Waiting) -> u64 {
        waiting.packets(&self.backlog).chain(&self.open).map(|packet| u64::from(packet.metrics)).sum()
    }

    /// Calls `change` with every packet here, for a change of the backend list.
    pub fn change_each(&mut self, waiting: &mut Waiting, mut change: impl FnMut(&mut Packet)) {
        waiting.change_each(&self.backlog, &mut change);
        self.open.iter_mut().for_each(change);
    }
}
