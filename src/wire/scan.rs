//! A datagram's lines with their keys, in one pass over the bytes.
//!
//! In: a datagram, and a visitor of lines. Out: calls of the visitor for each line with its key. The scalar reference,
//! [`super::lines`] and [`super::routing_key`], is its oracle, and serves the DogStatsD dialect and keys beyond a window.
//! Next: `relay/`, whose work is compiled into the pass, so that a line is in registers when it is routed.

use super::masks::{Masks, WINDOW_BYTES, padded};
use super::{lines, routing_key};

/// Bytes whose marks are made at once at most; a multiple of the window.
const SEGMENT_BYTES: usize = 32 * WINDOW_BYTES;
/// See [`LineIndex`].
const BLOCKS: usize = (SEGMENT_BYTES / WINDOW_BYTES + 1).next_power_of_two();
/// Line ends that are written at once; the surplus of the last block is written over by the next.
const ENDS_AT_ONCE: usize = 4;

/// The visitor of lines.
pub trait LineVisitor {
    /// `line` is not empty, and without its end; `key` is `None` if the line is malformed.
    fn line(&mut self, line: &[u8], key: Option<&[u8]>);
}

impl<F: FnMut(&[u8], Option<&[u8]>)> LineVisitor for F {
    #[inline(always)]
    fn line(&mut self, line: &[u8], key: Option<&[u8]>) {
        self(line, key);
    }
}

/// Scratch space for a segment of a datagram; allocated once, and reused for each datagram.
#[derive(Debug)]
pub struct LineIndex {
    /// Where colons and bars are: one for each block of the segment, one behind them, and as many more as make the number
    /// a power of two, so that an index needs no check.
    blocks: [Block; BLOCKS],
    /// Where its lines end.
    ends: [u32; SEGMENT_BYTES + ENDS_AT_ONCE],
    lines: usize,
}

/// The colons and bars of one block.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    colon: u64,
    bar: u64,
}

impl LineIndex {
    /// None yet.
    pub fn new() -> LineIndex {
        LineIndex { blocks: [Block::default(); BLOCKS], ends: [0; SEGMENT_BYTES + ENDS_AT_ONCE], lines: 0 }
    }

    /// Makes the marks of a segment of at most [`SEGMENT_BYTES`].
    #[inline(always)]
    fn fill(&mut self, segment: &[u8], masks: impl Fn(&[u8; WINDOW_BYTES]) -> Masks) {
        // Counted in a register: in memory, each block would wait for the one before it.
        let mut lines = 0;
        let (whole, rest) = segment.as_chunks::<WINDOW_BYTES>();
        for (index, window) in whole.iter().enumerate() {
            lines = self.mark(index, masks(window), lines);
        }
        if !rest.is_empty() {
            // The last 64 bytes instead of the rest, which would have to be copied to be looked at as a window.
            let found = match segment.last_chunk::<WINDOW_BYTES>() {
                Some(window) => masks(window).behind(WINDOW_BYTES - rest.len()),
                None => masks(&padded(rest)),
            };
            lines = self.mark(whole.len(), found, lines);
        }
        self.blocks[segment.len().div_ceil(WINDOW_BYTES) % BLOCKS] = Block::default();
        self.lines = lines;
    }

    /// Notes the masks of block `index`, before which `lines` lines ended; returns how many did with it.
    #[inline(always)]
    fn mark(&mut self, index: usize, masks: Masks, lines: usize) -> usize {
        self.blocks[index % BLOCKS] = Block { colon: masks.colon, bar: masks.bar };
        let from = (index * WINDOW_BYTES) as u32;
        let count = masks.newline.count_ones() as usize;
        let mut newlines = masks.newline;
        // Four unconditionally, since their number is unpredictable; there are rarely more.
        if let Some(ends) = self.ends.get_mut(lines..lines + ENDS_AT_ONCE) {
            for end in ends {
                *end = from + newlines.trailing_zeros();
                newlines &= newlines.wrapping_sub(1);
            }
        }
        let mut more = lines + ENDS_AT_ONCE;
        while newlines != 0 {
            if let Some(end) = self.ends.get_mut(more) {
                *end = from + newlines.trailing_zeros();
            }
            newlines &= newlines - 1;
            more += 1;
        }
        lines + count
    }

    /// Adds the end of a line that no newline ends.
    #[inline(always)]
    fn end_at(&mut self, end: usize) {
        if let Some(place) = self.ends.get_mut(self.lines) {
            *place = end as u32;
            self.lines += 1;
        }
    }

    /// The masks of colons and bars of the 64 bytes from `start` on.
    #[inline(always)]
    fn window(&self, start: usize) -> Block {
        let (block, bit) = (start / WINDOW_BYTES, (start % WINDOW_BYTES) as u32);
        let (here, next) = (self.blocks[block % BLOCKS], self.blocks[(block + 1) % BLOCKS]);
        // Two shifts for the next block's part: one of 64 bits would be none at all.
        let join = |here: u64, next: u64| (here >> bit) | ((next << 1) << (63 - bit));
        Block { colon: join(here.colon, next.colon), bar: join(here.bar, next.bar) }
    }
}

impl Default for LineIndex {
    fn default() -> Self {
        LineIndex::new()
    }
}

/// The one pass, over any way to make masks; it is compiled into each of them.
///
/// First the marks of a segment, block by block, then its lines: no step waits for where the line before it ended, as it
/// would if each line were searched from its start, and no jump depends on how many lines a block has.
#[inline(always)]
pub(super) fn each_line(
    datagram: &[u8],
    line_index: &mut LineIndex,
    masks: impl Fn(&[u8; WINDOW_BYTES]) -> Masks,
    mut work: impl LineVisitor,
) {
    if datagram.len() <= WINDOW_BYTES {
        return each_line_of_block(datagram, &masks, &mut work);
    }
    let mut rest = datagram;
    while !rest.is_empty() {
        let segment = &rest[..rest.len().min(SEGMENT_BYTES)];
        line_index.fill(segment, &masks);
        if segment.len() == rest.len() {
            line_index.end_at(rest.len());
        } else if line_index.lines == 0 {
            line_index.end_at(memchr::memchr(b'\n', rest).unwrap_or(rest.len()));
        }
        let mut start = 0;
        for end in line_index.ends.iter().take(line_index.lines).map(|end| *end as usize) {
            if let Some(line) = rest.get(start..end) {
                take(line, line_index.window(start), &mut work);
            }
            start = end + 1;
        }
        rest = rest.get(start..).unwrap_or(&[]);
    }
}

/// The lines of a datagram of one block at most, as most senders send them: its masks stay in registers.
#[inline(always)]
fn each_line_of_block(
    datagram: &[u8],
    masks: impl Fn(&[u8; WINDOW_BYTES]) -> Masks,
    work: &mut impl LineVisitor,
) {
    let Masks { newline, colon, bar } = masks(&padded(datagram));
    let mut newlines = newline;
    let mut start = 0;
    while start < datagram.len() {
        let end = datagram.len().min(newlines.trailing_zeros() as usize);
        newlines &= newlines.wrapping_sub(1);
        if let Some(line) = datagram.get(start..end) {
            take(line, Block { colon: colon >> start, bar: bar >> start }, work);
        }
        start = end + 1;
    }
}

/// Gives one line to `work`, unless it is empty; `window` shows its first 64 bytes.
#[inline(always)]
fn take(line: &[u8], window: Block, work: &mut impl LineVisitor) {
    let (Some(first), Some(last)) = (line.first(), line.last()) else { return };
    let key_bytes = key_bytes(line.len(), window);
    let is_long = line.len() >= WINDOW_BYTES;
    // All three at once: one jump, hardly ever taken.
    let is_plain = (*last == b'\r') | (*first == b'_') | (key_bytes.is_none() & is_long);
    let (line, key) = match is_plain {
        true => plain(line),
        false => (line, key_bytes.and_then(|bytes| line.get(..bytes))),
    };
    if !line.is_empty() {
        work.line(line, key);
    }
}

/// The bytes before the colon of a line, if there are any and a bar follows behind it, as far as a window shows.
#[inline(always)]
fn key_bytes(line_bytes: usize, window: Block) -> Option<usize> {
    let in_line = if line_bytes < WINDOW_BYTES { (1 << line_bytes) - 1 } else { u64::MAX };
    let bars = window.bar & in_line;
    // All bits up to the first colon, or all if there is none.
    let until_colon = window.colon ^ window.colon.wrapping_sub(1);
    let has_key = bars & !until_colon != 0 && window.colon & 1 == 0;
    has_key.then_some(window.colon.trailing_zeros() as usize)
}

/// One line and its key by the scalar reference; empty if only its end is left.
#[cold]
#[inline(never)]
fn plain(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    let line = lines(line).next().unwrap_or(&[]);
    (line, routing_key(line))
}

#[cfg(test)]
mod tests {
    use super::super::Scanner;
    use super::*;
    use proptest::prelude::*;

    type Found = Vec<(Vec<u8>, Option<Vec<u8>>)>;

    fn naive(datagram: &[u8]) -> Found {
        lines(datagram).map(|line| (line.to_vec(), routing_key(line).map(<[u8]>::to_vec))).collect()
    }

    /// The results of all implementations, which have to agree.
    fn found(datagram: &[u8]) -> Found {
        let mut answers: Vec<Found> = Scanner::all().map(|scanner| found_by(scanner, datagram)).collect();
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{answers:?}");
        answers.swap_remove(0)
    }

    fn found_by(scanner: Scanner, datagram: &[u8]) -> Found {
        let mut all = Vec::new();
        // Marks of an earlier datagram must not matter.
        let mut line_index = LineIndex::new();
        scanner.each_line(&b":|\n".repeat(SEGMENT_BYTES), &mut line_index, |_: &[u8], _: Option<&[u8]>| {});
        scanner.each_line(datagram, &mut line_index, |line: &[u8], key: Option<&[u8]>| {
            all.push((line.to_vec(), key.map(<[u8]>::to_vec)));
        });
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
    fn more_lines_than_a_segment_has() {
        let datagram = b"a:1|c\n\n_sc|name|0\n".repeat(SEGMENT_BYTES / 4);
        assert_eq!(found(&datagram), naive(&datagram));
    }

    #[test]
    fn lines_longer_than_a_segment() {
        for length in [SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES] {
            for name in [3, 63, 64, length] {
                let long = format!("{:n<name$}:{:x<length$}|c", "", "");
                let datagram = [&b"a:1|c\n"[..], long.as_bytes(), b"\nb:1|c\n", long.as_bytes()].concat();
                assert_eq!(found(&datagram), naive(&datagram), "{length}, {name}");
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
