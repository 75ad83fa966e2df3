//! Jump consistent hash, and its rule for dead backends.
//!
//! Sources: J. Lamping, E. Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", arXiv 1406.2294; the mixer is
//! splitmix64 (G. Steele, D. Lea, C. Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
//! The rule below is frozen: every version and every proxy of a fleet gives the same answer, which depends on the set
//! of living backends alone, never on the order in which they failed.

use super::LiveSet;

/// Draws before the last step decides.
pub(super) const DRAWS_MAX: usize = 32;

/// The bucket in `0..buckets` of a key; `buckets` is at least 1.
pub fn jump(mut key: u64, buckets: usize) -> usize {
    let buckets = buckets as i64;
    let mut bucket: i64 = -1;
    let mut next: i64 = 0;
    while next < buckets {
        bucket = next;
        let x;
        (key, x) = draw(key);
        next = landing(bucket, x);
    }
    bucket.max(0) as usize
}

/// The next state of a key, and what is drawn from it: 31 bits.
#[inline(always)]
pub(super) fn draw(key: u64) -> (u64, u64) {
    let key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
    (key, key >> 33)
}

/// Where a draw leads from a bucket.
#[inline(always)]
pub(super) fn landing(bucket: i64, x: u64) -> i64 {
    ((bucket + 1) as f64 * ((1i64 << 31) as f64 / (x + 1) as f64)) as i64
}

/// One step of splitmix64 as a mixer.
pub fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The living backend for a name's hash; `None` if none lives.
///
/// Jumps over the whole list; past a dead backend the hash is mixed and jumped again, at most 32 times. Draws alone
/// would miss nearly every name when 1 of 1,000 lives, so then the living backend with the greatest mixed value takes it.
#[inline]
pub(super) fn owner(name_hash: u64, live: &LiveSet) -> Option<usize> {
    if live.alive() == 0 {
        return None;
    }
    let mut hash = name_hash;
    for _ in 0..DRAWS_MAX {
        let bucket = jump(hash, live.len());
        if live.contains(bucket) {
            return Some(bucket);
        }
        hash = splitmix64(hash);
    }
    last_choice(name_hash, live)
}

/// The living backend with the greatest mixed value.
pub(super) fn last_choice(name_hash: u64, live: &LiveSet) -> Option<usize> {
    live.iter().max_by_key(|index| (splitmix64(name_hash ^ splitmix64(*index as u64)), *index))
}

#[cfg(test)]
mod tests {
    use super::super::Placement;
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    /// name, xxh3_64, owner of 3 / 16 / 1000, owner of 3 with node 0, 1, 2 down.
    type Vector = (&'static str, u64, [usize; 3], [usize; 3]);
    const VECTORS: [Vector; 8] = [
        ("foo", 0xab6e_5f64_077e_7d8a, [2, 15, 645], [2, 2, 1]),
        ("foo.bar", 0xd02f_2022_5497_51b5, [2, 3, 531], [2, 2, 0]),
        ("api.requests", 0xf929_47ae_527a_358e, [1, 1, 81], [1, 0, 1]),
        ("statsd.test.counter", 0xc8be_453b_b65b_87b8, [2, 3, 58], [2, 2, 1]),
        ("gorets", 0xeea4_ae21_7b59_ba70, [2, 4, 135], [2, 2, 0]),
        ("glork", 0xe759_78f5_a5cf_7f49, [0, 12, 636], [1, 0, 0]),
        ("gaugor", 0x4519_267b_e2bb_f90c, [1, 5, 40], [1, 2, 1]),
        ("uniques", 0xd844_7fe0_0c8d_e941, [1, 11, 229], [1, 0, 1]),
    ];

    fn down(n: usize, dead: &[usize]) -> LiveSet {
        LiveSet::new((0..n).map(|i| !dead.contains(&i)))
    }

    #[test]
    fn golden_vectors() {
        for (name, hash, owners, with_one_down) in VECTORS {
            assert_eq!(xxh3_64(name.as_bytes()), hash, "{name}");
            for (n, expected) in [3, 16, 1000].into_iter().zip(owners) {
                assert_eq!(
                    Placement::Jump.owner(name.as_bytes(), &LiveSet::all(n)),
                    Some(expected),
                    "{name}"
                );
            }
            for (dead, expected) in with_one_down.into_iter().enumerate() {
                let live = down(3, &[dead]);
                assert_eq!(
                    Placement::Jump.owner(name.as_bytes(), &live),
                    Some(expected),
                    "{name}, {dead} down"
                );
            }
        }
    }

    #[test]
    fn only_a_dead_backends_names_move_and_they_spread_evenly() {
        let all = LiveSet::all(10);
        let live = down(10, &[3, 7]);
        let mut moved_to = [0u32; 10];
        let mut moved = 0;
        for i in 0..40_000 {
            let name = format!("service.{i}.requests");
            let home = Placement::Jump.owner(name.as_bytes(), &all).unwrap();
            let now = Placement::Jump.owner(name.as_bytes(), &live).unwrap();
            if home == 3 || home == 7 {
                moved_to[now] += 1;
                moved += 1;
            } else {
                assert_eq!(home, now);
            }
        }
        assert_eq!(moved_to[3] + moved_to[7], 0);
        let fair = f64::from(moved) / 8.0;
        for (index, count) in moved_to.into_iter().enumerate().filter(|(i, _)| ![3, 7].contains(i)) {
            let off = (f64::from(count) - fair).abs() / fair;
            assert!(off < 0.12, "backend {index} got {count} of a fair {fair}");
        }
    }

    #[test]
    fn the_answer_depends_on_the_living_set_alone() {
        for i in 0..5_000u64 {
            let hash = splitmix64(i);
            let one = owner(hash, &down(7, &[1, 4, 6]));
            let two = owner(hash, &down(7, &[6, 1, 4]));
            assert_eq!(one, two);
            assert_eq!(owner(hash, &down(7, &[])), Some(jump(hash, 7)));
        }
    }

    #[test]
    fn the_last_one_alive_takes_all() {
        let only = LiveSet::new((0..1000).map(|i| i == 437));
        for i in 0..2_000u64 {
            assert_eq!(owner(splitmix64(i), &only), Some(437));
        }
        assert_eq!(owner(1, &LiveSet::new([false, false])), None);
        assert_eq!(owner(1, &LiveSet::all(0)), None);
    }

    #[test]
    fn growing_at_the_end_moves_names_to_the_new_one_only() {
        let mut moved = 0;
        for i in 0..20_000u64 {
            let hash = splitmix64(i);
            let (before, after) = (jump(hash, 9), jump(hash, 10));
            if before != after {
                assert_eq!(after, 9);
                moved += 1;
            }
        }
        assert!((1_700..2_300).contains(&moved), "{moved} of 20000 moved");
    }
}
