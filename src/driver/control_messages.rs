//! The control messages beside a datagram → when it arrived, by checked arithmetic: bytes that the kernel wrote, read as if
//! they were not.
//!
//! The layout: one message behind the other, each a header {length, level, type}, padding, the data; lengths count the
//! header, and each message starts at a multiple of a word. In: the area as far as the kernel used it. Out: SCM_TIMESTAMPNS,
//! ns since 1970. Next: `stamps.rs`, which tells it on the driver's clock.

/// A word of this machine: the length's, and what messages are aligned to.
const WORD_BYTES: usize = size_of::<usize>();
/// Bytes before a message's data.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>().next_multiple_of(WORD_BYTES);
/// Bytes of a timestamp: two numbers of this machine, s and ns.
const STAMP_BYTES: usize = size_of::<libc::timespec>();
/// Room for one timestamp and nothing else: CMSG_SPACE of a timespec.
pub const AREA_BYTES: usize = HEADER_BYTES + STAMP_BYTES.next_multiple_of(WORD_BYTES);

const NS_PER_S: u64 = 1_000_000_000;

/// The kernel's timestamp among the messages of `control`; `None` if there is no valid one.
pub fn stamp_ns(control: &[u8]) -> Option<u64> {
    let mut rest = control;
    loop {
        let length = usize::from_ne_bytes(*rest.first_chunk()?);
        let message = rest.get(..length)?;
        let data = message.get(HEADER_BYTES..)?;
        let number = |at: usize| Some(i32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
        let sort = (number(WORD_BYTES)?, number(WORD_BYTES + size_of::<i32>())?);
        if sort == (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) {
            return timespec_ns(data);
        }
        rest = rest.get(length.checked_next_multiple_of(WORD_BYTES)?..)?;
    }
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
    let length = HEADER_BYTES + STAMP_BYTES;
    let seconds = (stamp_ns / NS_PER_S) as libc::time_t;
    let ns = (stamp_ns % NS_PER_S) as libc::c_long;
    let parts = [
        &length.to_ne_bytes()[..],
        &libc::SOL_SOCKET.to_ne_bytes(),
        &libc::SCM_TIMESTAMPNS.to_ne_bytes(),
        &seconds.to_ne_bytes(),
        &ns.to_ne_bytes(),
    ];
    for (to, from) in area.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamped(stamp_ns: u64) -> [u8; AREA_BYTES] {
        let mut area = [0; AREA_BYTES];
        write_stamp(&mut area, stamp_ns);
        area
    }

    /// A message of another sort, with `data_bytes` of data.
    fn other(data_bytes: usize) -> Vec<u8> {
        let mut message = [0xAA; HEADER_BYTES + 64];
        message[..WORD_BYTES].copy_from_slice(&(HEADER_BYTES + data_bytes).to_ne_bytes());
        message[..HEADER_BYTES + data_bytes.next_multiple_of(WORD_BYTES)].to_vec()
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
