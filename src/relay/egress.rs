//! What one backend has coming: the packet that is being filled, and the packets that wait because its socket is busy.
//!
//! In: lines from `mod.rs`. Out: closed packets. Order is kept: while packets wait here, newer ones queue behind them.

use crate::packet::{Packet, SocketSlot};
use std::collections::VecDeque;

/// One backend's way out.
#[derive(Debug, Default)]
pub struct Egress {
    /// Its socket; `None` if it could not be made.
    pub socket: Option<SocketSlot>,
    /// The packet being filled.
    pub open: Option<Packet>,
    /// Counts the packets opened, so that a remembered deadline can tell whether it still stands.
    pub opened: u64,
    /// Packets that wait for a busy socket, oldest first.
    backlog: VecDeque<Packet>,
    backlog_bytes: usize,
    /// Whether its socket was busy at the last send.
    pub busy: bool,
}

impl Egress {
    /// Nothing there yet.
    pub fn new(socket: Option<SocketSlot>) -> Egress {
        Egress { socket, ..Egress::default() }
    }

    /// Memory of the packets that wait for the busy socket.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Queues a packet at its place; the caller has checked the bounds. If it fits into the newest one waiting, its
    /// lines go there and it comes back, free: a trickle for a busy backend would else fill the queue with near-empty packets.
    pub fn wait(&mut self, packet: Packet, packet_bytes_max: usize) -> Option<Packet> {
        if let Some(newest) = self.backlog.back_mut()
            && newest.sequence < packet.sequence
            && newest.absorb(&packet, packet_bytes_max)
        {
            return Some(packet);
        }
        self.backlog_bytes += packet.capacity();
        insert_by_sequence(&mut self.backlog, packet);
        None
    }

    /// The newest waiting packet.
    pub fn next_back(&mut self) -> Option<Packet> {
        let packet = self.backlog.pop_back()?;
        self.backlog_bytes -= packet.capacity();
        Some(packet)
    }

    /// Metrics here.
    pub fn metrics(&self) -> u64 {
        self.backlog.iter().chain(&self.open).map(|packet| u64::from(packet.metrics)).sum()
    }

    /// Every packet here, for a change of the backend list.
    pub fn packets_mut(&mut self) -> impl Iterator<Item = &mut Packet> {
        self.backlog.iter_mut().chain(&mut self.open)
    }
}

/// Puts a packet back where it was before it was handed out: behind older, before newer ones.
pub fn insert_by_sequence(queue: &mut VecDeque<Packet>, packet: Packet) {
    let place = queue.partition_point(|other| other.sequence < packet.sequence);
    queue.insert(place, packet);
}
