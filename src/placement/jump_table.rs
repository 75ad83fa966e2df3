//! Jump consistent hash over a few backends, by comparisons instead of divisions: what most installations have.
//!
//! In: a key's hash. Out: the same bucket as [`jump`](super::jump::jump) gives, without a jump in the code that depends
//! on the hash, and without memory: neither does it wait for a cache nor does it matter how many names there are. Gain with
//! 3 backends and 10,000 names, `cargo bench -- relay/statsring/3`: 17.7 ns a metric instead of the cache's 20.0.
//!
//! Jump draws x and goes from bucket b to floor((b + 1) 2³¹ / (x + 1)). As x grows that becomes less and less: so it is at
//! least t for all x below a limit, which is found once for each b and t, by the very same floating-point formula.

use super::jump::{draw, landing};

/// Most buckets that this is made for: with more, the cache is quicker.
const BUCKETS_MAX: usize = 4;
/// Where a walk can be: at a bucket and going on, or stopped at one.
const STATES: usize = 2 * BUCKETS_MAX;

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub struct JumpTable {
    buckets: usize,
    states: [State; STATES],
}

/// One state of a walk. Tables instead of conditions: those would compile to unpredictable branches.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Below limit k, a draw lands k + 2 buckets further on at least. 0 = never.
    limits: [u64; BUCKETS_MAX - 1],
    /// The state that follows, by the number of limits that the draw is below.
    next: [u8; BUCKETS_MAX],
}

impl JumpTable {
    /// For so many buckets; `None` if they are none or too many.
    pub fn new(buckets: usize) -> Option<JumpTable> {
        if !(1..=BUCKETS_MAX).contains(&buckets) {
            return None;
        }
        let mut states = [State::default(); STATES];
        for (index, state) in states.iter_mut().enumerate() {
            let (bucket, stopped) = (index % BUCKETS_MAX, index >= BUCKETS_MAX);
            for (target, limit) in (bucket + 2..=buckets).zip(&mut state.limits) {
                *limit = if stopped { 0 } else { limit_of(bucket as i64, target as i64) };
            }
            for (beyond, next) in state.next.iter_mut().enumerate() {
                let landed = bucket + 1 + beyond;
                let stays = stopped || landed >= buckets;
                *next = if stays { bucket + BUCKETS_MAX } else { landed } as u8;
            }
        }
        Some(JumpTable { buckets, states })
    }

    /// The bucket of a key.
    #[inline(always)]
    pub fn bucket(&self, key: u64) -> usize {
        match self.buckets {
            1 => 0,
            2 => self.walk::<1>(key),
            3 => self.walk::<2>(key),
            _ => self.walk::<{ BUCKETS_MAX - 1 }>(key),
        }
    }

    /// As many draws as can lead to another bucket, all of them made; those after the last one change nothing.
    #[inline(always)]
    fn walk<const DRAWS: usize>(&self, mut key: u64) -> usize {
        let mut index = 0;
        for _ in 0..DRAWS {
            let x;
            (key, x) = draw(key);
            let state = &self.states[index % STATES];
            let beyond: usize = state.limits.iter().take(DRAWS).map(|limit| usize::from(x < *limit)).sum();
            index = usize::from(state.next[beyond % BUCKETS_MAX]);
        }
        index % BUCKETS_MAX
    }
}

/// How many draws x land at bucket `target` or further from `bucket`: all below it do.
fn limit_of(bucket: i64, target: i64) -> u64 {
    let (mut low, mut high) = (0u64, 1 << 31);
    while low < high {
        let middle = low.midpoint(high);
        if landing(bucket, middle) >= target { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::super::{jump, splitmix64};
    use super::*;

    #[test]
    fn as_jump() {
        for buckets in 1..=BUCKETS_MAX {
            let few = JumpTable::new(buckets).unwrap();
            for i in 0..1_000_000 {
                let key = splitmix64(i);
                assert_eq!(few.bucket(key), jump(key, buckets), "{key:#x} of {buckets}");
            }
        }
        assert!(JumpTable::new(0).is_none() && JumpTable::new(BUCKETS_MAX + 1).is_none());
    }

    #[test]
    fn the_limits_are_where_the_landing_changes() {
        for bucket in 0..BUCKETS_MAX as i64 {
            for target in bucket + 2..=BUCKETS_MAX as i64 {
                let limit = limit_of(bucket, target);
                assert!(limit > 0 && landing(bucket, limit - 1) >= target && landing(bucket, limit) < target);
            }
        }
    }
}
