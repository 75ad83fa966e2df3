//! The registered buffer ring: the kernel fills a buffer per datagram, the driver reads and recycles it.
//!
//! In: ids of buffers that completions brought. Out: their bytes; free buffers for the kernel. Next: `kernel.rs`.
//!
//! Invariants of this file:
//! (H) a buffer is held by exactly one side: `held[id]` is true from the completion that brought it until `give_back`;
//!     the kernel writes only to buffers that are not held.
//! (M) both mappings outlive the ring that they are registered with; `KernelRing` drops the ring first.

#![allow(unsafe_code)]

use crate::driver::mapping::Mapping;
use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

/// Id of the one buffer group, which all listeners share.
pub const GROUP: u16 = 0;

/// Buffers and the ring of those that are free.
pub struct Buffers {
    entries: Mapping,
    entries_count: u16,
    data: Mapping,
    buffer_bytes: usize,
    /// From one buffer's start to the next one's, so that each starts at a cache line.
    stride_bytes: usize,
    held: Vec<bool>,
    /// Buffers given back so far; the kernel sees them up to the last publish.
    tail: u16,
    published: u16,
}

impl Buffers {
    /// Maps `count` (1 to 32,768) buffers of `buffer_bytes`, all free; nothing is registered yet.
    pub fn new(count: usize, buffer_bytes: usize) -> io::Result<Buffers> {
        let entries_count = Buffers::entries(count);
        let stride_bytes = buffer_bytes.next_multiple_of(64);
        let mut buffers = Buffers {
            entries: Mapping::new(entries_count * size_of::<BufRingEntry>())?,
            entries_count: u16::try_from(entries_count).map_err(io::Error::other)?,
            data: Mapping::new(count * stride_bytes)?,
            buffer_bytes,
            stride_bytes,
            held: vec![true; count],
            tail: 0,
            published: 0,
        };
        for id in 0..count {
            buffers.give_back(id as u16);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Entries of the ring for `count` buffers.
    pub fn entries(count: usize) -> usize {
        count.next_power_of_two()
    }

    /// Hands the ring to the kernel.
    pub fn register(&self, submitter: &Submitter<'_>) -> io::Result<()> {
        // SAFETY: (M); the entries are page-aligned, their count is a power of two and matches the mapping's length,
        // and every entry up to the published tail names a buffer of `data`.
        unsafe {
            submitter.register_buf_ring_with_flags(self.entries.start() as u64, self.entries_count, GROUP, 0)
        }
    }

    /// A completion brought this buffer; false if there is no such one or it was held already.
    pub fn take(&mut self, id: u16) -> bool {
        self.held.get_mut(usize::from(id)).is_some_and(|held| !std::mem::replace(held, true))
    }

    /// All bytes of a held buffer; empty if it is not held.
    pub fn bytes(&self, id: u16) -> &[u8] {
        if !self.held.get(usize::from(id)).is_some_and(|held| *held) {
            return &[];
        }
        // SAFETY: (H) and the check above: the kernel does not write here while the borrow lasts, since giving back needs
        // `&mut self`; the range lies within `data`, which was zeroed by the kernel, so every byte is initialised.
        unsafe {
            let start = self.data.start().add(usize::from(id) * self.stride_bytes);
            std::slice::from_raw_parts(start, self.buffer_bytes)
        }
    }

    /// Puts a held buffer behind the free ones; the kernel sees it after [`Buffers::publish`].
    pub fn give_back(&mut self, id: u16) -> bool {
        let index = usize::from(id);
        if !self.held.get(index).is_some_and(|held| *held) {
            return false;
        }
        self.held[index] = false;
        let place = usize::from(self.tail & (self.entries_count - 1));
        // SAFETY: `place` is below the count of entries; there are at least as many entries as buffers, so the kernel has
        // consumed this one (it reads only up to the published tail); the entries' memory is zeroed or written by us.
        // Address, length and id are written one by one, since the first entry's last field is the ring's tail.
        unsafe {
            let entry = &mut *self.entries.start().cast::<BufRingEntry>().add(place);
            entry.set_addr(self.data.start().add(index * self.stride_bytes) as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        true
    }

    /// Lets the kernel have what was given back.
    pub fn publish(&mut self) {
        if self.published == self.tail {
            return;
        }
        // SAFETY: (M); the tail lies within the first entry, is aligned, and is written by this side only.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.start().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
        self.published = self.tail;
    }

    /// Bytes of all buffers.
    pub fn data_bytes(&self) -> usize {
        self.data.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_read_only_while_it_is_held_and_given_back_once() {
        let mut buffers = Buffers::new(3, 64).unwrap();
        assert!(buffers.bytes(0).is_empty());
        assert!(!buffers.give_back(0), "free already");
        assert!(buffers.take(1));
        assert!(!buffers.take(1), "held already");
        assert_eq!(buffers.bytes(1).len(), 64);
        assert!(buffers.give_back(1));
        assert!(!buffers.give_back(1));
        assert!(!buffers.take(3) && !buffers.give_back(3), "no such buffer");
        buffers.publish();
    }
}
