//! The counting allocator: the system's, with figures. `unsafe` lives here because an allocator is made of it.
//!
//! In: every allocation of the process. Out: [`figures`] for `memstats`, [`thread_allocations`] for the test that the
//! data path allocates nothing. The data path does not allocate, so the shared counters cost it nothing.
//!
//! One invariant carries every `unsafe` below: **(A)** each call is handed to [`System`] unchanged, and what it
//! answers is handed back unchanged, so the caller's side of the `GlobalAlloc` contract is exactly `System`'s.

#![allow(unsafe_code)]

use serde::Serialize;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

/// [`System`], counted.
pub struct CountingAllocator;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static FREES: AtomicU64 = AtomicU64::new(0);
static ALLOCATED_BYTES: AtomicU64 = AtomicU64::new(0);
static FREED_BYTES: AtomicU64 = AtomicU64::new(0);
static MAPPED_BYTES_PEAK: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Constant at first and without a destructor: reading it never allocates, which would call the allocator again.
    static THREAD_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The heap's figures, in allocations and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeapFigures {
    /// Blocks ever allocated; a block that is resized counts as one freed and one allocated.
    pub allocations: u64,
    /// Blocks ever freed.
    pub frees: u64,
    /// Bytes ever allocated.
    pub allocated_bytes: u64,
    /// Bytes allocated and not freed.
    pub live_bytes: u64,
    /// Address space that the allocator holds from the kernel.
    pub mapped_bytes: u64,
    /// The part of it that is in use, the allocator's own bookkeeping included.
    pub in_use_bytes: u64,
    /// The part of it that is free.
    pub free_bytes: u64,
    /// The most that `mapped_bytes` was seen at, at any call of [`figures`].
    pub mapped_bytes_peak: u64,
}

/// The heap's figures now. The counters are read one after the other, while other threads may go on allocating.
pub fn figures() -> HeapFigures {
    // What is freed is read before what is allocated: no block then counts as freed but not allocated.
    let frees = FREES.load(Ordering::Acquire);
    let freed_bytes = FREED_BYTES.load(Ordering::Acquire);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed);
    let allocated_bytes = ALLOCATED_BYTES.load(Ordering::Relaxed);
    let live_bytes = allocated_bytes.saturating_sub(freed_bytes);
    let (mapped_bytes, in_use_bytes, free_bytes) = system_figures(live_bytes);
    let peak_before = MAPPED_BYTES_PEAK.fetch_max(mapped_bytes, Ordering::Relaxed);
    HeapFigures {
        allocations,
        frees,
        allocated_bytes,
        live_bytes,
        mapped_bytes,
        in_use_bytes,
        free_bytes,
        mapped_bytes_peak: peak_before.max(mapped_bytes),
    }
}

/// Blocks that the calling thread has allocated since it started; one that is resized counts again.
pub fn thread_allocations() -> u64 {
    THREAD_ALLOCATIONS.try_with(Cell::get).unwrap_or(0)
}

/// Blocks of this size or larger are mapped separately, and returned to the kernel when freed, bytes: packets, queues and
/// caches, but not the replies of the admin port.
#[cfg(target_env = "gnu")]
const LARGE_BYTES: libc::c_int = 1 << 20;

/// Makes the allocator return large blocks to the kernel when they are freed; call once, at the start.
///
/// glibc raises its mmap threshold with each mapped block that is freed, up to 32 MiB: what reloads replaced would stay
/// resident. A fixed threshold prevents that.
#[cfg(target_env = "gnu")]
pub fn release_large_blocks() {
    // SAFETY: mallopt takes two numbers, locks what it changes, and touches no block. A refusal leaves things as they were.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
}

/// Other libraries return large blocks, or have no such setting.
#[cfg(not(target_env = "gnu"))]
pub fn release_large_blocks() {}

/// Bytes mapped, in use and free, as reported by the allocator of the system.
#[cfg(target_env = "gnu")]
fn system_figures(_live_bytes: u64) -> (u64, u64, u64) {
    // SAFETY: mallinfo2 takes no arguments, locks what it reads, and returns plain numbers.
    let info = unsafe { libc::mallinfo2() };
    let (arena, mapped_apart) = (info.arena as u64, info.hblkhd as u64);
    (arena + mapped_apart, info.uordblks as u64 + mapped_apart, info.fordblks as u64)
}

/// Other libraries do not tell; what is live is then all that is known.
#[cfg(not(target_env = "gnu"))]
fn system_figures(live_bytes: u64) -> (u64, u64, u64) {
    (live_bytes, live_bytes, 0)
}

fn count_allocation(bytes: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    ALLOCATED_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    // Fails only while the thread ends, when nobody asks for its count any more.
    let _ = THREAD_ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

fn count_free(bytes: usize) {
    FREES.fetch_add(1, Ordering::Relaxed);
    FREED_BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
}

// SAFETY: (A) for every method; counting touches only atomics and a thread-local that never allocates.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: (A), upheld by the caller.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            count_allocation(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: (A), upheld by the caller.
        let block = unsafe { System.alloc_zeroed(layout) };
        if !block.is_null() {
            count_allocation(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count_free(layout.size());
        // SAFETY: (A), upheld by the caller.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: (A), upheld by the caller.
        let moved = unsafe { System.realloc(block, layout, new_size) };
        if !moved.is_null() {
            count_allocation(new_size);
            count_free(layout.size());
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[test]
    fn a_threads_allocations_are_its_own() {
        let before = thread_allocations();
        let elsewhere = std::thread::spawn(|| {
            let start = thread_allocations();
            for size in 1..=100 {
                black_box(vec![0u8; size]);
            }
            thread_allocations() - start
        });
        assert_eq!(elsewhere.join().unwrap(), 100);
        // Starting a thread allocates here too, but nothing like a hundred times.
        assert!(thread_allocations() - before < 50);
        let mut growing = black_box(Vec::<u8>::with_capacity(1));
        let before = thread_allocations();
        growing.reserve_exact(1_000);
        assert_eq!(thread_allocations() - before, 1);
        let before = thread_allocations();
        drop(black_box(growing));
        assert_eq!(thread_allocations(), before);
    }

    #[test]
    fn figures_show_what_is_held_and_what_was_freed() {
        // Zeroed memory of this size is mapped and never touched, so it costs the machine nothing.
        const BYTES: usize = 512 << 20;
        let before = figures();
        let block = black_box(vec![0u8; BYTES]);
        let during = figures();
        drop(block);
        let after = figures();
        // Other tests allocate meanwhile, but nothing near this size.
        let half = BYTES as u64 / 2;
        assert!(during.live_bytes > before.live_bytes + half);
        assert!(after.live_bytes + half < during.live_bytes);
        assert!(after.allocated_bytes >= before.allocated_bytes + BYTES as u64);
        assert!(after.allocations > before.allocations && after.frees > before.frees);
        assert!(during.mapped_bytes >= BYTES as u64 && during.in_use_bytes >= BYTES as u64);
        assert!(after.mapped_bytes_peak >= during.mapped_bytes);
        assert!(after.allocations >= after.frees);
    }
}
