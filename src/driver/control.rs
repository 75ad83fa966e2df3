//! Control messages beside a datagram, in the kernel's layout (cmsg(3)).
//!
//! In: the area that the kernel wrote. Out: the data of a message. Next: `clock.rs` reads timestamps, `gro.rs` segment lengths.
//! The kernel's bytes are read with checked arithmetic.

/// A machine word: the type of a message's length, and the alignment of messages.
const WORD_BYTES: usize = size_of::<usize>();
/// Bytes before a message's data.
pub(super) const HEADER_BYTES: usize = size_of::<libc::cmsghdr>().next_multiple_of(WORD_BYTES);

/// Room for a message with so much data: CMSG_SPACE.
pub(super) const fn space(data_bytes: usize) -> usize {
    HEADER_BYTES + data_bytes.next_multiple_of(WORD_BYTES)
}

/// Room for the length of segments (UDP_GRO).
pub(super) const SEGMENT_AREA_BYTES: usize = space(size_of::<i32>());

/// The data of the first message of `level` and `kind`; `None` if there is none, or one before it is invalid.
pub(super) fn find(control: &[u8], level: i32, kind: i32) -> Option<&[u8]> {
    let mut rest = control;
    loop {
        let length = usize::from_ne_bytes(*rest.first_chunk()?);
        let message = rest.get(..length)?;
        let data = message.get(HEADER_BYTES..)?;
        let number = |at: usize| Some(i32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
        if (number(WORD_BYTES)?, number(WORD_BYTES + size_of::<i32>())?) == (level, kind) {
            return Some(data);
        }
        rest = rest.get(length.checked_next_multiple_of(WORD_BYTES)?..)?;
    }
}

/// Writes a message at the start of `area` as the kernel does, as far as there is room; for the fake kernel.
pub(super) fn write<'a>(
    area: &mut [u8],
    level: i32,
    kind: i32,
    data: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
) {
    let data = data.into_iter();
    let length = HEADER_BYTES + data.clone().map(<[u8]>::len).sum::<usize>();
    let header = length.to_ne_bytes().into_iter().chain(level.to_ne_bytes()).chain(kind.to_ne_bytes());
    for (to, from) in area.iter_mut().zip(header.chain(data.flatten().copied())) {
        *to = from;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A message of another kind, with `data_bytes` of data.
    pub fn other(data_bytes: usize) -> Vec<u8> {
        let mut message = [0xAA; HEADER_BYTES + 64];
        message[..WORD_BYTES].copy_from_slice(&(HEADER_BYTES + data_bytes).to_ne_bytes());
        message[..HEADER_BYTES + data_bytes.next_multiple_of(WORD_BYTES)].to_vec()
    }

    /// A message with this data.
    fn message(kind: i32, data: &[u8]) -> Vec<u8> {
        let mut area = vec![0; space(data.len())];
        write(&mut area, libc::SOL_UDP, kind, [data]);
        area
    }

    #[test]
    fn message_is_found_among_others_by_level_and_kind() {
        let both = [message(1, b"first"), other(3), message(2, b"second")].concat();
        assert_eq!(find(&both, libc::SOL_UDP, 1), Some(&b"first"[..]));
        assert_eq!(find(&both, libc::SOL_UDP, 2), Some(&b"second"[..]));
        assert_eq!((find(&both, libc::SOL_UDP, 3), find(&both, libc::SOL_SOCKET, 1)), (None, None));
        assert_eq!(find(&[], libc::SOL_UDP, 1), None);
    }

    #[test]
    fn message_with_an_invalid_length_ends_the_search() {
        let with = |length: usize| {
            let mut area = [message(2, b""), message(1, b"data")].concat();
            area[..WORD_BYTES].copy_from_slice(&length.to_ne_bytes());
            find(&area, libc::SOL_UDP, 1).map(<[u8]>::to_vec)
        };
        assert_eq!(with(HEADER_BYTES), Some(b"data".to_vec()));
        // Nothing, less than a header, beyond the end, and beyond every end.
        assert_eq!([0, HEADER_BYTES - 1, 2 * HEADER_BYTES + 9, usize::MAX].map(with), [const { None }; 4]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(control in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Some(data) = find(&control, 0, 0) {
                prop_assert!(data.len() + HEADER_BYTES <= control.len());
            }
        }
    }
}
