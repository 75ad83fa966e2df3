//! A datagram's lines.
//!
//! Only `\n` ends a line; one `\r` before it is not part of it; empty lines are skipped, since senders pad with them.

use memchr::memchr;

/// The lines of a datagram, in order, without their ends, none empty.
pub fn lines(datagram: &[u8]) -> Lines<'_> {
    Lines { rest: datagram }
}

/// See [`lines`].
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let line = match memchr(b'\n', self.rest) {
                Some(end) => {
                    let line = &self.rest[..end];
                    self.rest = &self.rest[end + 1..];
                    line
                }
                None => std::mem::take(&mut self.rest),
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    }
}

/// Splits the received part of a truncated datagram into its complete lines and the truncated line.
///
/// The truncated line may be empty: then the cut was between two lines, and the rest is unknown.
pub fn split_cut_line(received: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memrchr(b'\n', received) {
        Some(end) => received.split_at(end + 1),
        None => (&[], received),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The scalar reference implementation.
    fn naive(datagram: &[u8]) -> Vec<&[u8]> {
        datagram
            .split(|byte| *byte == b'\n')
            .map(|line| if line.ends_with(b"\r") { &line[..line.len() - 1] } else { line })
            .filter(|line| !line.is_empty())
            .collect()
    }

    #[test]
    fn ends_of_lines() {
        let all: Vec<&[u8]> = lines(b"a\nb\r\n\n\r\nc\r\r\nd\re\n\0\n").collect();
        assert_eq!(all, [&b"a"[..], b"b", b"c\r", b"d\re", b"\0"]);
        assert_eq!(lines(b"").count(), 0);
        assert_eq!(lines(b"\n\n\r\n").count(), 0);
    }

    #[test]
    fn the_cut_line_is_what_follows_the_last_newline() {
        assert_eq!(split_cut_line(b"a:1|c\nb:2"), (&b"a:1|c\n"[..], &b"b:2"[..]));
        assert_eq!(split_cut_line(b"a:1|c\n"), (&b"a:1|c\n"[..], &b""[..]));
        assert_eq!(split_cut_line(b"a:1|c"), (&b""[..], &b"a:1|c"[..]));
    }

    proptest! {
        #[test]
        fn as_the_plain_way(datagram in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200)) {
            prop_assert_eq!(lines(&datagram).collect::<Vec<_>>(), naive(&datagram));
        }
    }
}
