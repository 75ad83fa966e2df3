//! Anonymous memory, page-aligned, zeroed, not touched before its use: what the kernel writes to.
//!
//! In: a length. Out: a pointer that stays valid as long as the mapping. Next: `uring/buffers.rs`,
//! `portable/kernel.rs`.

#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;

/// A private anonymous mapping.
pub struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping is owned memory without any tie to a thread.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `bytes` (more than 0).
    pub fn new(bytes: usize) -> io::Result<Mapping> {
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
    pub fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and its owner ends here. Should it fail, the memory stays mapped.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
