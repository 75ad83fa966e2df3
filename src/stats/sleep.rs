//! How one worker sleeps now, readable at any moment: the state of its coalescing, for `status`.
//!
//! In: set by the worker after each batch. Out: a [`Sleep`]. Next: `admin/tuning.rs`.

use std::sync::atomic::{AtomicU64, Ordering};

/// No traffic flows.
const IDLE: u64 = u64::MAX;
/// Bits of the packed number that hold the share; the others hold the sleep.
const SHARE_BITS: u32 = 16;

/// How a worker sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sleep {
    /// No traffic flows: it waits for the next datagram, without a timer.
    #[default]
    Idle,
    /// Traffic flows, and it wakes for each datagram.
    Each,
    /// Traffic flows, and it sleeps while datagrams accumulate.
    Gather {
        /// The longest sleep that it would take now, in µs.
        sleep_us: u64,
        /// How much of the granted receive buffer the peak rate fills in that time, in thousandths.
        filled_permille: u16,
    },
}

/// The last [`Sleep`] of one worker.
pub struct SleepGauge {
    packed: AtomicU64,
}

impl SleepGauge {
    /// Sets the state.
    pub fn set(&self, sleep: Sleep) {
        let packed = match sleep {
            Sleep::Idle => IDLE,
            Sleep::Each => 0,
            Sleep::Gather { sleep_us, filled_permille } => {
                sleep_us.min(IDLE >> (SHARE_BITS + 1)) << SHARE_BITS | u64::from(filled_permille)
            }
        };
        self.packed.store(packed, Ordering::Relaxed);
    }

    /// The last state.
    pub fn read(&self) -> Sleep {
        match self.packed.load(Ordering::Relaxed) {
            IDLE => Sleep::Idle,
            0 => Sleep::Each,
            packed => Sleep::Gather { sleep_us: packed >> SHARE_BITS, filled_permille: packed as u16 },
        }
    }
}

impl Default for SleepGauge {
    fn default() -> Self {
        SleepGauge { packed: AtomicU64::new(IDLE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_can_be_read() {
        let gauge = SleepGauge::default();
        assert_eq!(gauge.read(), Sleep::Idle);
        for sleep in [
            Sleep::Each,
            Sleep::Gather { sleep_us: 100, filled_permille: 0 },
            Sleep::Gather { sleep_us: 1_000_000, filled_permille: u16::MAX },
            Sleep::Idle,
        ] {
            gauge.set(sleep);
            assert_eq!(gauge.read(), sleep);
        }
    }
}
