//! When to drain: sleeps on an absolute timer while traffic flows, as long as the receive buffer can hold what comes.
//!
//! In: what each drain brought. Out: a sleep. Next: the examples' loops.

use std::ptr::null_mut;

/// Kernel memory that a small datagram takes in a receive buffer.
const DATAGRAM_COST_BYTES: u64 = 832;

/// The sleeps between drains.
pub struct Rhythm {
    period_us: u64,
    /// Half of the receive buffer: a sleep ends before the last rate fills more.
    room_bytes: u64,
    /// The next sleep.
    sleep_us: u64,
    deadline_us: u64,
    is_flowing: bool,
}

impl Rhythm {
    /// Sleeps of `period_us`, with 0 none; `granted_bytes` is the receive buffer.
    pub fn new(period_us: u64, granted_bytes: usize) -> Rhythm {
        let room_bytes = granted_bytes as u64 / 2;
        Rhythm { period_us, room_bytes, sleep_us: period_us, deadline_us: 0, is_flowing: false }
    }

    /// Whether to wait for the next datagram; else it has slept.
    pub fn waits(&mut self) -> bool {
        if !self.is_flowing || self.period_us == 0 {
            return true;
        }
        let now_us = monotonic_us();
        self.deadline_us += self.sleep_us;
        if self.deadline_us <= now_us || self.deadline_us > now_us + self.sleep_us {
            self.deadline_us = now_us + self.sleep_us;
        }
        sleep_until(self.deadline_us);
        false
    }

    /// A drain brought `datagrams` with `bytes` of payload.
    pub fn took(&mut self, datagrams: u64, bytes: u64) {
        self.is_flowing = datagrams > 0;
        // A small datagram takes a fixed piece; a large one up to twice its length.
        let cost = datagrams * DATAGRAM_COST_BYTES + 2 * bytes.saturating_sub(datagrams * 128);
        let until_half_full_us = (self.room_bytes * self.sleep_us).checked_div(cost).unwrap_or(u64::MAX);
        self.sleep_us = until_half_full_us.clamp(1, self.period_us.max(1));
    }
}

fn monotonic_us() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// Sleeps until a time of the monotonic clock, or a signal.
fn sleep_until(deadline_us: u64) {
    let deadline = libc::timespec {
        tv_sec: (deadline_us / 1_000_000) as _,
        tv_nsec: (deadline_us % 1_000_000 * 1_000) as _,
    };
    // SAFETY: the kernel reads one timespec, which outlives the call, and writes nothing.
    unsafe {
        libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &raw const deadline, null_mut());
    }
}
