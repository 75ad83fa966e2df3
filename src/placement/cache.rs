//! A cache from a name's hash to what was decided for it, since names come again and again.
//!
//! In: 64-bit hashes. Out: a small number. Exact: the whole hash is compared, so an answer is never another hash's.
//! proxy.js has such a cache for the same reason (`cacheSize`); it also makes placements with an expensive hash affordable.
//! Eight ways a set, three times as many entries as names by default: then of 10,000 names in no order 0.07 % of the
//! lookups miss, where four ways would miss 1.1 %, which is expensive if a miss costs an MD5, and one way every fourth.

/// Bits of an entry that hold the value; the others hold the part of the hash that is not implied by its set.
const VALUE_BITS: u32 = 12;
const VALUE_MASK: u64 = (1 << VALUE_BITS) - 1;
/// Entries of one set, a cache line.
const WAYS: usize = 8;
/// Fewest entries, other than none: with fewer, set and entry together could not distinguish every hash.
const ENTRIES_MIN: usize = WAYS << VALUE_BITS;
/// Largest value that can be remembered.
pub const VALUE_MAX: u16 = (1 << VALUE_BITS) - 2;

/// Aligned, so that a look-up waits for one cache line.
#[derive(Clone)]
#[repr(align(64))]
struct Set([u64; WAYS]);

/// Entries of 8 bytes: the upper bits of the hash, and the value plus 1 in the lower 12, which the set implies.
pub struct HashCache {
    sets: Box<[Set]>,
}

impl HashCache {
    /// A cache of `names` names; 0 = no cache.
    pub fn new(names: usize) -> HashCache {
        HashCache { sets: vec![Set([0; WAYS]); HashCache::entries(names) / WAYS].into_boxed_slice() }
    }

    /// Bytes that a cache for so many names takes.
    pub const fn bytes(names: usize) -> usize {
        HashCache::entries(names) * size_of::<u64>()
    }

    /// Entries that a cache for so many names has.
    pub const fn entries(names: usize) -> usize {
        let entries = (2 * names).next_power_of_two();
        match names {
            0 => 0,
            _ if entries < ENTRIES_MIN => ENTRIES_MIN,
            _ => entries,
        }
    }

    /// The value remembered for `hash`.
    #[inline]
    pub fn get(&self, hash: u64) -> Option<u16> {
        let Set(set) = self.sets.get(self.place(hash))?;
        // Branchless: which entry matches is unpredictable. At most one way matches.
        let mut value = 0;
        for entry in set {
            let is_match = (entry ^ hash) >> VALUE_BITS == 0;
            value |= if is_match { entry & VALUE_MASK } else { 0 };
        }
        (value > 0).then(|| (value - 1) as u16)
    }

    /// Remembers a value for `hash`, which [`HashCache::get`] did not know; a value above [`VALUE_MAX`] is not
    /// cached. The newest is first, and the oldest of its set is evicted.
    #[inline]
    pub fn put(&mut self, hash: u64, value: u16) {
        let place = self.place(hash);
        if let Some(Set(set)) = self.sets.get_mut(place)
            && value <= VALUE_MAX
        {
            set.copy_within(..WAYS - 1, 1);
            set[0] = (hash & !VALUE_MASK) | (u64::from(value) + 1);
        }
    }

    /// Clears the cache.
    pub fn clear(&mut self) {
        self.sets.fill(Set([0; WAYS]));
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        hash as usize & self.sets.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::splitmix64;
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn what_it_remembers_is_what_was_put() {
        for names in [0, 1, 4_096, 10_000] {
            let mut cache = HashCache::new(names);
            let mut all = HashMap::new();
            let mut hits = 0;
            for i in 0..100_000u64 {
                // Hashes that differ in few bits, and hashes at random; each comes more than once.
                let hash = if i % 2 == 0 { (i % 5_000) << (i % 53) } else { splitmix64(i % 7_000) };
                let expected = *all.entry(hash).or_insert((splitmix64(hash) % 4_000) as u16);
                match cache.get(hash) {
                    Some(value) => {
                        assert_eq!(value, expected);
                        hits += 1;
                    }
                    None => cache.put(hash, expected),
                }
            }
            assert!(names == 0 || hits > 10_000, "{hits} hits with {names}");
            assert!(names > 0 || hits == 0);
            cache.clear();
            assert!(all.keys().all(|hash| cache.get(*hash).is_none()));
        }
    }

    #[test]
    fn as_many_names_as_it_is_made_for_are_nearly_all_remembered() {
        let mut cache = HashCache::new(10_000);
        for i in 0..10_000 {
            cache.put(splitmix64(i), 1);
        }
        let missed = (0..10_000).filter(|i| cache.get(splitmix64(*i)).is_none()).count();
        assert!(missed < 20, "{missed} of 10000 forgotten");
    }

    #[test]
    fn the_largest_value_fits_and_a_larger_one_is_not_kept() {
        let mut cache = HashCache::new(1);
        cache.put(7, VALUE_MAX);
        assert_eq!(cache.get(7), Some(VALUE_MAX));
        cache.put(8, VALUE_MAX + 1);
        assert_eq!(cache.get(8), None);
        cache.put(0, 0);
        assert_eq!(cache.get(0), Some(0));
    }
}
