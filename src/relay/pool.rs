//! The packet pool of one worker, allocated at start.
//!
//! In: packets whose outcome is known. Out: empty packets for `egress.rs`. Nothing is allocated in between.

use crate::packet::{Arrivals, Packet};
use bytes::BytesMut;

/// Free packets of two sizes: those that metrics are packed into, and a few for longer metrics.
///
/// The packets of one size are in one allocation, and the last one returned is the first one taken: so most of it,
/// which is only needed for busy backends, is never touched and uses no memory.
pub struct Pool {
    /// What its packets are known by.
    number: u32,
    free: Vec<Packet>,
    packet_bytes: usize,
    oversize: Vec<Packet>,
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
    /// Whether each of them notes when its metrics arrived.
    pub timestamps: bool,
}

impl PoolSize {
    /// Bytes of all payloads.
    pub const fn bytes(self) -> usize {
        self.packets * self.packet_bytes + self.oversize * self.oversize_bytes
    }

    /// Bytes of what they note.
    pub const fn arrivals_bytes(self) -> usize {
        if self.timestamps { (self.packets + self.oversize) * size_of::<Arrivals>() } else { 0 }
    }
}

impl Pool {
    /// All packets, allocated now.
    pub fn new(size: PoolSize) -> Pool {
        Pool::with_number(size, 0)
    }

    /// Packets of another size or number; this pool's are freed, those in use as they come back.
    pub fn renew(&mut self, size: PoolSize) {
        *self = Pool::with_number(size, self.number.wrapping_add(1));
    }

    fn with_number(size: PoolSize, number: u32) -> Pool {
        let make = |count: usize, bytes: usize| {
            let mut memory = BytesMut::zeroed(count * bytes);
            let mut packets = Vec::with_capacity(count);
            packets.extend((0..count).map(|_| {
                let packet = Packet::over(memory.split_to(bytes), number);
                if size.timestamps { packet.with_arrivals() } else { packet }
            }));
            packets
        };
        Pool {
            number,
            free: make(size.packets, size.packet_bytes),
            packet_bytes: size.packet_bytes,
            oversize: make(size.oversize, size.oversize_bytes),
        }
    }

    /// An empty packet that can hold a metric of `line_bytes`; `None` if none is free.
    pub fn take(&mut self, line_bytes: usize) -> Option<Packet> {
        if line_bytes <= self.packet_bytes { self.free.pop() } else { self.oversize.pop() }
    }

    /// Takes a packet back. One of an earlier pool is freed: otherwise it would keep that whole pool's memory.
    pub fn recycle(&mut self, mut packet: Packet) {
        packet.clear();
        let list = if packet.capacity() == self.packet_bytes { &mut self.free } else { &mut self.oversize };
        if packet.pool() == self.number && list.len() < list.capacity() {
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
        let size =
            PoolSize { packets: 2, packet_bytes: 10, oversize: 1, oversize_bytes: 20, timestamps: false };
        let mut pool = Pool::new(size);
        let small = pool.take(10).unwrap();
        let long = pool.take(11).unwrap();
        assert_eq!((small.capacity(), long.capacity()), (10, 20));
        assert!(pool.take(11).is_none());
        pool.recycle(small);
        pool.recycle(long);
        pool.recycle(Packet::with_capacity(15));
        pool.recycle(Packet::with_capacity(10));
        assert_eq!((pool.free(), pool.free_oversize()), (2, 1));
        let (old, old_long) = (pool.take(10).unwrap(), pool.take(20).unwrap());
        pool.renew(PoolSize { packets: 3, timestamps: true, ..size });
        let taken = (pool.take(10).unwrap(), pool.take(20).unwrap());
        assert!(old.arrivals().is_none() && taken.0.arrivals().is_some() && taken.1.arrivals().is_some());
        pool.recycle(old);
        pool.recycle(old_long);
        assert_eq!((pool.free(), pool.free_oversize()), (2, 0));
        pool.recycle(taken.0);
        pool.recycle(taken.1);
        assert_eq!((pool.free(), pool.free_oversize()), (3, 1));
    }
}
