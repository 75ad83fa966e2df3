//! The clock that processes of one host share: CLOCK_MONOTONIC itself, so that a load can write a moment that a sink
//! of another process compares with its own.
//!
//! In: nothing. Out: µs since the host's start. Next: `load/line.rs` writes them, `sequenced.rs` reads them.

use nix::time::{ClockId, clock_gettime};

/// Now, in µs of CLOCK_MONOTONIC. No system call on common hardware.
#[inline]
pub fn host_now_us() -> u64 {
    // It cannot fail for this clock; 0 would show as absurd latencies and not as a crash.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or((0, 0), |now| (now.tv_sec(), now.tv_nsec()));
    now.0.unsigned_abs() * 1_000_000 + now.1.unsigned_abs() / 1_000
}
