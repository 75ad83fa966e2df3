//! The output of one backend: the packet being filled, and the packets queued because its socket is busy.
//!
//! In: lines from `mod.rs`. Out: closed packets. Order is kept: while packets wait here, newer ones are queued after them.

use super::backlog::{Backlog, List};
use super::route::GsoMode;
use crate::packet::{Packet, SocketSlot};

/// One backend's output.
#[derive(Debug)]
pub struct Egress {
    /// Its socket; `None` if it could not be created.
    pub socket: Option<SocketSlot>,
    /// The packet being filled.
    pub open: Option<Packet>,
    /// Counts the packets opened, so that a stale deadline can be recognized.
    pub opened: u64,
    /// Packets that wait for a busy socket.
    backlog: List,
    backlog_bytes: usize,
    /// Whether its socket was full at the last send.
    pub busy: bool,
    /// The largest packet that metrics for it are packed into.
    packet_bytes_max: u32,
    /// The longest packet that its path MTU permits; `u32::MAX` if unknown.
    path_payload_bytes: u32,
    /// How far the open packet is filled: less than that while it may follow a shorter one in a GSO batch without padding.
    fill_bytes_max: u32,
    /// The last look through the ready packets that found one of its own.
    pub seen_at: u64,
    /// How its packets are batched; not at all since a batch was refused.
    pub gso: GsoMode,
}

/// What a packet of a GSO batch may lack of the largest at most, a share of that: one eighth. It bounds padding, and without
/// padding how much smaller the next packet becomes.
const MISSING_SHARE: usize = 8;

impl Egress {
    /// Nothing there yet.
    pub fn new(socket: Option<SocketSlot>, gso: GsoMode) -> Egress {
        Egress {
            socket,
            open: None,
            opened: 0,
            backlog: List::default(),
            backlog_bytes: 0,
            busy: false,
            packet_bytes_max: 0,
            path_payload_bytes: u32::MAX,
            fill_bytes_max: 0,
            seen_at: 0,
            gso,
        }
    }

    /// The longest packet that its path MTU permits; `None` if unknown.
    pub fn path_payload_bytes(&self) -> Option<usize> {
        (self.path_payload_bytes != u32::MAX).then_some(self.path_payload_bytes as usize)
    }

    /// Sets the longest packet that its path MTU permits.
    pub fn set_path(&mut self, path_payload_bytes: Option<usize>) {
        self.path_payload_bytes = path_payload_bytes.map_or(u32::MAX, |bytes| bytes as u32);
    }

    /// Whether a packet exceeds the path MTU: the kernel fragments it.
    #[inline(always)]
    pub fn is_fragmented(&self, packet_bytes: usize) -> bool {
        packet_bytes > self.path_payload_bytes as usize
    }

    /// Whether full packets exceed the path MTU.
    pub fn exceeds_path(&self) -> bool {
        self.is_fragmented(self.packet_bytes_max())
    }

    /// The largest packet that metrics for it are packed into.
    pub fn packet_bytes_max(&self) -> usize {
        self.packet_bytes_max as usize
    }

    /// How far its open packet is filled.
    #[inline(always)]
    pub fn fill_bytes_max(&self) -> usize {
        self.fill_bytes_max as usize
    }

    /// Sets the largest packet that metrics for it are gathered into; whether it was another one.
    pub fn limit_packets(&mut self, bytes: usize) -> bool {
        let is_other = self.packet_bytes_max() != bytes;
        if is_other {
            self.packet_bytes_max = bytes as u32;
            self.begin_gso_batch();
        }
        is_other
    }

    /// A packet is closed: without padding, the next one is filled no further than this one's length, if it can follow it in
    /// a GSO batch that this one begins or continues.
    #[inline(always)]
    pub fn closed(&mut self, packet_bytes: usize) {
        if self.gso == GsoMode::Unpadded {
            let begins = self.fill_bytes_max == self.packet_bytes_max
                && self.is_nearly_full(packet_bytes)
                && !self.is_fragmented(packet_bytes);
            let goes_on = packet_bytes == self.fill_bytes_max();
            self.fill_bytes_max = if begins || goes_on { packet_bytes as u32 } else { self.packet_bytes_max };
        }
    }

    /// The next packet starts a batch.
    pub fn begin_gso_batch(&mut self) {
        self.fill_bytes_max = self.packet_bytes_max;
    }

    /// A packet is handed over, and the next one that is closed begins a GSO batch. Whether the packet that is handed over after
    /// this one may go in one GSO batch with it, if it is for this backend too; the driver looks at the lengths. A packet that is
    /// padded gets the length of a GSO batch's segments.
    #[inline(always)]
    pub fn hand_over(&mut self, packet: &mut Packet, is_followed: bool) -> bool {
        self.begin_gso_batch();
        if !is_followed || self.gso == GsoMode::Off {
            return false;
        }
        if self.gso == GsoMode::Padded && !self.exceeds_path() && self.is_nearly_full(packet.len()) {
            packet.pad(self.packet_bytes_max());
        }
        // A longer one holds a single long metric, or was packed before the path's MTU shrank.
        packet.len() <= self.packet_bytes_max() && !self.is_fragmented(packet.len())
    }

    fn is_nearly_full(&self, packet_bytes: usize) -> bool {
        let missing = self.packet_bytes_max().checked_sub(packet_bytes);
        missing.is_some_and(|missing| missing <= self.packet_bytes_max() / MISSING_SHARE)
    }

    /// Memory of the packets that wait for the busy socket.
    pub fn backlog_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Queues a packet at its place; the caller has checked the bounds. If it fits into the newest one waiting, its
    /// lines are moved there and it is returned, free: otherwise a trickle for a busy backend would fill the queue with near-empty packets.
    pub fn wait(&mut self, backlog: &mut Backlog, packet: Packet) -> Option<Packet> {
        if let Some(newest) = backlog.newest_mut(&self.backlog)
            && newest.sequence() < packet.sequence()
            && newest.absorb(&packet, self.packet_bytes_max as usize)
        {
            return Some(packet);
        }
        self.backlog_bytes += packet.capacity();
        backlog.insert(&mut self.backlog, packet);
        None
    }

    /// The newest waiting packet.
    pub fn next_back(&mut self, backlog: &mut Backlog) -> Option<Packet> {
        let packet = backlog.take_newest(&mut self.backlog)?;
        self.backlog_bytes -= packet.capacity();
        Some(packet)
    }

    /// Metrics here.
    pub fn metrics(&self, backlog: &Backlog) -> u64 {
        backlog.packets(&self.backlog).chain(&self.open).map(|packet| u64::from(packet.metrics())).sum()
    }

    /// Calls `change` with every packet here, for a change of the backend list.
    pub fn change_each(&mut self, backlog: &mut Backlog, mut change: impl FnMut(&mut Packet)) {
        backlog.change_each(&self.backlog, &mut change);
        self.open.iter_mut().for_each(change);
    }
}
