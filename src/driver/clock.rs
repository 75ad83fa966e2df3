//! The clocks: the process's own, the wall clock, and the conversion of the kernel's timestamps, which are of the wall clock
//! (SO_TIMESTAMPNS, socket(7)).
//!
//! In: for each batch the process's clock and the wall clock, read one after the other; for each datagram its control messages.
//! Out: a [`Stamp`]. Next: `engine.rs`, which reports it with the datagram.
//!
//! The wall clock may be set while datagrams are queued, without notice, so the timestamps of a batch before which the two
//! clocks diverged are invalid. The kernel's bytes are read with checked arithmetic.

use super::control;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

static START: OnceLock<Instant> = OnceLock::new();

/// Now: µs since the first reading in this process, monotonic, the same for all threads.
pub fn now_us() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// The wall clock (CLOCK_REALTIME), ns since 1970; 0 if it shows an earlier moment.
pub fn wall_ns() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// How far a timestamp may be in the future, and how far the clocks may diverge between two batches besides slewing.
const TOLERANCE_NS: u64 = 1_000_000;
/// The wall clock is slewed by at most one part in this many: chrony's limit is one in twelve.
const SLEW_SHARE: u64 = 10;
/// No datagram is queued in a receive buffer for longer.
const AGE_NS_MAX: u64 = 60_000_000_000;

/// When a datagram arrived, by the kernel's timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamp {
    /// Timestamps are disabled.
    Disabled,
    /// It has none: the socket is shared with a process that disabled them, or they have just been enabled.
    Missing,
    /// In the future, too long ago, or the wall clock has been set meanwhile.
    Invalid,
    /// µs of the driver's clock; before its start if it was queued in an inherited socket.
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
    /// Reads the clocks for a batch that was received before: the driver's first, so that a pause between the two
    /// can only make latencies longer.
    pub fn read(&mut self, now_us: u64, wall_ns: u64) {
        let passed_ns = now_us.saturating_sub(self.now_us).saturating_mul(1_000);
        let apart_ns = wall_ns.abs_diff(self.wall_ns.saturating_add(passed_ns));
        self.was_set |= self.has_read && apart_ns > TOLERANCE_NS + passed_ns / SLEW_SHARE;
        (self.now_us, self.wall_ns, self.has_read) = (now_us, wall_ns, true);
    }

    /// Everything that had arrived was received: what comes now is stamped by the clock as it is.
    pub fn drained(&mut self) {
        self.was_set = false;
    }

    /// The arrival time of a datagram with this timestamp.
    pub fn stamp(&self, stamp_ns: Option<u64>) -> Stamp {
        let Some(stamp_ns) = stamp_ns else { return Stamp::Missing };
        let is_future = stamp_ns > self.wall_ns.saturating_add(TOLERANCE_NS);
        if self.was_set || is_future || self.wall_ns.saturating_sub(stamp_ns) > AGE_NS_MAX {
            return Stamp::Invalid;
        }
        // Both are small now: a minute and a millisecond at most.
        let age_ns = self.wall_ns.wrapping_sub(stamp_ns) as i64;
        Stamp::At((self.now_us as i64).saturating_sub(age_ns / 1_000))
    }
}

/// Bytes of a timestamp: two numbers of this machine, s and ns.
const STAMP_BYTES: usize = size_of::<libc::timespec>();
/// Room for one timestamp: CMSG_SPACE of a timespec.
pub const AREA_BYTES: usize = control::space(STAMP_BYTES);

const NS_PER_S: u64 = 1_000_000_000;

/// The kernel's timestamp among the messages of `control`; `None` if there is no valid one.
pub fn stamp_ns(control: &[u8]) -> Option<u64> {
    timespec_ns(control::find(control, libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS)?)
}

fn timespec_ns(data: &[u8]) -> Option<u64> {
    const HALF: usize = STAMP_BYTES / 2;
    let (seconds, ns) = data.get(..STAMP_BYTES)?.split_at(HALF);
    let seconds = u64::try_from(libc::time_t::from_ne_bytes(seconds.try_into().ok()?)).ok()?;
    let ns = u64::try_from(libc::c_long::from_ne_bytes(ns.try_into().ok()?)).ok()?;
    if ns >= NS_PER_S {
        return None;
    }
    seconds.checked_mul(NS_PER_S)?.checked_add(ns)
}

/// Writes the message as the kernel does; for the fake kernel.
pub fn write_stamp(area: &mut [u8; AREA_BYTES], stamp_ns: u64) {
    let seconds = ((stamp_ns / NS_PER_S) as libc::time_t).to_ne_bytes();
    let ns = ((stamp_ns % NS_PER_S) as libc::c_long).to_ne_bytes();
    control::write(area, libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, [&seconds[..], &ns]);
}

#[cfg(test)]
mod tests {
    use super::super::control::HEADER_BYTES;
    use super::super::control::tests::other;
    use super::*;
    use proptest::prelude::*;

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
        for invalid in [0, WALL_NS - AGE_NS_MAX - 1, WALL_NS + TOLERANCE_NS + 1, u64::MAX] {
            assert_eq!(stamps.stamp(Some(invalid)), Stamp::Invalid, "{invalid}");
        }
    }

    #[test]
    fn after_the_clock_was_set_there_are_none_until_the_sockets_were_empty() {
        for set_ns in [-3_600_000_000_000i64, -2_000_000, 2_000_000, 3_600_000_000_000] {
            let mut stamps = stamps();
            let wall_ns = |passed_us: u64| WALL_NS.wrapping_add_signed(set_ns) + passed_us * 1_000;
            stamps.read(5_005_000, wall_ns(5_000));
            assert_eq!(stamps.stamp(Some(wall_ns(4_000))), Stamp::Invalid, "{set_ns}");
            assert_eq!(stamps.stamp(None), Stamp::Missing);
            // So has the next one, as long as some may be left that arrived before.
            stamps.read(5_006_000, wall_ns(6_000));
            assert_ne!(stamps.stamp(Some(wall_ns(4_000))), Stamp::At(5_004_000));
            stamps.drained();
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

    fn stamped(stamp_ns: u64) -> [u8; AREA_BYTES] {
        let mut area = [0; AREA_BYTES];
        write_stamp(&mut area, stamp_ns);
        area
    }

    #[test]
    fn a_stamp_is_found_behind_others_and_only_if_it_is_whole() {
        let area = stamped(1_700_000_000_123_456_789);
        assert_eq!(stamp_ns(&area), Some(1_700_000_000_123_456_789));
        for data_bytes in [0, 1, 4, 8, 13] {
            let both = [&other(data_bytes)[..], &area].concat();
            assert_eq!(stamp_ns(&both), Some(1_700_000_000_123_456_789), "{data_bytes}");
            assert_eq!(stamp_ns(&other(data_bytes)), None);
        }
        assert!((0..AREA_BYTES).all(|end| stamp_ns(&area[..end]).is_none()));
    }

    #[test]
    fn senseless_numbers_are_none() {
        let with = |at: usize, number: i64| {
            let mut area = stamped(5);
            area[at..at + 8].copy_from_slice(&number.to_ne_bytes());
            stamp_ns(&area)
        };
        let (seconds, ns) = (HEADER_BYTES, HEADER_BYTES + STAMP_BYTES / 2);
        assert_eq!(
            [with(seconds, -1), with(seconds, i64::MAX), with(ns, -1), with(ns, 1_000_000_000)],
            [None; 4]
        );
        assert_eq!(with(ns, 999_999_999), Some(999_999_999));
        // A length of nothing, of less than a header, beyond the end, and beyond every end.
        assert_eq!([with(0, 0), with(0, 15), with(0, 33), with(0, -1)], [None; 4]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(control in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = stamp_ns(&control);
        }

        #[test]
        fn what_was_written_is_read(stamp in any::<u64>(), before in 0usize..64) {
            prop_assert_eq!(stamp_ns(&[&other(before)[..], &stamped(stamp)].concat()), Some(stamp));
        }
    }
}
