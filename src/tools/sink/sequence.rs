//! What arrived of each name: a counter and a window of bits, so that loss, duplicates and changes of order are told
//! apart in a memory that does not grow with the load.
//!
//! In: a name's index, a sequence number, the sink that got it. Out: what that was, and the sums. A name takes 16 bytes
//! where there are many names; where there are few, their windows are longer. Next: `sequenced.rs`.

/// Words that the windows of all names share; with more names than this each has one word.
const WINDOW_WORDS_BUDGET: usize = 1 << 20;
/// Words of one name's window at most: 262,144 sequence numbers.
const WINDOW_WORDS_MAX: usize = 4096;
/// Sinks that can be told apart.
pub const SINKS_MAX: usize = 1024;

// A name's state: the next expected number, whether the name was seen at two sinks, and its first sink plus one.
const NEXT_BITS: u32 = 47;
const NEXT_MASK: u64 = (1 << NEXT_BITS) - 1;
const MOVED: u64 = 1 << NEXT_BITS;
const SINK_SHIFT: u32 = 48;
const _: () = assert!(super::super::load::line::SEQUENCE_END < NEXT_MASK);
const _: () = assert!(SINKS_MAX < 1 << (64 - SINK_SHIFT));

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The highest number of its name so far.
    Next,
    /// Overtaken by a later one of its name, and not seen before.
    Reordered,
    /// Seen before.
    Duplicated,
    /// Too late to determine whether it was seen before.
    Undecided,
}

/// Sums over all names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequenceTally {
    /// Metrics that arrived for the first time.
    pub unique: u64,
    /// Of these, the ones that came after a later one of their name.
    pub reordered: u64,
    /// Metrics that had arrived before.
    pub duplicated: u64,
    /// Metrics too late to be told from duplicates.
    pub undecided: u64,
    /// Metrics at another sink than the first one of their name.
    pub misplaced: u64,
    /// Names that were seen at two sinks.
    pub names_misplaced: u64,
    /// Names seen.
    pub names: u64,
    /// Numbers below the highest of their name that have not arrived.
    pub gaps: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SequenceTable {
    /// For each name its state, then its window.
    words: Vec<u64>,
    window_words: usize,
    names: usize,
    tally: SequenceTally,
}

impl SequenceTable {
    /// For name indices below `names`. The memory is taken from the system as names are seen.
    pub fn new(names: usize) -> SequenceTable {
        let share = (WINDOW_WORDS_BUDGET / names.max(1)).clamp(1, WINDOW_WORDS_MAX);
        // A power of two, so that a number's place is a mask away.
        SequenceTable::with_window(names, 1 << share.ilog2())
    }

    fn with_window(names: usize, window_words: usize) -> SequenceTable {
        SequenceTable {
            words: vec![0; names * (1 + window_words)],
            window_words,
            names,
            tally: SequenceTally::default(),
        }
    }

    /// The sums so far.
    pub fn tally(&self) -> SequenceTally {
        self.tally
    }

    /// Takes an arrival into account; `None` if there is no room for the name, or no such number.
    ///
    /// `sink` is below [`SINKS_MAX`].
    #[inline]
    pub fn record(&mut self, name: usize, sequence: u64, sink: u16) -> Option<Arrival> {
        if name >= self.names || sequence >= NEXT_MASK {
            return None;
        }
        let base = name * (1 + self.window_words);
        let (state, window) = self.words[base..=base + self.window_words].split_first_mut()?;
        let tally = &mut self.tally;
        note_sink(state, sink, tally);
        let next = *state & NEXT_MASK;
        let bits = (window.len() * 64) as u64;
        if sequence >= next {
            open(window, next, sequence);
            let (word, bit) = place(window, sequence);
            *word |= bit;
            *state = (*state & !NEXT_MASK) | (sequence + 1);
            tally.unique += 1;
            tally.gaps = tally.gaps.saturating_add(sequence - next);
            return Some(Arrival::Next);
        }
        if next - sequence > bits {
            tally.undecided += 1;
            return Some(Arrival::Undecided);
        }
        let (word, bit) = place(window, sequence);
        if *word & bit != 0 {
            tally.duplicated += 1;
            return Some(Arrival::Duplicated);
        }
        *word |= bit;
        tally.unique += 1;
        tally.reordered += 1;
        tally.gaps = tally.gaps.saturating_sub(1);
        Some(Arrival::Reordered)
    }
}

/// The first sink of a name is taken as its place.
#[inline]
fn note_sink(state: &mut u64, sink: u16, tally: &mut SequenceTally) {
    let mark = u64::from(sink) + 1;
    match *state >> SINK_SHIFT {
        0 => {
            *state |= mark << SINK_SHIFT;
            tally.names += 1;
        }
        first if first == mark => {}
        _ => {
            tally.misplaced += 1;
            tally.names_misplaced += u64::from(*state & MOVED == 0);
            *state |= MOVED;
        }
    }
}

/// The word and the bit of a number; a window is a ring.
#[inline]
fn place(window: &mut [u64], sequence: u64) -> (&mut u64, u64) {
    let at = sequence as usize & (window.len() * 64 - 1);
    (&mut window[at / 64], 1 << (at % 64))
}

/// Makes room for the numbers from `next` to `sequence`: their places were those of much older ones.
#[inline]
fn open(window: &mut [u64], next: u64, sequence: u64) {
    if sequence - next >= (window.len() * 64) as u64 {
        window.fill(0);
        return;
    }
    for number in next..=sequence {
        let (word, bit) = place(window, number);
        *word &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{HashMap, HashSet};

    /// The plain way: every number is kept.
    #[derive(Default)]
    struct Naive {
        names: HashMap<usize, (HashSet<u64>, u64, HashSet<u16>, u16)>,
        tally: SequenceTally,
    }

    impl Naive {
        fn record(&mut self, name: usize, sequence: u64, sink: u16, window_bits: u64) -> Arrival {
            let (seen, next, sinks, first) =
                self.names.entry(name).or_insert_with(|| (HashSet::new(), 0, HashSet::new(), sink));
            sinks.insert(sink);
            self.tally.misplaced += u64::from(sink != *first);
            let arrival = if sequence + window_bits < *next {
                Arrival::Undecided
            } else if !seen.insert(sequence) {
                Arrival::Duplicated
            } else if sequence < *next {
                Arrival::Reordered
            } else {
                Arrival::Next
            };
            *next = (*next).max(sequence + 1);
            match arrival {
                Arrival::Next => self.tally.unique += 1,
                Arrival::Reordered => {
                    self.tally.unique += 1;
                    self.tally.reordered += 1;
                }
                Arrival::Duplicated => self.tally.duplicated += 1,
                Arrival::Undecided => self.tally.undecided += 1,
            }
            arrival
        }

        fn tally(&self) -> SequenceTally {
            SequenceTally {
                names: self.names.len() as u64,
                names_misplaced: self.names.values().filter(|name| name.2.len() > 1).count() as u64,
                gaps: self.names.values().map(|name| name.1 - name.0.len() as u64).sum(),
                ..self.tally
            }
        }
    }

    #[test]
    fn few_names_have_long_windows_and_many_names_take_16_bytes_each() {
        assert_eq!(SequenceTable::new(1).window_words, WINDOW_WORDS_MAX);
        assert_eq!(SequenceTable::new(1000).window_words, 1024);
        let many = SequenceTable::new(crate::tools::load::line::NAMES_MAX);
        assert_eq!(many.words.len() * 8, 16 * crate::tools::load::line::NAMES_MAX);
    }

    #[test]
    fn names_beyond_the_limit_change_nothing() {
        let mut table = SequenceTable::new(2);
        assert_eq!(table.record(2, 0, 0), None);
        assert_eq!(table.record(usize::MAX, 0, 0), None);
        assert_eq!(table.record(0, u64::MAX, 0), None);
        assert_eq!(table.tally(), SequenceTally::default());
        assert_eq!(table.record(1, NEXT_MASK - 1, SINKS_MAX as u16 - 1), Some(Arrival::Next));
        assert_eq!(table.record(1, 0, 0), Some(Arrival::Undecided));
        assert_eq!((table.tally().misplaced, table.tally().gaps), (1, NEXT_MASK - 1));
    }

    /// Arrivals around a moving front, sometimes far ahead or behind, so that windows are left and lapped.
    fn arrivals() -> impl Strategy<Value = Vec<(usize, i64, u16)>> {
        let step = prop_oneof![
            8 => Just(1i64),
            4 => -3..3i64,
            2 => -70..70i64,
            1 => -300..300i64,
        ];
        proptest::collection::vec((0..3usize, step, prop_oneof![9 => Just(0u16), 1 => 0..3u16]), 0..400)
    }

    proptest! {
        #[test]
        fn as_the_plain_way(steps in arrivals(), window_power in 0..3u32) {
            let mut table = SequenceTable::with_window(3, 1 << window_power);
            let mut naive = Naive::default();
            let mut front = [0i64; 3];
            for (name, step, sink) in steps {
                front[name] = (front[name] + step).max(0);
                let sequence = front[name] as u64;
                let expected = naive.record(name, sequence, sink, 64 << window_power);
                prop_assert_eq!(table.record(name, sequence, sink), Some(expected));
            }
            prop_assert_eq!(table.tally(), naive.tally());
        }
    }
}
