//! UDP_GRO (udp(7)): a listening socket with this option receives a GSO batch of a local sender, or what a network device
//! merges, as one datagram, with a control message that holds the length of its segments. Each segment is a datagram.
//!
//! In: such a datagram and its control messages. Out: the segments. Next: `engine.rs` reports each to the worker.
//!
//! Whoever reads a socket with this option has to read the control message: without it the segments run into one another.

use super::control;
use super::kernel::Datagram;

/// Longest payload of a datagram that holds segments: the length in a UDP header has 16 bits.
pub const JOINED_BYTES_MAX: usize = 65_535;
/// Room for the control message.
pub const AREA_BYTES: usize = control::SEGMENT_AREA_BYTES;

/// The length of the segments, by the control messages of a datagram; `None` if it holds none.
pub fn segment_bytes(control: &[u8]) -> Option<usize> {
    let data = control::find(control, libc::SOL_UDP, libc::UDP_GRO)?;
    usize::try_from(i32::from_ne_bytes(*data.first_chunk()?)).ok().filter(|bytes| *bytes > 0)
}

/// Writes the control message as the kernel does; for the fake kernel.
pub fn write_segment_bytes(area: &mut [u8; AREA_BYTES], bytes: u16) {
    let data = i32::from(bytes).to_ne_bytes();
    control::write(area, libc::SOL_UDP, libc::UDP_GRO, [&data[..]]);
}

/// The segment of `datagram` that begins at `at`, of which `bytes_max` are delivered, and where the next one begins; `None`
/// after the last.
///
/// Of a datagram that was cut, the segments that were received completely are delivered, then the rest as one that is cut.
pub fn segment(
    datagram: Datagram<'_>,
    segment_bytes: Option<usize>,
    at: usize,
    bytes_max: usize,
) -> (Datagram<'_>, Option<usize>) {
    let received = datagram.payload.get(at..).unwrap_or(&[]);
    let left_bytes = datagram.datagram_bytes.saturating_sub(at);
    let whole_bytes = segment_bytes.filter(|bytes| (1..=received.len()).contains(bytes));
    let datagram_bytes = whole_bytes.unwrap_or(left_bytes);
    let payload = &received[..datagram_bytes.min(received.len()).min(bytes_max)];
    let next = (datagram_bytes < left_bytes).then_some(at + datagram_bytes);
    (Datagram { payload, datagram_bytes }, next)
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::other;
    use super::*;
    use proptest::prelude::*;

    /// The payloads and lengths of all segments.
    fn segments(datagram: Datagram<'_>, bytes: Option<usize>, bytes_max: usize) -> Vec<(&[u8], usize)> {
        let (mut all, mut at) = (Vec::new(), 0);
        loop {
            let (segment, next) = segment(datagram, bytes, at, bytes_max);
            all.push((segment.payload, segment.datagram_bytes));
            match next {
                Some(next) => at = next,
                None => return all,
            }
        }
    }

    fn whole(payload: &[u8]) -> Datagram<'_> {
        Datagram { payload, datagram_bytes: payload.len() }
    }

    #[test]
    fn datagram_is_split_by_the_length_of_its_segments() {
        let split = |payload, bytes| segments(whole(payload), bytes, 100);
        assert_eq!(split(b"aabbc", Some(2)), [(&b"aa"[..], 2), (b"bb", 2), (b"c", 1)]);
        assert_eq!(split(b"aabb", Some(2)), [(&b"aa"[..], 2), (b"bb", 2)], "no empty one at the end");
        assert_eq!(split(b"abc", Some(1)), [(&b"a"[..], 1), (b"b", 1), (b"c", 1)]);
    }

    #[test]
    fn without_segments_a_datagram_stays_as_it_is() {
        for bytes in [None, Some(0), Some(5), Some(6), Some(usize::MAX)] {
            assert_eq!(segments(whole(b"aabbc"), bytes, 100), [(&b"aabbc"[..], 5)], "{bytes:?}");
            assert_eq!(segments(whole(b""), bytes, 100), [(&b""[..], 0)], "{bytes:?}");
        }
    }

    #[test]
    fn segment_longer_than_the_limit_is_cut_and_keeps_its_length() {
        assert_eq!(segments(whole(b"aaabbbcc"), Some(3), 2), [(&b"aa"[..], 3), (b"bb", 3), (b"cc", 2)]);
        assert_eq!(segments(whole(b"aaabbbcc"), None, 2), [(&b"aa"[..], 8)]);
    }

    #[test]
    fn rest_of_a_cut_datagram_is_one_cut_segment() {
        let cut = |datagram_bytes| Datagram { payload: b"aabbc", datagram_bytes };
        assert_eq!(segments(cut(9), Some(2), 100), [(&b"aa"[..], 2), (b"bb", 2), (b"c", 5)]);
        assert_eq!(segments(cut(usize::MAX), Some(5), 100), [(&b"aabbc"[..], 5), (b"", usize::MAX - 5)]);
        assert_eq!(segments(cut(9), None, 100), [(&b"aabbc"[..], 9)]);
    }

    #[test]
    fn length_is_found_after_a_timestamp_and_only_if_it_is_one() {
        let mut area = [0; AREA_BYTES];
        write_segment_bytes(&mut area, 1_432);
        assert_eq!(segment_bytes(&[&other(16)[..], &area].concat()), Some(1_432));
        assert_eq!((segment_bytes(&other(16)), segment_bytes(&[])), (None, None));
        for invalid in [0, -1, i32::MIN] {
            area[control::HEADER_BYTES..][..4].copy_from_slice(&i32::to_ne_bytes(invalid));
            assert_eq!(segment_bytes(&area), None, "{invalid}");
        }
        assert_eq!(segment_bytes(&area[..control::HEADER_BYTES + 3]), None, "cut");
    }

    proptest! {
        #[test]
        fn segments_add_up_to_the_datagram(
            payload in proptest::collection::vec(any::<u8>(), 0..200),
            beyond in 0usize..50,
            bytes in proptest::option::of(0usize..250),
        ) {
            let datagram = Datagram { payload: &payload, datagram_bytes: payload.len() + beyond };
            let all = segments(datagram, bytes, usize::MAX);
            prop_assert_eq!(all.iter().flat_map(|(part, _)| *part).copied().collect::<Vec<u8>>(), payload.clone());
            prop_assert_eq!(all.iter().map(|(_, bytes)| *bytes).sum::<usize>(), datagram.datagram_bytes);
            let (_, others) = all.split_last().unwrap();
            prop_assert!(others.iter().all(|(part, length)| part.len() == *length && Some(*length) == bytes));
        }
    }
}
