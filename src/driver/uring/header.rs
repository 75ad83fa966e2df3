//! A received buffer → its datagram, by checked arithmetic: the bytes were written by the kernel, and are read as if
//! they were not.
//!
//! The layout: a header of 16 bytes {namelen, controllen, payloadlen, flags}, the areas for name and control messages
//! (whose sizes were fixed when the receive was armed), the payload. In: the buffer up to the completion's `res`.
//! Out: [`Datagram`]. Next: `engine.rs`, which hands it to the worker.

/// Bytes of the header, four 32-bit numbers in the machine's order.
pub const HEADER_BYTES: usize = 16;

/// A datagram in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What there was room for.
    pub payload: &'a [u8],
    /// Its true length; larger than the payload's if it was cut.
    pub datagram_bytes: usize,
}

/// Finds the datagram in `received`; `prefix_bytes` is the header and the areas. `None`: the header makes no sense.
pub fn parse(received: &[u8], prefix_bytes: usize) -> Option<Datagram<'_>> {
    if prefix_bytes < HEADER_BYTES {
        return None;
    }
    let payload = received.get(prefix_bytes..)?;
    let payload_bytes = usize::try_from(word(received, 2)?).ok()?;
    let is_cut = word(received, 3)? & libc::MSG_TRUNC as u32 != 0;
    if !is_cut && payload_bytes != payload.len() {
        return None;
    }
    // A cut datagram whose true length is not told was longer by one byte at least.
    let datagram_bytes = if is_cut { payload_bytes.max(payload.len() + 1) } else { payload_bytes };
    Some(Datagram { payload, datagram_bytes })
}

/// The control messages in `received`, as far as the kernel used their area, which ends where the payload starts at
/// `prefix_bytes`; no name is asked for, so it starts behind the header. Empty if the header makes no sense.
pub fn control(received: &[u8], prefix_bytes: usize) -> &[u8] {
    let area = received.get(HEADER_BYTES..prefix_bytes).unwrap_or(&[]);
    let used = word(received, 1).and_then(|bytes| usize::try_from(bytes).ok());
    used.and_then(|bytes| area.get(..bytes)).unwrap_or(&[])
}

/// The header's number at `index`.
fn word(received: &[u8], index: usize) -> Option<u32> {
    let start = index.checked_mul(4)?;
    let bytes = received.get(start..start.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// What a header tells; for the fake kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Bytes of control messages.
    pub control_bytes: usize,
    /// Whether some found no room (MSG_CTRUNC).
    pub is_control_cut: bool,
    /// The datagram's length.
    pub payload_bytes: usize,
    /// Whether it found no room (MSG_TRUNC).
    pub is_cut: bool,
}

/// Writes a header as the kernel does; for the fake kernel.
pub fn write(buffer: &mut [u8; HEADER_BYTES], told: Told) {
    let flag = |is_set: bool, flag: i32| if is_set { flag as u32 } else { 0 };
    let flags = flag(told.is_cut, libc::MSG_TRUNC) | flag(told.is_control_cut, libc::MSG_CTRUNC);
    let words = [0, told.control_bytes as u32, told.payload_bytes as u32, flags];
    for (to, word) in buffer.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(payload: &[u8], payload_bytes: usize, is_cut: bool, area: usize) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        write(&mut header, Told { payload_bytes, is_cut, ..Told::default() });
        [&header[..], &vec![0xAA; area], payload].concat()
    }

    #[test]
    fn the_payload_starts_behind_header_and_areas() {
        for area in [0, 64] {
            let received = buffer(b"a:1|c", 5, false, area);
            let expected = Datagram { payload: b"a:1|c", datagram_bytes: 5 };
            assert_eq!(parse(&received, HEADER_BYTES + area), Some(expected));
        }
    }

    #[test]
    fn a_cut_datagram_tells_its_true_length() {
        let received = buffer(b"a:1|", 9000, true, 0);
        assert_eq!(parse(&received, 16), Some(Datagram { payload: b"a:1|", datagram_bytes: 9000 }));
        let untold = buffer(b"a:1|", 4, true, 0);
        assert_eq!(parse(&untold, 16), Some(Datagram { payload: b"a:1|", datagram_bytes: 5 }));
    }

    #[test]
    fn an_empty_datagram_is_one() {
        assert_eq!(parse(&buffer(b"", 0, false, 0), 16), Some(Datagram { payload: b"", datagram_bytes: 0 }));
    }

    #[test]
    fn senseless_headers_are_refused() {
        assert_eq!(parse(&[], 16), None);
        assert_eq!(parse(&[0; 15], 16), None);
        assert_eq!(parse(&[0; 16], 8), None);
        assert_eq!(parse(&buffer(b"abc", 4, false, 0), 16), None);
        assert_eq!(parse(&buffer(b"abc", 3, false, 0), 64), None);
    }

    #[test]
    fn control_messages_are_what_the_kernel_used_of_their_area() {
        let with = |control_bytes: usize| {
            let mut header = [0; HEADER_BYTES];
            write(&mut header, Told { control_bytes, payload_bytes: 3, ..Told::default() });
            [&header[..], b"12345678", b"abc"].concat()
        };
        for (told, used) in [(0, &b""[..]), (5, b"12345"), (8, b"12345678"), (9, b"")] {
            let received = with(told);
            assert_eq!(control(&received, HEADER_BYTES + 8), used, "{told}");
            assert_eq!(parse(&received, HEADER_BYTES + 8).unwrap().payload, b"abc");
        }
        assert_eq!(control(&with(5), HEADER_BYTES), b"", "there is no area");
        assert_eq!(control(&with(5)[..20], HEADER_BYTES + 8), b"");
        assert_eq!(control(&[1; 7], 5), b"");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(received in proptest::collection::vec(any::<u8>(), 0..80), prefix in 0usize..96) {
            let area = prefix.saturating_sub(HEADER_BYTES);
            prop_assert!(control(&received, prefix).len() <= area.min(received.len()));
            if let Some(datagram) = parse(&received, prefix) {
                prop_assert_eq!(datagram.payload.len() + prefix, received.len());
                prop_assert!(datagram.datagram_bytes >= datagram.payload.len());
            }
        }
    }
}
