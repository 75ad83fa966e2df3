//! The demo's threads.
//!
//! In: a name and work. Out: a thread that leaves signals to the main one, where `control/` handles them. Next: the
//! work's own file.

use nix::sys::signal::SigSet;
use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread called `name` (at most 15 bytes).
pub fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(|| {
        // If it fails, a signal that hits this thread is handled all the same.
        let _ = SigSet::all().thread_block();
        work()
    })
}
