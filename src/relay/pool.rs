//! The packets of one worker: all that it will ever have, made at start.
//!
//! In: packets whose outcome is known. Out: empty packets for `egress.rs`. Nothing is allocated in between.

use crate::packet::Packet;

/// Free packets of two sizes: those that metrics are gathered into, and a few for metrics longer than that.
pub struct Pool {
    free: Vec<Packet>,
    packet_bytes: usize,
    oversize: Vec<Packet>,
    oversize_bytes: usize,
}

/// How many packets of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSize {
    /// Packets that metrics are gathered into.
    pub packets: usize,
    /// Bytes of one.
    pub packet_bytes: usize,
    /// Packets for a single long metric.
    pub oversize: usize,
    /// Bytes of one; a metric is never longer than the datagram it came in.
    pub oversize_bytes: usize,
}

impl PoolSize {
    /// Bytes of all payloads.
    pub const fn bytes(self) -> usize {
        self.packets * self.packet_bytes + self.oversize * self.oversize_bytes
    }
}

impl Pool {
    /// All packets, allocated now.
    pub fn new(size: PoolSize) -> Pool {
        let make = |count, bytes| {
            let mut packets = Vec::with_capacity(count);
            packets.extend((0..count).map(|_| Packet::with_capacity(bytes)));
            packets
        };
        Pool {
            free: make(size.packets, size.packet_bytes),
            packet_bytes: size.packet_bytes,
            oversize: make(size.oversize, size.oversize_bytes),
            oversize_bytes: size.oversize_bytes,
        }
    }

    /// An empty packet that can hold a metric of `line_bytes`; `None` if none is free.
    pub fn take(&mut self, line_bytes: usize) -> Option<Packet> {
        if line_bytes <= self.packet_bytes { self.free.pop() } else { self.oversize.pop() }
    }

    /// Takes a packet back. One of a size that an earlier config asked for is freed.
    pub fn give(&mut self, mut packet: Packet) {
        packet.clear();
        let (list, bytes) = if packet.capacity() == self.packet_bytes {
            (&mut self.free, self.packet_bytes)
        } else {
            (&mut self.oversize, self.oversize_bytes)
        };
        if packet.capacity() == bytes && list.len() < list.capacity() {
            list.push(packet);
        }
    }

    /// Free packets of the usual size.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Free packets for long metrics.
    pub fn free_oversize(&self) -> usize {
        self.oversize.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_and_go_by_size_and_foreign_ones_are_freed() {
        let mut pool = Pool::new(PoolSize { packets: 2, packet_bytes: 10, oversize: 1, oversize_bytes: 20 });
        let small = pool.take(10).unwrap();
        let long = pool.take(11).unwrap();
        assert_eq!((small.capacity(), long.capacity()), (10, 20));
        assert!(pool.take(11).is_none());
        pool.give(small);
        pool.give(long);
        pool.give(Packet::with_capacity(15));
        pool.give(Packet::with_capacity(10));
        assert_eq!((pool.free(), pool.free_oversize()), (2, 1));
    }
}
