//! The fake kernel's control messages: a timestamp, valid or not, and the length of segments (UDP_GRO).
//!
//! In: when a datagram arrived, and its segments. Out: the control area, and how it was stamped. Next: `kernel.rs` returns it.

use super::faults::{Fault, Faults};
use super::random::Random;
use crate::driver::clock::{AREA_BYTES, write_stamp};
use crate::driver::gro;
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
#[derive(Default)]
pub(super) struct Control {
    pub area: Vec<u8>,
    /// `None` if timestamps are disabled.
    pub stamped: Option<Stamped>,
}

impl Control {
    /// Adds the timestamp of a datagram that arrived at `arrived_us`; `has_room`: it is not truncated.
    pub fn stamp(&mut self, arrived_us: u64, has_room: bool, faults: &mut Faults, random: &mut Random) {
        self.stamped = Some(Stamped::Missing);
        if faults.strikes(Fault::TimestampMissing, random) {
            return;
        }
        let mut stamp_ns = wall_ns(arrived_us);
        self.stamped = Some(Stamped::Valid);
        if faults.strikes(Fault::TimestampInvalid, random) {
            let away_ns = random.between(INVALID_OFFSET_NS.0, INVALID_OFFSET_NS.1);
            stamp_ns = match random.below(2) {
                // Accepted by the driver: the arrival itself.
                _ if is_active(Mutation::InvalidTimestampAccepted) => stamp_ns,
                0 => stamp_ns + away_ns,
                _ => stamp_ns - away_ns,
            };
            self.stamped = Some(Stamped::Invalid);
        }
        let mut message = [0; AREA_BYTES];
        write_stamp(&mut message, stamp_ns);
        let mut bytes = AREA_BYTES;
        if !has_room && faults.strikes(Fault::ControlTruncated, random) {
            bytes = random.below(AREA_BYTES as u64) as usize;
            self.stamped = Some(Stamped::Missing);
        }
        self.area.extend_from_slice(&message[..bytes]);
    }

    /// Adds the length of the segments.
    pub fn add_segment_bytes(&mut self, bytes: usize) {
        if is_active(Mutation::SegmentBytesHidden) {
            return;
        }
        let mut message = [0; gro::AREA_BYTES];
        gro::write_segment_bytes(&mut message, bytes as u16);
        self.area.extend_from_slice(&message);
    }
}
