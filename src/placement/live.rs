//! The set of live backends, as bits.
//!
//! In: health, `disabled`, and name resolution, put together by `control/`. Out: asked once per metric.

/// A set over the config's list of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSet {
    words: Vec<u64>,
    len: usize,
    alive: usize,
}

impl LiveSet {
    /// One flag per backend, in the config's order.
    pub fn new(flags: impl IntoIterator<Item = bool>) -> LiveSet {
        let mut set = LiveSet { words: Vec::new(), len: 0, alive: 0 };
        for flag in flags {
            if set.len.is_multiple_of(64) {
                set.words.push(0);
            }
            if flag {
                set.words[set.len / 64] |= 1 << (set.len % 64);
                set.alive += 1;
            }
            set.len += 1;
        }
        set
    }

    /// All `len` backends live.
    pub fn all(len: usize) -> LiveSet {
        LiveSet::new(std::iter::repeat_n(true, len))
    }

    /// None.
    pub fn nobody() -> LiveSet {
        LiveSet::new([])
    }

    /// Backends in the list, dead or alive.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many live.
    pub fn alive(&self) -> usize {
        self.alive
    }

    /// Whether all live.
    pub fn is_full(&self) -> bool {
        self.alive == self.len
    }

    /// Whether backend `index` lives; false beyond the list.
    #[inline]
    pub fn contains(&self, index: usize) -> bool {
        self.words.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// The living ones' indices, ascending.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len).filter(|index| self.contains(*index))
    }
}
