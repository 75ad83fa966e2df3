//! The interface between the relay and the driver: a [`Packet`] is sent, a [`SendOutcome`] is returned.
//!
//! In: the relay fills packets with whole lines. Out: the driver owns a packet from the moment it is pushed until
//! its outcome is known, then hands it back. Next: `relay/` fills them, `driver/` sends them; neither knows the other.
//! Its failpoint is here because a fake kernel never sees the two packets of which [`Contents::absorb`] makes one.

mod arrivals;
mod send_error;

pub use arrivals::Arrivals;
pub use send_error::{SendError, SendErrorCounts};

use crate::failpoint::{Mutation, is_active};
use bytes::BytesMut;
use std::ops::{Deref, DerefMut};

/// One datagram on its way to a backend: whole metrics, separated by newlines.
///
/// The bytes are on the heap and never move while a packet is passed around, so that the kernel may read them
/// until the packet is returned. Fixed capacity: filling a packet never allocates. Only a pointer is passed around.
#[derive(Debug)]
pub struct Packet(Box<Contents>);

impl Deref for Packet {
    type Target = Contents;

    #[inline(always)]
    fn deref(&self) -> &Contents {
        &self.0
    }
}

impl DerefMut for Packet {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Contents {
        &mut self.0
    }
}

/// Copies a line; both have the same length.
///
/// Most lines have 17 to 64 bytes: two copies of a fixed size, which overlap in the middle, save the call that a copy of
/// an unknown length takes.
#[inline(always)]
fn copy_short(to: &mut [u8], line: &[u8]) {
    match line.len() {
        33..=64 => copy_ends::<32>(to, line),
        17..=32 => copy_ends::<16>(to, line),
        _ => to.copy_from_slice(line),
    }
}

/// Copies the first and the last `N` bytes, of N to 2 N.
#[inline(always)]
fn copy_ends<const N: usize>(to: &mut [u8], line: &[u8]) {
    if let (Some(first), Some(last)) = (line.first_chunk::<N>(), line.last_chunk::<N>()) {
        if let Some(place) = to.first_chunk_mut::<N>() {
            *place = *first;
        }
        if let Some(place) = to.last_chunk_mut::<N>() {
            *place = *last;
        }
    }
}

/// Contents and metadata of a [`Packet`].
///
/// The relay writes what is in it, where it goes and when; the driver writes how it was sent. `tests/house.rs` checks that
/// neither calls the other's setters.
#[derive(Debug)]
pub struct Contents {
    bytes: BytesMut,
    len: usize,
    pool: u32,
    metrics: u32,
    socket: SocketSlot,
    backend: usize,
    arrival: Arrival,
    sequence: u64,
    attempts: u8,
    may_join: bool,
    in_gso_batch: bool,
    // A pointer: without timestamps it costs nothing.
    arrivals: Option<Box<Arrivals>>,
}

/// Arrival times of a batch of datagrams; µs of the driver's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrival {
    /// Lower bound of their arrival.
    pub bound_us: u64,
    /// When the wait that delivered them returned.
    pub taken_us: u64,
    /// They ended an idle sleep: `bound_us` is only the wake-up.
    pub after_idle: bool,
}

/// Slot of a backend's connected socket in the driver's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketSlot(pub u32);

impl Packet {
    /// An empty packet that can hold `capacity_bytes`, with memory of its own.
    pub fn with_capacity(capacity_bytes: usize) -> Packet {
        Packet::over(BytesMut::zeroed(capacity_bytes), u32::MAX)
    }

    /// An empty packet of `pool` that can hold as much as `bytes` is long.
    pub fn over(bytes: BytesMut, pool: u32) -> Packet {
        Packet(Box::new(Contents {
            bytes,
            len: 0,
            pool,
            metrics: 0,
            socket: SocketSlot(u32::MAX),
            backend: usize::MAX,
            arrival: Arrival::default(),
            sequence: 0,
            attempts: 0,
            may_join: false,
            in_gso_batch: false,
            arrivals: None,
        }))
    }

    /// The same, with room for its metrics' arrivals.
    pub fn with_arrivals(mut self) -> Packet {
        self.arrivals = Some(Box::default());
        self
    }
}

/// What is read of a packet, by both sides.
impl Contents {
    /// Which pool of its relay it belongs to.
    #[inline(always)]
    pub fn pool(&self) -> u32 {
        self.pool
    }

    /// Metrics (lines) inside.
    #[inline(always)]
    pub fn metrics(&self) -> u32 {
        self.metrics
    }

    /// The socket slot of the backend this packet is for (see `Driver::open_backend`).
    #[inline(always)]
    pub fn socket(&self) -> SocketSlot {
        self.socket
    }

    /// Index of the backend in the relay's list at the time of packing; the relay keeps it right across reloads.
    #[inline(always)]
    pub fn backend(&self) -> usize {
        self.backend
    }

    /// When its oldest metric arrived.
    #[inline(always)]
    pub fn arrival(&self) -> Arrival {
        self.arrival
    }

    /// Sequence number of the packets that a relay closes, so that retried ones keep their order.
    #[inline(always)]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// How often it was refused and sent again.
    pub fn attempts(&self) -> u8 {
        self.attempts
    }

    /// Whether it may be batched with the preceding packet.
    #[inline(always)]
    pub fn may_join(&self) -> bool {
        self.may_join
    }

    /// Whether it was, or was to be, sent in a GSO batch.
    #[inline(always)]
    pub fn in_gso_batch(&self) -> bool {
        self.in_gso_batch
    }

    /// When its metrics arrived, if kernel timestamps are requested.
    pub fn arrivals(&self) -> Option<&Arrivals> {
        self.arrivals.as_deref()
    }
}

/// What the relay writes, besides the lines.
impl Contents {
    /// Addresses it to a backend.
    #[inline(always)]
    pub fn set_destination(&mut self, backend: usize, socket: SocketSlot) {
        (self.backend, self.socket) = (backend, socket);
    }

    /// Sets when its oldest metric arrived.
    #[inline(always)]
    pub fn set_arrival(&mut self, arrival: Arrival) {
        self.arrival = arrival;
    }

    /// Sets its place in the order of sending.
    #[inline(always)]
    pub fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }

    /// Allows it to be batched with the preceding packet, or forbids it.
    #[inline(always)]
    pub fn set_may_join(&mut self, may_join: bool) {
        self.may_join = may_join;
    }

    /// Counts one more refused attempt to send it, and returns their number (at most 255).
    pub fn count_attempt(&mut self) -> u8 {
        self.attempts = self.attempts.saturating_add(1);
        self.attempts
    }
}

/// What the driver writes.
impl Contents {
    /// Sets whether it is sent in a GSO batch.
    #[inline(always)]
    pub fn set_in_gso_batch(&mut self, in_gso_batch: bool) {
        self.in_gso_batch = in_gso_batch;
    }
}

/// The lines inside.
impl Contents {
    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The datagram's payload.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether `line` can be appended within `limit_bytes` and the capacity.
    pub fn fits(&self, line: &[u8], limit_bytes: usize) -> bool {
        let separator = usize::from(self.len > 0);
        self.len + separator + line.len() <= limit_bytes.min(self.bytes.len())
    }

    /// Appends one line, with a newline before it unless it is the first.
    ///
    /// The caller has asked [`Packet::fits`]; a line that does not fit is refused with `false` and nothing changes.
    #[must_use]
    pub fn append(&mut self, line: &[u8]) -> bool {
        let separator = usize::from(self.len > 0);
        let start = self.len + separator;
        let end = start + line.len();
        if end > self.bytes.len() {
            return false;
        }
        if separator == 1 {
            self.bytes[self.len] = b'\n';
        }
        self.bytes[start..end].copy_from_slice(line);
        self.len = end;
        self.metrics += 1;
        true
    }

    /// Appends one line, if it fits within `limit_bytes` and the capacity; false and no
    /// change otherwise. Combines [`Contents::fits`] and [`Contents::append`].
    #[inline(always)]
    #[must_use]
    pub fn append_next(&mut self, line: &[u8], limit_bytes: usize) -> bool {
        let end = self.len + 1 + line.len();
        if end > limit_bytes {
            return false;
        }
        let Some((separator, place)) = self.bytes.get_mut(self.len..end).and_then(<[u8]>::split_first_mut)
        else {
            return false;
        };
        *separator = b'\n';
        copy_short(place, line);
        self.len = end;
        self.metrics += 1;
        true
    }

    /// Appends all lines of `other` if they fit within `limit_bytes` and the capacity; false and no change otherwise.
    #[must_use]
    pub fn absorb(&mut self, other: &Contents, limit_bytes: usize) -> bool {
        if !self.fits(other.bytes(), limit_bytes) || !self.append(other.bytes()) {
            return false;
        }
        self.metrics += other.metrics - 1;
        if let (Some(arrivals), Some(others)) = (&mut self.arrivals, &other.arrivals)
            && !is_active(Mutation::ArrivalsLostOnAbsorb)
        {
            arrivals.append(others);
        }
        true
    }

    /// Lengthens it to `bytes` (at most its capacity) with newlines, which are empty lines and skipped by servers: the
    /// packets of a batch, except the last, have the same length.
    pub fn pad(&mut self, bytes: usize) {
        if let Some(padding) = self.bytes.get_mut(self.len..bytes) {
            padding.fill(b'\n');
            self.len = bytes;
        }
    }

    /// Removes the padding.
    pub fn unpad(&mut self) {
        while self.len > 0 && self.bytes[self.len - 1] == b'\n' {
            self.len -= 1;
        }
    }

    /// Notes when metrics that were appended just now arrived; nothing if that is not known, or not asked for.
    #[inline(always)]
    pub fn note_arrival(&mut self, arrived_us: Option<i64>, metrics: u32) {
        if let (Some(arrivals), Some(arrived_us)) = (&mut self.arrivals, arrived_us) {
            arrivals.add(arrived_us, metrics);
        }
    }

    /// Empties it for its next use.
    pub fn clear(&mut self) {
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.clear();
        }
        self.len = 0;
        self.metrics = 0;
        self.attempts = 0;
        self.may_join = false;
        self.in_gso_batch = false;
    }
}

/// The kernel's result for one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// Accepted by this kernel.
    Sent,
    /// The socket's send buffer is full (EAGAIN), or the send was interrupted: try again later.
    Busy,
    /// ECONNREFUSED: an earlier datagram was refused, this one was not sent. Send it again at once.
    Refused,
    /// EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN: the backend cannot be reached, or an earlier datagram was answered so.
    Unreachable(SendError),
    /// Another errno that an ICMP answer to an earlier datagram left at the socket; this one was not sent: send it again.
    Answered(i32),
    /// ENOBUFS, ENOMEM: a queueing discipline, the device or the kernel dropped it.
    NoBuffers(SendError),
    /// EMSGSIZE: longer than the path or the socket can carry.
    TooLong,
    /// EPERM, EACCES: a firewall or a route forbids it.
    Denied(SendError),
    /// The packets of its GSO batch exceed the path MTU; none was sent. Send it again at once: it is sent alone, in IP
    /// fragments.
    TooBigForPath,
    /// This host or its device does not take GSO batches to this backend (EIO, EINVAL, …, the errno). None of the GSO batch was
    /// sent, and no more GSO batches are made for it: send it again at once.
    GsoRefused(i32),
    /// Anything else, with its errno.
    Failed(i32),
}

impl SendOutcome {
    /// Whether the cause may be the socket, so that a new one may succeed: its source address is not this host's any more
    /// (ENETUNREACH, EINVAL or EADDRNOTAVAIL, by kernel), or address translation keeps its flow at a server that is gone.
    pub fn blames_socket(self) -> bool {
        matches!(
            self,
            SendOutcome::Refused
                | SendOutcome::Unreachable(_)
                | SendOutcome::Failed(libc::EINVAL | libc::EADDRNOTAVAIL)
        )
    }

    /// Whether the path to the backend may have another MTU now.
    pub fn concerns_path(self) -> bool {
        matches!(
            self,
            SendOutcome::TooBigForPath | SendOutcome::TooLong | SendOutcome::Answered(libc::EMSGSIZE)
        )
    }

    /// The error to report; `None` for normal operation.
    pub fn error(self) -> Option<SendError> {
        match self {
            SendOutcome::Sent
            | SendOutcome::Busy
            | SendOutcome::TooBigForPath
            | SendOutcome::GsoRefused(_) => None,
            SendOutcome::Refused => Some(SendError::Refused),
            SendOutcome::TooLong => Some(SendError::TooLong),
            SendOutcome::Unreachable(error) | SendOutcome::NoBuffers(error) | SendOutcome::Denied(error) => {
                Some(error)
            }
            SendOutcome::Answered(errno) | SendOutcome::Failed(errno) => Some(SendError::of(errno)),
        }
    }

    /// The errno of an outcome whose kind does not tell it.
    pub fn other_errno(self) -> Option<i32> {
        match self {
            SendOutcome::Answered(errno) | SendOutcome::Failed(errno) => Some(errno),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_separated_by_one_newline_and_counted() {
        let mut packet = Packet::with_capacity(16);
        assert!(packet.append(b"a:1|c"));
        assert!(packet.append(b"b:2|c"));
        assert_eq!(packet.bytes(), b"a:1|c\nb:2|c");
        assert_eq!(packet.metrics, 2);
        assert!(packet.fits(b"c:1|", 16));
        assert!(!packet.fits(b"c:1|c", 16));
        assert!(!packet.append(b"c:1|c"));
        assert_eq!(packet.len(), 11);
        let mut wide = Packet::with_capacity(32);
        assert!(wide.append(b"z:1|c"));
        assert!(!wide.absorb(&packet, 16));
        assert!(wide.absorb(&packet, 32));
        assert_eq!((wide.bytes(), wide.metrics), (&b"z:1|c\na:1|c\nb:2|c"[..], 3));
        packet.pad(16);
        assert_eq!(packet.bytes(), b"a:1|c\nb:2|c\n\n\n\n\n");
        packet.unpad();
        assert_eq!((packet.bytes(), packet.metrics), (&b"a:1|c\nb:2|c"[..], 2));
        packet.clear();
        assert!(packet.is_empty());
    }

    #[test]
    fn what_is_absorbed_keeps_its_arrivals() {
        let with = |line: &[u8], arrived_us: i64| {
            let mut packet = Packet::with_capacity(16).with_arrivals();
            assert!(packet.append(line));
            packet.note_arrival(Some(arrived_us), 1);
            packet
        };
        let told =
            |packet: &Packet| packet.arrivals().into_iter().flat_map(Arrivals::iter).collect::<Vec<_>>();
        let (mut one, other) = (with(b"a:1|c", 5), with(b"b:1|c", 9));
        assert!(!one.absorb(&other, 8));
        assert_eq!(told(&one), [(5, 1)]);
        assert!(one.absorb(&other, 16));
        assert_eq!(told(&one), [(5, 1), (9, 1)]);
        one.note_arrival(None, 1);
        assert_eq!(told(&one), [(5, 1), (9, 1)]);
        one.clear();
        assert_eq!(told(&one), []);
    }
}
