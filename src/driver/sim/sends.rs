//! The result of a send of the fake kernel.

use super::backends::Backends;
use super::faults::{Fault, Faults};
use super::random::Random;
use crate::packet::Packet;

/// What determines the result of a send.
pub(super) struct Tries<'a> {
    pub faults: &'a mut Faults,
    pub random: &'a mut Random,
    pub now_us: u64,
}

/// A send of one packet, or of a GSO batch, to one socket: the number of bytes, or a negated errno.
pub(super) fn send_gso_batch(
    gso_batch: &[&Packet],
    backends: &mut Backends,
    tries: Tries<'_>,
    violations: &mut Vec<String>,
) -> i32 {
    let lengths: Vec<usize> = gso_batch.iter().map(|packet| packet.len()).collect();
    if lengths.split_last().is_some_and(|(last, others)| {
        others.iter().any(|length| *length != lengths[0]) || *last > lengths[0] || lengths.len() > 64
    }) {
        violations.push(format!("invalid GSO batch: packets of {lengths:?} bytes"));
    }
    let Tries { faults, random, now_us } = tries;
    if lengths.len() > 1 && faults.strikes(Fault::GsoRefused, random) {
        return -libc::EIO;
    }
    backends.send(gso_batch, now_us, faults, random)
}
