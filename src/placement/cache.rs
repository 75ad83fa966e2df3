//! A direct-mapped cache from a name's hash to what was decided for it, since names come again and again.
//!
//! In: 64-bit hashes. Out: a small number. Exact: the whole hash is compared, so an answer is never another hash's.
//! proxy.js has such a cache for the same reason (`cacheSize`); it also makes placements with a dear hash affordable.

/// Bits of an entry that hold the value; the others hold the part of the hash that is not its place.
const VALUE_BITS: u32 = 12;
/// Fewest entries, other than none: with fewer, place and value together could not tell every hash.
pub const ENTRIES_MIN: usize = 1 << VALUE_BITS;
/// Largest value that can be remembered.
pub const VALUE_MAX: u16 = (1 << VALUE_BITS) - 2;

/// Entries of 8 bytes: the upper bits of the hash, and the value plus 1 in the lower 12, which the place stands for.
pub struct HashCache {
    entries: Box<[u64]>,
}

impl HashCache {
    /// With at least `entries`, rounded up to a power of two, at least 4,096; 0 = no cache.
    pub fn new(entries: usize) -> HashCache {
        let count = if entries == 0 { 0 } else { entries.max(ENTRIES_MIN).next_power_of_two() };
        HashCache { entries: vec![0; count].into_boxed_slice() }
    }

    /// Bytes that so many entries take.
    pub fn bytes(entries: usize) -> usize {
        if entries == 0 { 0 } else { entries.max(ENTRIES_MIN).next_power_of_two() * size_of::<u64>() }
    }

    /// The value remembered for `hash`.
    #[inline]
    pub fn get(&self, hash: u64) -> Option<u16> {
        let entry = *self.entries.get(self.place(hash))?;
        let value = entry & (ENTRIES_MIN as u64 - 1);
        ((entry ^ hash) >> VALUE_BITS == 0 && value > 0).then(|| (value - 1) as u16)
    }

    /// Remembers a value for `hash`, in place of what was there; a value above [`VALUE_MAX`] is not remembered.
    #[inline]
    pub fn put(&mut self, hash: u64, value: u16) {
        let place = self.place(hash);
        if let Some(entry) = self.entries.get_mut(place)
            && value <= VALUE_MAX
        {
            *entry = (hash >> VALUE_BITS << VALUE_BITS) | (u64::from(value) + 1);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.fill(0);
    }

    #[inline]
    fn place(&self, hash: u64) -> usize {
        hash as usize & self.entries.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::splitmix64;
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn what_it_remembers_is_what_was_put() {
        for entries in [0, 1, 4_096, 10_000] {
            let mut cache = HashCache::new(entries);
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
            assert!(entries == 0 || hits > 10_000, "{hits} hits with {entries}");
            assert!(entries > 0 || hits == 0);
            cache.clear();
            assert!(all.keys().all(|hash| cache.get(*hash).is_none()));
        }
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
