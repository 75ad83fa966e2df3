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
        let fits = packet.may_join()
            && self.is_open
            && self.socket == packet.socket()
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

/// GSO for one socket.
#[derive(Clone, Copy, Debug)]
struct SocketGso {
    /// A batch was refused; no more are made.
    is_refused: bool,
    /// The longest segment that its path MTU permits.
    segment_bytes_max: usize,
}

impl SocketGso {
    /// A socket that does not exist.
    const NONE: SocketGso = SocketGso { is_refused: true, segment_bytes_max: 0 };
}

/// The sockets that accept batches.
#[derive(Debug, Default)]
pub struct GsoBatches {
    /// By slot.
    sockets: Vec<SocketGso>,
}

impl GsoBatches {
    /// Socket `slot` is new, and its path MTU permits packets of up to `path_payload_bytes`; `None` if unknown.
    pub fn opened(&mut self, slot: SocketSlot, path_payload_bytes: Option<usize>) {
        let index = slot.0 as usize;
        if self.sockets.len() <= index {
            self.sockets.resize(index + 1, SocketGso::NONE);
        }
        self.allow(slot);
        self.limit_segments(slot, path_payload_bytes);
    }

    /// GSO batches go to socket `slot` again, though one was refused there.
    pub fn allow(&mut self, slot: SocketSlot) {
        if let Some(socket) = self.sockets.get_mut(slot.0 as usize) {
            socket.is_refused = false;
        }
    }

    /// The path MTU of socket `slot` permits packets of up to `path_payload_bytes` now: longer ones are sent alone, in IP
    /// fragments.
    pub fn limit_segments(&mut self, slot: SocketSlot, path_payload_bytes: Option<usize>) {
        if let Some(socket) = self.sockets.get_mut(slot.0 as usize) {
            socket.segment_bytes_max = path_payload_bytes.unwrap_or(usize::MAX);
        }
    }

    /// A GSO batch of one packet; others may join it if its socket supports GSO with segments of that length.
    pub fn begin(&self, packet: &Packet) -> GsoBatch {
        let socket = self.sockets.get(packet.socket().0 as usize).copied().unwrap_or(SocketGso::NONE);
        let is_open = !socket.is_refused && packet.len() <= socket.segment_bytes_max;
        GsoBatch { socket: packet.socket(), packets: 1, segment_bytes: packet.len(), is_open }
    }

    /// What to report for a message whose first packet is `packet` and whose send ended with `outcome`: that, unless it is a
    /// GSO batch to be taken apart. If its segments exceed `path_payload_bytes`, which is called then, later
    /// segments are limited to that; if the host or device does not support it, the socket gets no more.
    pub fn judge(
        &mut self,
        packet: &Packet,
        outcome: SendOutcome,
        path_payload_bytes: impl FnOnce() -> Option<usize>,
    ) -> SendOutcome {
        let (errno, is_answer) = match outcome {
            SendOutcome::TooLong => (libc::EMSGSIZE, false),
            SendOutcome::Failed(errno) => (errno, false),
            SendOutcome::Answered(errno) => (errno, true),
            other => return other,
        };
        if !packet.in_gso_batch() {
            return outcome;
        }
        if errno::may_be_path(errno)
            && let Some(path_bytes) = path_payload_bytes().filter(|bytes| *bytes < packet.len())
        {
            self.limit_segments(packet.socket(), Some(path_bytes));
            return SendOutcome::TooBigForPath;
        }
        if is_answer || !errno::is_gso_refusal(errno) {
            return outcome;
        }
        if let Some(socket) = self.sockets.get_mut(packet.socket().0 as usize) {
            socket.is_refused = true;
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
        packet.set_destination(0, SocketSlot(slot));
        packet.set_may_join(true);
        packet
    }

    fn gso_batches() -> GsoBatches {
        let mut gso_batches = GsoBatches::default();
        gso_batches.opened(SocketSlot(0), None);
        gso_batches
    }

    /// Whether two packets of so many bytes go together.
    fn joins(gso_batches: &GsoBatches, bytes: usize) -> bool {
        gso_batches.begin(&packet(bytes, 0)).with(&packet(bytes, 0)).is_some()
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
        alone.set_may_join(false);
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
    fn after_a_refusal_packets_go_alone_until_gso_is_allowed_again() {
        let mut gso_batches = gso_batches();
        let mut refused = packet(100, 0);
        let unknown = || None;
        assert_eq!(
            gso_batches.judge(&refused, SendOutcome::TooLong, unknown),
            SendOutcome::TooLong,
            "it went alone"
        );
        refused.set_in_gso_batch(true);
        assert_eq!(gso_batches.judge(&refused, SendOutcome::Busy, unknown), SendOutcome::Busy);
        let answered = SendOutcome::Answered(libc::EMSGSIZE);
        assert_eq!(gso_batches.judge(&refused, answered, unknown), answered);
        assert!(joins(&gso_batches, 100));
        let failed = SendOutcome::Failed(libc::EIO);
        assert_eq!(gso_batches.judge(&refused, failed, unknown), SendOutcome::GsoRefused(libc::EIO));
        assert!(!joins(&gso_batches, 100));
        gso_batches.allow(SocketSlot(0));
        assert!(joins(&gso_batches, 100));
    }

    #[test]
    fn segments_that_the_path_does_not_take_go_alone_and_shorter_ones_together() {
        let mut refused = packet(1_472, 0);
        refused.set_in_gso_batch(true);
        // By kernel, and after an ICMP error.
        for outcome in
            [SendOutcome::TooLong, SendOutcome::Failed(libc::EINVAL), SendOutcome::Answered(libc::EMSGSIZE)]
        {
            let mut gso_batches = gso_batches();
            assert_eq!(
                gso_batches.judge(&refused, outcome, || Some(1_372)),
                SendOutcome::TooBigForPath,
                "{outcome:?}"
            );
            assert!(!joins(&gso_batches, 1_373) && joins(&gso_batches, 1_372));
            // The path MTU permits such segments.
            assert_ne!(gso_batches.judge(&refused, outcome, || Some(1_472)), SendOutcome::TooBigForPath);
            gso_batches.limit_segments(SocketSlot(0), Some(1_472));
            gso_batches.allow(SocketSlot(0));
            assert!(!joins(&gso_batches, 1_473) && joins(&gso_batches, 1_472));
        }
        let failed = SendOutcome::Failed(libc::EIO);
        assert_eq!(
            gso_batches().judge(&refused, failed, || Some(1_372)),
            SendOutcome::GsoRefused(libc::EIO),
            "the device refuses it"
        );
    }
}
