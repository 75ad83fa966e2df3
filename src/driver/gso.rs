//! GSO batches: several packets to one socket in one send, which the kernel splits into segments again (UDP_SEGMENT, udp(7)).
//!
//! In: packets in the order in which they were pushed. Out: which of them go together, what an error of their send means for
//! each, and the control message that makes the kernel split them. Next: `engine/sends.rs`, and the kernels, which send.

#![allow(unsafe_code)]

use super::errno;
use crate::packet::{Packet, SendOutcome, SocketSlot};

/// Packets in one GSO batch: a GSO batch is also a burst into the backend's receive buffer.
pub const BATCH_PACKETS_MAX: usize = 16;
/// Bytes of one GSO batch: those of the longest datagram.
const BATCH_BYTES_MAX: usize = 65_507;

/// Packets that follow each other in one send.
#[derive(Clone, Copy, Debug)]
pub struct GsoBatch {
    socket: SocketSlot,
    packets: usize,
    /// The length of the first packet, which all but the last have.
    segment_bytes: usize,
    /// Whether the last one has it too, so that another may follow.
    is_open: bool,
}

impl GsoBatch {
    /// The GSO batch with one more packet; `None` if that may not join it, or does not fit.
    pub fn with(self, packet: &Packet) -> Option<GsoBatch> {
        let fits = packet.may_join
            && self.is_open
            && self.socket == packet.socket
            && self.packets < BATCH_PACKETS_MAX
            && packet.len() <= self.segment_bytes
            && (self.packets + 1) * self.segment_bytes <= BATCH_BYTES_MAX;
        let is_open = packet.len() == self.segment_bytes;
        fits.then_some(GsoBatch { packets: self.packets + 1, is_open, ..self })
    }

    /// Packets in it.
    pub fn packets(self) -> usize {
        self.packets
    }
}

/// The sockets that accept batches.
#[derive(Debug, Default)]
pub struct GsoBatches {
    /// By slot: none go there since one was refused.
    refused: Vec<bool>,
}

impl GsoBatches {
    /// Socket `slot` leads somewhere new, or GSO batches are wanted again where they were refused.
    pub fn allow(&mut self, slot: SocketSlot) {
        let index = slot.0 as usize;
        if self.refused.len() <= index {
            self.refused.resize(index + 1, false);
        }
        self.refused[index] = false;
    }

    /// A GSO batch of one packet; others may join it if its socket takes GSO batches.
    pub fn begin(&self, packet: &Packet) -> GsoBatch {
        let is_open = !self.refused.get(packet.socket.0 as usize).copied().unwrap_or(true);
        GsoBatch { socket: packet.socket, packets: 1, segment_bytes: packet.len(), is_open }
    }

    /// What to tell of a packet whose send ended with `outcome`: that, but a GSO batch that the host does not take at all is to
    /// be taken apart, and no more are made for its socket.
    pub fn judge(&mut self, packet: &Packet, outcome: SendOutcome) -> SendOutcome {
        let errno = match outcome {
            SendOutcome::TooLong => libc::EMSGSIZE,
            SendOutcome::Failed(errno) => errno,
            other => return other,
        };
        if !packet.in_gso_batch || !errno::is_gso_refusal(errno) {
            return outcome;
        }
        if let Some(refused) = self.refused.get_mut(packet.socket.0 as usize) {
            *refused = true;
        }
        SendOutcome::GsoRefused(errno)
    }
}

/// The control message that tells the kernel how long a GSO batch's segments are.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct SegmentBytes {
    header: libc::cmsghdr,
    bytes: u16,
    padding: [u8; 6],
}

/// CMSG_LEN of a `u16`.
const SEGMENT_BYTES_LEN: usize = size_of::<libc::cmsghdr>() + size_of::<u16>();

impl SegmentBytes {
    /// One whose length is to be set.
    pub fn new() -> SegmentBytes {
        SegmentBytes {
            header: libc::cmsghdr {
                cmsg_len: SEGMENT_BYTES_LEN as _,
                cmsg_level: libc::SOL_UDP,
                cmsg_type: libc::UDP_SEGMENT,
            },
            bytes: 0,
            padding: [0; 6],
        }
    }

    /// Sets the length of a segment.
    pub fn set(&mut self, bytes: u16) {
        self.bytes = bytes;
    }
}

/// A message without name, areas and control messages.
pub fn empty_message() -> libc::msghdr {
    // SAFETY: zeroes are a valid msghdr.
    unsafe { std::mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(bytes: usize, slot: u32) -> Packet {
        let mut packet = Packet::with_capacity(65_507);
        packet.pad(bytes);
        (packet.socket, packet.may_join) = (SocketSlot(slot), true);
        packet
    }

    fn gso_batches() -> GsoBatches {
        let mut gso_batches = GsoBatches::default();
        gso_batches.allow(SocketSlot(0));
        gso_batches
    }

    #[test]
    fn packets_of_one_length_join_and_a_shorter_one_is_the_last() {
        let first = gso_batches().begin(&packet(100, 0));
        let second = first.with(&packet(100, 0)).unwrap();
        assert!(second.with(&packet(101, 0)).is_none() && second.with(&packet(100, 1)).is_none());
        let third = second.with(&packet(99, 0)).unwrap();
        assert_eq!(third.packets(), 3);
        assert!(third.with(&packet(99, 0)).is_none());
        let mut alone = packet(100, 0);
        alone.may_join = false;
        assert!(second.with(&alone).is_none());
    }

    #[test]
    fn a_batch_has_its_bounds() {
        let longest = |bytes: usize| {
            let mut gso_batch = gso_batches().begin(&packet(bytes, 0));
            while let Some(next) = gso_batch.with(&packet(bytes, 0)) {
                gso_batch = next;
            }
            gso_batch.packets()
        };
        assert_eq!((longest(1_432), longest(30_000), longest(65_507)), (BATCH_PACKETS_MAX, 2, 1));
    }

    #[test]
    fn after_a_refusal_packets_go_alone_until_the_socket_leads_elsewhere() {
        let mut gso_batches = gso_batches();
        let mut refused = packet(100, 0);
        assert_eq!(gso_batches.judge(&refused, SendOutcome::TooLong), SendOutcome::TooLong, "it went alone");
        refused.in_gso_batch = true;
        assert_eq!(gso_batches.judge(&refused, SendOutcome::Busy), SendOutcome::Busy);
        let failed = SendOutcome::Failed(libc::EIO);
        assert_eq!(gso_batches.judge(&refused, failed), SendOutcome::GsoRefused(libc::EIO));
        assert!(gso_batches.begin(&packet(100, 0)).with(&packet(100, 0)).is_none());
        gso_batches.allow(SocketSlot(0));
        assert!(gso_batches.begin(&packet(100, 0)).with(&packet(100, 0)).is_some());
    }
}
