//! A datagram's lines with their keys, in one pass over the bytes.
//!
//! In: a datagram. Out: where its lines and their keys stand, up to [`SPANS_MAX`] at once. The plain way,
//! [`super::lines`] and [`super::routing_key`], is its oracle, and serves lines longer than a window and the DogStatsD
//! dialect. Next: `placement/`.

use super::window::{Masks, WINDOW_BYTES};
use super::{lines, routing_key, window};

/// Lines that are found at once.
pub const SPANS_MAX: usize = 64;

/// Bytes that are looked at by one call at most; a multiple of the window.
const SEGMENT_BYTES: usize = 32 * WINDOW_BYTES;

/// Where a line stands in its datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Its first byte.
    start: u32,
    /// Behind its last byte.
    end: u32,
    /// Where its key stands; an empty range if the line is malformed.
    key_start: u32,
    key_end: u32,
}

impl Span {
    /// The line without its end; not empty.
    #[inline]
    pub fn line<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        datagram.get(self.start as usize..self.end as usize).unwrap_or(&[])
    }

    /// Its routing key; `None` if the line is malformed.
    #[inline]
    pub fn key<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        let key = datagram.get(self.key_start as usize..self.key_end as usize)?;
        (!key.is_empty()).then_some(key)
    }
}

/// Some lines of a datagram, and the masks of the segment that they stand in.
#[derive(Debug)]
pub struct Spans {
    spans: [Span; SPANS_MAX],
    len: usize,
    /// One for each block of the segment, and one behind them.
    blocks: [Masks; SEGMENT_BYTES / WINDOW_BYTES + 1],
}

impl Spans {
    /// None yet.
    pub fn new() -> Spans {
        Spans {
            spans: [Span::default(); SPANS_MAX],
            len: 0,
            blocks: [Masks::default(); SEGMENT_BYTES / WINDOW_BYTES + 1],
        }
    }

    /// The lines found, in order.
    #[inline]
    pub fn as_slice(&self) -> &[Span] {
        &self.spans[..self.len]
    }

    /// Makes the masks of a segment of at most [`SEGMENT_BYTES`].
    #[inline(always)]
    fn fill(&mut self, segment: &[u8], masks: impl Fn(&[u8; WINDOW_BYTES]) -> Masks) {
        let (whole, tail) = segment.as_chunks::<WINDOW_BYTES>();
        for (block, window) in self.blocks.iter_mut().zip(whole) {
            *block = masks(window);
        }
        if let Some(block) = self.blocks.get_mut(whole.len()) {
            *block = if tail.is_empty() { Masks::default() } else { masks(&padded(tail)) };
        }
        if let Some(block) = self.blocks.get_mut(whole.len() + 1) {
            *block = Masks::default();
        }
    }

    /// Adds the line from `start` to `end`, both counted from `from`; false if there is no room.
    #[inline(always)]
    fn add(&mut self, datagram: &[u8], from: usize, start: usize, end: usize) -> bool {
        let Some(line) = datagram.get(from + start..from + end) else { return true };
        let (Some(first), Some(last)) = (line.first(), line.last()) else { return true };
        if self.len == SPANS_MAX {
            return false;
        }
        let (colons, bars) = self.window(start);
        let in_line = if line.len() < WINDOW_BYTES { (1 << line.len()) - 1 } else { u64::MAX };
        let colon = (colons & in_line).trailing_zeros();
        // Bars behind the colon; without a colon the shift takes all of them away.
        let has_bar = (bars & in_line).checked_shr(colon).unwrap_or(0) != 0;
        let is_plain = *last == b'\r' || *first == b'_' || (!has_bar && line.len() >= WINDOW_BYTES);
        if is_plain {
            find_plain(datagram, from + start, from + end, self);
            return true;
        }
        let start = (from + start) as u32;
        self.push(Span {
            start,
            end: (from + end) as u32,
            key_start: start,
            key_end: start + if has_bar { colon } else { 0 },
        });
        true
    }

    /// The masks of colons and bars of the 64 bytes from `start` on.
    #[inline(always)]
    fn window(&self, start: usize) -> (u64, u64) {
        let (block, bit) = (start / WINDOW_BYTES, (start % WINDOW_BYTES) as u32);
        let (Some(here), Some(next)) = (self.blocks.get(block), self.blocks.get(block + 1)) else {
            return (0, 0);
        };
        // Two shifts for the next block's part: one of 64 bits would be none at all.
        let join = |here: u64, next: u64| (here >> bit) | ((next << 1) << (63 - bit));
        (join(here.colon, next.colon), join(here.bar, next.bar))
    }

    #[inline(always)]
    fn push(&mut self, span: Span) {
        if let Some(place) = self.spans.get_mut(self.len) {
            *place = span;
            self.len += 1;
        }
    }
}

impl Default for Spans {
    fn default() -> Self {
        Spans::new()
    }
}

/// Finds lines by the fastest way that this processor has.
#[derive(Clone, Copy, Debug)]
pub struct Scanner {
    find: window::Find,
}

impl Scanner {
    /// Looks at the processor.
    pub fn new() -> Scanner {
        Scanner { find: window::fastest() }
    }

    /// The way that every processor has, whatever this one could do; for measuring it.
    pub fn portable() -> Scanner {
        Scanner { find: window::portable() }
    }

    /// Every way that this processor has, the fastest first; for holding them against each other.
    pub fn all() -> impl Iterator<Item = Scanner> {
        window::all().map(|find| Scanner { find })
    }

    /// Finds the next lines of `datagram` from `from` on, at most [`SPANS_MAX`]; returns where to go on, which is the
    /// datagram's length at its end.
    #[inline]
    pub fn scan(&self, datagram: &[u8], from: usize, spans: &mut Spans) -> usize {
        (self.find)(datagram, from, spans)
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner::new()
    }
}

/// The one pass, over any way to make masks; it is compiled into each of them.
///
/// First the masks of a segment, block by block, then its lines by the bits: no step waits for where the line before it
/// ended, as it would if each line were searched from its start.
#[inline(always)]
pub(super) fn find(
    datagram: &[u8],
    from: usize,
    spans: &mut Spans,
    masks: impl Fn(&[u8; WINDOW_BYTES]) -> Masks,
) -> usize {
    spans.len = 0;
    let rest = datagram.get(from..).unwrap_or(&[]);
    let segment = &rest[..rest.len().min(SEGMENT_BYTES)];
    spans.fill(segment, masks);
    let mut start = 0;
    for block in 0..segment.len().div_ceil(WINDOW_BYTES) {
        let mut newlines = spans.blocks[block].newline;
        while newlines != 0 {
            let end = block * WINDOW_BYTES + newlines.trailing_zeros() as usize;
            newlines &= newlines - 1;
            if !spans.add(datagram, from, start, end) {
                return from + start;
            }
            start = end + 1;
        }
    }
    if segment.len() < rest.len() {
        // The last line goes on behind the segment: the next call begins with it, unless it is the only one.
        return if start > 0 { from + start } else { find_long(datagram, from, spans) };
    }
    if start < segment.len() && !spans.add(datagram, from, start, segment.len()) {
        return from + start;
    }
    datagram.len()
}

/// A line that goes beyond a segment.
#[cold]
fn find_long(datagram: &[u8], at: usize, spans: &mut Spans) -> usize {
    let rest = datagram.get(at..).unwrap_or(&[]);
    let end = at + memchr::memchr(b'\n', rest).unwrap_or(rest.len());
    find_plain(datagram, at, end, spans);
    (end + 1).min(datagram.len())
}

/// One line by the plain way.
#[cold]
fn find_plain(datagram: &[u8], start: usize, end: usize, spans: &mut Spans) {
    let Some(line) = datagram.get(start..end).and_then(|line| lines(line).next()) else { return };
    // A key is a piece of its line: its place is the distance between the two.
    let (key_start, key_length) = match routing_key(line) {
        Some(key) => (start + (key.as_ptr().addr() - line.as_ptr().addr()), key.len()),
        None => (start, 0),
    };
    spans.push(Span {
        start: start as u32,
        end: (start + line.len()) as u32,
        key_start: key_start as u32,
        key_end: (key_start + key_length) as u32,
    });
}

/// The last bytes of a datagram, with zeroes behind them.
#[inline(always)]
fn padded(rest: &[u8]) -> [u8; WINDOW_BYTES] {
    let mut window = [0; WINDOW_BYTES];
    window[..rest.len()].copy_from_slice(rest);
    window
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Found = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    fn naive(datagram: &[u8]) -> Found {
        lines(datagram).map(|line| (line.to_vec(), routing_key(line).map(<[u8]>::to_vec))).collect()
    }

    /// What each way finds; all of them have to agree.
    fn found(datagram: &[u8]) -> Found {
        let mut answers: Vec<Found> = window::all().map(|find| found_by(find, datagram)).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        answers.swap_remove(0)
    }

    fn found_by(find: window::Find, datagram: &[u8]) -> Found {
        let mut all = Vec::new();
        let mut spans = Spans::new();
        let mut at = 0;
        while at < datagram.len() {
            let next = find(datagram, at, &mut spans);
            assert!(next > at);
            at = next;
            let span = |span: &Span| (span.line(datagram).to_vec(), span.key(datagram).map(<[u8]>::to_vec));
            all.extend(spans.as_slice().iter().map(span));
        }
        all
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
                assert_eq!(found(&datagram), naive(&datagram), "{length}, {colon}");
                assert_eq!(found(&line), naive(&line), "{length}, {colon} alone");
            }
        }
    }

    #[test]
    fn more_lines_than_are_found_at_once() {
        let datagram = b"a:1|c\n\n_sc|name|0\n".repeat(3 * SPANS_MAX);
        assert_eq!(found(&datagram), naive(&datagram));
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
            prop_assert_eq!(found(&datagram), naive(&datagram));
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
            prop_assert_eq!(found(datagram.as_bytes()), naive(datagram.as_bytes()));
        }
    }
}
