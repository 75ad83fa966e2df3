//! A small random number generator, reproducible on every machine: splitmix64.
//!
//! In: a seed. Out: numbers. Next: `kernel.rs`. Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom
//! number generators", OOPSLA 2014.

/// The generator.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator for `seed`; any seed is valid.
    pub const fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// A random number.
    pub const fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `end` − 1; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// A number from `first` to `last`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first).saturating_add(1))
    }

    /// True with this probability, in ten thousandths.
    pub fn strikes(&mut self, per_ten_thousand: u32) -> bool {
        self.below(10_000) < u64::from(per_ten_thousand)
    }

    /// One of `choices`; `None` if there are none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> Option<&'a T> {
        choices.get(self.below(choices.len() as u64) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_source() {
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn every_number_stays_in_its_range() {
        let mut random = Random::new(7);
        let mut seen = [false; 3];
        for _ in 0..1_000 {
            seen[random.below(3) as usize] = true;
            assert!((5..=9).contains(&random.between(5, 9)));
        }
        assert_eq!(seen, [true; 3]);
        assert_eq!(random.below(0), 0);
        assert!(!random.strikes(0) && random.strikes(10_000));
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
