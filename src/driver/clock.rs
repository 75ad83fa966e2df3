//! The process's clock: µs since its first reading, monotonic, one start for all threads, so that moments can be
//! compared between workers and the control thread. And the wall clock, which the kernel's timestamps are of.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

static START: OnceLock<Instant> = OnceLock::new();

/// Now, in µs.
pub fn now_us() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// The wall clock (CLOCK_REALTIME), ns since 1970; 0 if it shows an earlier moment.
pub fn wall_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
