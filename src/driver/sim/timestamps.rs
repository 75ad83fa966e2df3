//! The fake kernel's timestamps: a control message with a datagram, valid or not.
//!
//! In: when a datagram arrived. Out: the control area, and how it was stamped. Next: `kernel.rs` returns it.

use super::faults::{Fault, Faults};
use super::random::Random;
use crate::driver::clock::{AREA_BYTES, write_stamp};
use crate::failpoint::{Mutation, is_active};

/// Offset of an implausible timestamp, ns: at least two minutes.
const INVALID_OFFSET_NS: (u64, u64) = (120_000_000_000, 1 << 60);

/// The wall clock when the clock shows 0: ns since 1970.
const WALL_START_NS: u64 = 1_700_000_000_000_000_000;

/// The wall clock when the clock shows `now_us`.
pub(super) fn wall_ns(now_us: u64) -> u64 {
    WALL_START_NS + now_us * 1_000
}

/// How the fake kernel stamped a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stamped {
    /// With the time of its arrival.
    Valid,
    /// Not at all, or truncated.
    Missing,
    /// With an implausible time.
    Invalid,
}

/// The contents of a datagram's control area.
pub(super) struct Control {
    pub area: [u8; AREA_BYTES],
    /// Bytes of it that are used.
    pub bytes: usize,
    pub stamped: Stamped,
}

impl Control {
    /// The control area of a datagram that arrived at `arrived_us`.
    pub fn new(arrived_us: u64, faults: &mut Faults, random: &mut Random) -> Control {
        let mut control = Control { area: [b'?'; AREA_BYTES], bytes: 0, stamped: Stamped::Missing };
        if faults.strikes(Fault::TimestampMissing, random) {
            return control;
        }
        let mut stamp_ns = wall_ns(arrived_us);
        control.stamped = Stamped::Valid;
        if faults.strikes(Fault::TimestampInvalid, random) {
            let away_ns = random.between(INVALID_OFFSET_NS.0, INVALID_OFFSET_NS.1);
            stamp_ns = match random.below(2) {
                // Accepted by the driver: the arrival itself.
                _ if is_active(Mutation::InvalidTimestampAccepted) => stamp_ns,
                0 => stamp_ns + away_ns,
                _ => stamp_ns - away_ns,
            };
            control.stamped = Stamped::Invalid;
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
