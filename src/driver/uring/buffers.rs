//! The registered buffer ring: the kernel fills a buffer per datagram, this side reads and recycles it.
//!
//! In: buffer ids of completions. Out: their bytes; free buffers for the kernel. Next: `kernel.rs`.
//!
//! The kernel uses buffers in the order in which they were offered. So only as many are offered as one drain is expected to
//! need, the most recently used first: they are still in the processor's cache.
//!
//! Invariants of this file:
//! (H) a buffer is held by exactly one side: `held[id]` is true from the completion that brought it until `recycle`;
//!     the kernel writes only to buffers that were offered and are not held.
//! (M) both mappings outlive the ring that they are registered with; `IoUringKernel` drops the ring first.

#![allow(unsafe_code)]

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Id of the one buffer group, which all listeners share.
pub const GROUP: u16 = 0;

/// Buffers and the ring of those that are offered to the kernel.
pub struct Buffers {
    entries: Mapping,
    entries_count: u16,
    data: Mapping,
    buffer_bytes: usize,
    /// From one buffer's start to the next one's, so that each starts at a cache line.
    stride_bytes: usize,
    held: Vec<bool>,
    /// Neither held nor offered, the most recently used last.
    free: Vec<u16>,
    /// Offered and not consumed yet.
    offered: usize,
    /// Buffers offered since the start; the kernel sees them up to the published tail.
    tail: u16,
}

impl Buffers {
    /// Maps `count` (1 to 32,768) buffers of `buffer_bytes`, all free; nothing is registered yet.
    pub fn new(count: usize, buffer_bytes: usize) -> io::Result<Buffers> {
        let entries_count = Buffers::entries(count);
        let stride_bytes = buffer_bytes.next_multiple_of(64);
        Ok(Buffers {
            entries: Mapping::new(entries_count * size_of::<BufRingEntry>())?,
            entries_count: u16::try_from(entries_count).map_err(io::Error::other)?,
            data: Mapping::new(count * stride_bytes)?,
            buffer_bytes,
            stride_bytes,
            held: vec![false; count],
            free: (0..count as u16).rev().collect(),
            offered: 0,
            tail: 0,
        })
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
        let Some(held) = self.held.get_mut(usize::from(id)) else { return false };
        if std::mem::replace(held, true) {
            return false;
        }
        self.offered = self.offered.saturating_sub(1);
        true
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

    /// A held buffer is free again; the kernel gets it when it is offered.
    pub fn recycle(&mut self, id: u16) -> bool {
        let is_held = self.held.get_mut(usize::from(id)).is_some_and(|held| std::mem::replace(held, false));
        if is_held {
            self.free.push(id);
        }
        is_held
    }

    /// Offers free buffers until the kernel has `count`, or none is left; with one Release store.
    pub fn offer(&mut self, count: usize) {
        let before = self.tail;
        while self.offered < count
            && let Some(id) = self.free.pop()
        {
            self.write_entry(id);
            self.offered += 1;
        }
        if before == self.tail {
            return;
        }
        // SAFETY: (M); the tail lies within the first entry, is aligned, and is written by this side only.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.start().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
    }

    fn write_entry(&mut self, id: u16) {
        let place = usize::from(self.tail & (self.entries_count - 1));
        // SAFETY: `place` is below the count of entries; there are at least as many entries as buffers, so the kernel has
        // consumed this one (it reads only up to the published tail); the entries' memory is zeroed or written by us; `id` is
        // below the count of buffers, since it comes from `free`.
        // Address, length and id are written one by one, since the first entry's last field is the ring's tail.
        unsafe {
            let entry = &mut *self.entries.start().cast::<BufRingEntry>().add(place);
            entry.set_addr(self.data.start().add(usize::from(id) * self.stride_bytes) as u64);
            entry.set_len(self.buffer_bytes as u32);
            entry.set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Bytes of all buffers.
    pub fn data_bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// A private anonymous mapping.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned memory without any tie to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes` (more than 0).
    fn new(bytes: usize) -> io::Result<Mapping> {
        // SAFETY: a new anonymous mapping touches no memory that anybody has.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mmap gave address 0"))?;
        Ok(Mapping { start, bytes })
    }

    /// Its first byte.
    fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length.
    fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and its owner ends here. Should it fail, the memory stays mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_read_only_while_it_is_held_and_given_back_once() {
        let mut buffers = Buffers::new(3, 64).unwrap();
        buffers.offer(2);
        assert_eq!((buffers.offered, buffers.free.len()), (2, 1));
        assert!(buffers.bytes(0).is_empty());
        assert!(!buffers.recycle(0), "not held");
        assert!(buffers.take(1));
        assert!(!buffers.take(1), "held already");
        assert_eq!(buffers.bytes(1).len(), 64);
        assert!(buffers.recycle(1));
        assert!(!buffers.recycle(1));
        assert!(!buffers.take(3) && !buffers.recycle(3), "no such buffer");
    }

    #[test]
    fn the_most_recently_used_buffer_is_offered_first_and_never_more_than_there_are() {
        let mut buffers = Buffers::new(4, 64).unwrap();
        buffers.offer(3);
        assert_eq!(buffers.free, [3]);
        assert!(buffers.take(0) && buffers.take(1));
        assert!(buffers.recycle(0) && buffers.recycle(1));
        assert_eq!(buffers.offered, 1);
        buffers.offer(2);
        assert_eq!((buffers.offered, &buffers.free[..]), (2, &[3, 0][..]));
        buffers.offer(9);
        assert_eq!((buffers.offered, buffers.free.len()), (4, 0));
    }
}
