//! A datagram's lines with their keys, in one pass over the bytes.
//!
//! In: a datagram. Out: each line with its routing key. The plain way, [`super::lines`] and [`super::routing_key`], is
//! its oracle, and serves lines longer than a window and the DogStatsD dialect. Next: `placement/`.

use super::window::{WINDOW_BYTES, masks};
use super::{lines, routing_key};

/// A line and what decides its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The line without its end; not empty.
    pub bytes: &'a [u8],
    /// Its routing key; `None` if it is malformed.
    pub key: Option<&'a [u8]>,
}

/// The lines of a datagram with their keys, in order.
pub fn scan(datagram: &[u8]) -> Scan<'_> {
    Scan { rest: datagram }
}

/// See [`scan`].
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Scan<'a> {
    type Item = Line<'a>;

    #[inline]
    fn next(&mut self) -> Option<Line<'a>> {
        loop {
            let rest = self.rest;
            if rest.is_empty() {
                return None;
            }
            let found = match rest.first_chunk::<WINDOW_BYTES>() {
                Some(window) => masks(window),
                None => masks(&padded(rest)),
            };
            let end = (found.newline.trailing_zeros() as usize).min(rest.len());
            if end >= WINDOW_BYTES {
                return self.next_long();
            }
            let line = &rest[..end];
            self.rest = rest.get(end + 1..).unwrap_or(&[]);
            if line.last() == Some(&b'\r') || line.first() == Some(&b'_') {
                match plain(line) {
                    Some(line) => return Some(line),
                    None => continue,
                }
            }
            if line.is_empty() {
                continue;
            }
            let in_line = (1u64 << end) - 1;
            let colon = (found.colon & in_line).trailing_zeros() as usize;
            // Bars behind the colon; without a colon the shift takes all of them away.
            let bars = (found.bar & in_line).checked_shr(colon as u32).unwrap_or(0);
            let key = if colon > 0 && bars != 0 { line.get(..colon) } else { None };
            return Some(Line { bytes: line, key });
        }
    }
}

impl<'a> Scan<'a> {
    /// A line that goes beyond the window.
    #[cold]
    fn next_long(&mut self) -> Option<Line<'a>> {
        let end = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or(&[]);
        plain(line)
    }
}

/// One line by the plain way; `None` if it is empty.
fn plain(line: &[u8]) -> Option<Line<'_>> {
    let bytes = lines(line).next()?;
    Some(Line { bytes, key: routing_key(bytes) })
}

/// The last bytes of a datagram, with zeroes behind them.
#[inline]
fn padded(rest: &[u8]) -> [u8; WINDOW_BYTES] {
    let mut window = [0; WINDOW_BYTES];
    window[..rest.len()].copy_from_slice(rest);
    window
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(datagram: &[u8]) -> Vec<Line<'_>> {
        lines(datagram).map(|bytes| Line { bytes, key: routing_key(bytes) }).collect()
    }

    #[test]
    fn lines_of_every_length_and_place() {
        for length in 0..200usize {
            for colon in [0, 1, length / 2, length.saturating_sub(2)] {
                let mut line = vec![b'n'; length];
                if let Some(byte) = line.get_mut(colon) {
                    *byte = b':';
                }
                if let Some(byte) = line.last_mut() {
                    *byte = b'|';
                }
                let datagram = [b"first:1|c\n", &line[..], b"\n", &line[..], b"\r\nlast:1|c"].concat();
                assert_eq!(scan(&datagram).collect::<Vec<_>>(), naive(&datagram), "{length}, {colon}");
                assert_eq!(scan(&line).collect::<Vec<_>>(), naive(&line), "{length}, {colon} alone");
            }
        }
    }

    proptest! {
        #[test]
        fn as_the_plain_way(
            datagram in proptest::collection::vec(
                prop_oneof![
                    3 => Just(b'\n'), 2 => Just(b'\r'), 3 => Just(b':'), 3 => Just(b'|'), 1 => Just(b'_'),
                    12 => b'a'..=b'z', 3 => any::<u8>()
                ],
                0..400,
            )
        ) {
            prop_assert_eq!(scan(&datagram).collect::<Vec<_>>(), naive(&datagram));
        }

        #[test]
        fn as_the_plain_way_on_real_dialects(
            pieces in proptest::collection::vec(
                prop_oneof![
                    "[a-z.]{1,30}:[0-9]{1,5}\\|(c|g|ms)", "_e\\{[0-9]{1,2},[0-9]\\}:[a-z:|]{0,20}\\|[a-z]{0,9}",
                    "_sc\\|[a-z ]{0,9}\\|[0-3]", "[a-z]{0,90}:1\\|c", Just(String::new()),
                ],
                0..20,
            ),
            crlf in any::<bool>(),
        ) {
            let datagram = pieces.join(if crlf { "\r\n" } else { "\n" });
            let datagram = datagram.as_bytes();
            prop_assert_eq!(scan(datagram).collect::<Vec<_>>(), naive(datagram));
        }
    }
}
