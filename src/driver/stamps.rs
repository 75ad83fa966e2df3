//! The kernel's timestamps → moments of the driver's clock.
//!
//! In: for each batch the driver's clock and the wall clock (CLOCK_REALTIME), read one after the other; for each datagram its
//! timestamp, which is of the wall clock. Out: a [`Stamp`]. Pure. Next: the engines, which tell it with the datagram.
//!
//! The wall clock may be set while datagrams wait. Nothing tells when, so a batch before which the two clocks went apart has no
//! timestamps to believe.

use crate::planted::{Defect, is_planted};

/// How far a timestamp may lie in the future, and the clocks go apart between two batches beyond what slewing does.
const TOLERANCE_NS: u64 = 1_000_000;
/// The wall clock is slewed by one part in so many at most: chrony's limit is one in twelve.
const SLEW_SHARE: u64 = 10;
/// Nothing waits in a receive buffer for longer.
const AGE_NS_MAX: u64 = 60_000_000_000;

/// When a datagram arrived, as the kernel has stamped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// No timestamps are asked for.
    Unasked,
    /// It came without one: the socket is shared with a process that wants none, or timestamps were switched on just now.
    Missing,
    /// From the future, from long ago, or the wall clock has been set meanwhile.
    Absurd,
    /// µs of the driver's clock; before its start if it waited in a socket that was inherited.
    At(i64),
}

/// The two clocks, as of one batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stamps {
    now_us: u64,
    wall_ns: u64,
    has_read: bool,
    was_set: bool,
}

impl Stamps {
    /// The clocks as they were read for a batch that was received before: the driver's first, so that a pause between the two
    /// makes latencies longer and never shorter.
    pub fn read(&mut self, now_us: u64, wall_ns: u64) {
        let passed_ns = now_us.saturating_sub(self.now_us).saturating_mul(1_000);
        let apart_ns = wall_ns.abs_diff(self.wall_ns.saturating_add(passed_ns));
        self.was_set = self.has_read && apart_ns > TOLERANCE_NS + passed_ns / SLEW_SHARE;
        (self.now_us, self.wall_ns, self.has_read) = (now_us, wall_ns, true);
    }

    /// What a datagram's timestamp says.
    pub fn stamp(&self, stamp_ns: Option<u64>) -> Stamp {
        let Some(stamp_ns) = stamp_ns else { return Stamp::Missing };
        let is_future = stamp_ns > self.wall_ns.saturating_add(TOLERANCE_NS);
        let is_absurd = self.was_set || is_future || self.wall_ns.saturating_sub(stamp_ns) > AGE_NS_MAX;
        if is_absurd && !is_planted(Defect::AbsurdStampBelieved) {
            return Stamp::Absurd;
        }
        // Both are small now: a minute and a millisecond at most.
        let age_ns = self.wall_ns.wrapping_sub(stamp_ns) as i64;
        Stamp::At((self.now_us as i64).saturating_sub(age_ns / 1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL_NS: u64 = 1_700_000_000_000_000_000;

    fn stamps() -> Stamps {
        let mut stamps = Stamps::default();
        stamps.read(5_000_000, WALL_NS);
        stamps
    }

    #[test]
    fn a_stamp_is_told_on_the_drivers_clock() {
        let stamps = stamps();
        assert_eq!(stamps.stamp(None), Stamp::Missing);
        assert_eq!(stamps.stamp(Some(WALL_NS)), Stamp::At(5_000_000));
        assert_eq!(stamps.stamp(Some(WALL_NS - 1_234_999)), Stamp::At(5_000_000 - 1_234));
        assert_eq!(stamps.stamp(Some(WALL_NS - 30_000_000_000)), Stamp::At(-25_000_000), "before the start");
    }

    #[test]
    fn what_lies_in_the_future_or_long_ago_is_absurd() {
        let stamps = stamps();
        assert_eq!(stamps.stamp(Some(WALL_NS + TOLERANCE_NS)), Stamp::At(5_001_000));
        assert_eq!(stamps.stamp(Some(WALL_NS - AGE_NS_MAX)), Stamp::At(5_000_000 - 60_000_000));
        for absurd in [0, WALL_NS - AGE_NS_MAX - 1, WALL_NS + TOLERANCE_NS + 1, u64::MAX] {
            assert_eq!(stamps.stamp(Some(absurd)), Stamp::Absurd, "{absurd}");
        }
    }

    #[test]
    fn a_batch_before_which_the_clock_was_set_has_none_and_the_next_one_has_them_again() {
        for set_ns in [-3_600_000_000_000i64, -2_000_000, 2_000_000, 3_600_000_000_000] {
            let mut stamps = stamps();
            let wall_ns = |passed_us: u64| WALL_NS.wrapping_add_signed(set_ns) + passed_us * 1_000;
            stamps.read(5_005_000, wall_ns(5_000));
            assert_eq!(stamps.stamp(Some(wall_ns(4_000))), Stamp::Absurd, "{set_ns}");
            assert_eq!(stamps.stamp(None), Stamp::Missing);
            stamps.read(5_010_000, wall_ns(10_000));
            assert_eq!(stamps.stamp(Some(wall_ns(9_000))), Stamp::At(5_009_000), "{set_ns}");
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_believed() {
        let mut stamps = stamps();
        // An idle hour, in which it was slewed by one in twelve.
        let hour_us = 3_600_000_000;
        let wall_ns = WALL_NS + hour_us * 1_000 / 12 * 13;
        stamps.read(5_000_000 + hour_us, wall_ns);
        assert_eq!(stamps.stamp(Some(wall_ns - 7_000)), Stamp::At(3_604_999_993));
    }
}
