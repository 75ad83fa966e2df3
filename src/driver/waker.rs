//! Wakes a worker from another thread: an eventfd that the worker polls while it sleeps.
//!
//! In: `wake()` from control. Out: the worker's wait ends. It is a hint: the data is published before, with Release.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// An eventfd; cheap to write, and many writes before a read are one wake.
#[derive(Debug)]
pub struct Waker {
    file: File,
}

impl Waker {
    /// A new eventfd.
    pub fn new() -> io::Result<Waker> {
        // SAFETY: eventfd takes no pointers; a non-negative result is a descriptor that nothing else owns.
        #[allow(unsafe_code)]
        let file = unsafe {
            let fd = libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            File::from_raw_fd(fd)
        };
        Ok(Waker { file })
    }

    /// Wakes the worker; a failure means that it is about to wake anyway.
    pub fn wake(&self) {
        let _ = (&self.file).write(&1u64.to_ne_bytes());
    }

    /// Consumes all wakes so far.
    ///
    /// # Errors
    /// `WouldBlock` if there are none.
    pub fn take(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.file).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }

    /// For the driver's ring.
    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}
