//! The process's clock: µs since its first reading, monotonic, one start for all threads, so that moments can be
//! compared between workers and the control thread.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Now, in µs.
pub fn now_us() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}
