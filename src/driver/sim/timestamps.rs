//! The fake kernel's timestamps: a control message beside a datagram, as a kernel might give it on a bad day.
//!
//! In: when a datagram arrived. Out: the control area, and how it was stamped. Next: `kernel.rs`, which hands it over.

use super::faults::{Fault, Faults};
use super::random::Random;
use crate::driver::clock::{AREA_BYTES, write_stamp};
use crate::failpoint::{Mutation, is_active};

/// How far an absurd timestamp is away, ns: two minutes at least.
const ABSURD_NS: (u64, u64) = (120_000_000_000, 1 << 60);

/// What its wall clock shows when its clock shows 0: ns since 1970.
const WALL_START_NS: u64 = 1_700_000_000_000_000_000;

/// The wall clock when the clock shows `now_us`.
pub(super) fn wall_ns(now_us: u64) -> u64 {
    WALL_START_NS + now_us * 1_000
}

/// How the fake kernel stamped a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamped {
    /// With the moment of its arrival.
    Right,
    /// Not at all, or where it found no room.
    Missing,
    /// With a moment that cannot be.
    Absurd,
}

/// What stands in a datagram's control area.
pub(super) struct Control {
    pub area: [u8; AREA_BYTES],
    /// Bytes of it that are used.
    pub bytes: usize,
    pub stamped: Stamped,
}

impl Control {
    /// That of a datagram that arrived at `arrived_us`.
    pub fn new(arrived_us: u64, faults: &mut Faults, random: &mut Random) -> Control {
        let mut control = Control { area: [b'?'; AREA_BYTES], bytes: 0, stamped: Stamped::Missing };
        if faults.strikes(Fault::TimestampMissing, random) {
            return control;
        }
        let mut stamp_ns = wall_ns(arrived_us);
        control.stamped = Stamped::Right;
        if faults.strikes(Fault::TimestampAbsurd, random) {
            let away_ns = random.between(ABSURD_NS.0, ABSURD_NS.1);
            stamp_ns = match random.below(2) {
                // Accepted by the driver: the arrival itself.
                _ if is_active(Mutation::InvalidTimestampAccepted) => stamp_ns,
                0 => stamp_ns + away_ns,
                _ => stamp_ns - away_ns,
            };
            control.stamped = Stamped::Absurd;
        }
        write_stamp(&mut control.area, stamp_ns);
        control.bytes = AREA_BYTES;
        if faults.strikes(Fault::ControlTruncated, random) {
            control.bytes = random.below(AREA_BYTES as u64) as usize;
            control.area[control.bytes..].fill(b'?');
            control.stamped = Stamped::Missing;
        }
        control
    }
}
