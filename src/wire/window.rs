//! Where the bytes that matter stand in 64 bytes: newline, colon and bar, as bit masks. One pass finds all three.
//!
//! In: 64 bytes, or fewer at a datagram's end. Out: three masks, bit i for byte i. Next: `scan.rs`, which is compiled into
//! each way of making them, together with what is done with each line.
//!
//! The ways: AVX2 where the processor has it, SSE2 on every x86-64, and plain integers elsewhere (eight bytes
//! at a time; H. S. Warren, "Hacker's Delight", 2nd edition, section 6-1, in the exact form without carries between
//! bytes). Which one is chosen at run time, and each is tested against the naive one.
//!
//! Unsafe for its gain: `cargo bench -- scan`, ns of CPU for a line of 40 bytes on an AMD EPYC (Zen 4): the plain oracle
//! 15.5, portable 20, SSE2 8.9, AVX2 6.2. AVX-512 was tried too: 5.6, not worth its code.

use super::scan::{Marks, Work, each_line};

/// Bytes that are looked at at once.
pub const WINDOW_BYTES: usize = 64;

/// Bit i is set where byte i is that character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Masks {
    /// `\n`
    pub newline: u64,
    /// `:`
    pub colon: u64,
    /// `|`
    pub bar: u64,
}

impl Masks {
    /// Those of the bytes from `bytes` on, which is less than 64.
    #[inline(always)]
    pub fn behind(self, bytes: usize) -> Masks {
        Masks { newline: self.newline >> bytes, colon: self.colon >> bytes, bar: self.bar >> bytes }
    }
}

/// A way to make masks which this processor has; there is no other way to get one than to ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    Portable,
}

impl Way {
    /// The way that every processor has.
    pub const PORTABLE: Way = Way(Kind::Portable);

    /// Every way that this processor has, the fastest first.
    pub fn all() -> impl Iterator<Item = Way> {
        #[cfg(target_arch = "x86_64")]
        let special = [x86_64::has_avx2().then_some(Way(Kind::Avx2)), Some(Way(Kind::Sse2))];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [Option<Way>; 0] = [];
        special.into_iter().flatten().chain([Way::PORTABLE])
    }

    /// Its name, as `status` shows it.
    pub const fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Kind::Sse2 => "SSE2",
            Kind::Portable => "portable",
        }
    }

    /// Gives each line of a datagram to `work`; see `Scanner::each_line`.
    #[inline]
    pub fn each_line(self, datagram: &[u8], marks: &mut Marks, work: impl Work) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => x86_64::each_line_avx2(datagram, marks, work),
            #[cfg(target_arch = "x86_64")]
            Kind::Sse2 => x86_64::each_line_sse2(datagram, marks, work),
            Kind::Portable => each_line(datagram, marks, masks_portable, work),
        }
    }
}

/// At most 64 bytes, with zeroes behind them.
///
/// Two copies of a fixed size, which overlap in the middle, save the call that a copy of an unknown length takes.
#[inline(always)]
pub fn padded(bytes: &[u8]) -> [u8; WINDOW_BYTES] {
    match bytes.len() {
        32..=64 => padded_from::<32>(bytes),
        16..=31 => padded_from::<16>(bytes),
        length => {
            let mut window = [0; WINDOW_BYTES];
            window[..length].copy_from_slice(bytes);
            window
        }
    }
}

/// Of N to 2 N bytes.
#[inline(always)]
fn padded_from<const N: usize>(bytes: &[u8]) -> [u8; WINDOW_BYTES] {
    let mut window = [0; WINDOW_BYTES];
    if let (Some(first), Some(last)) = (bytes.first_chunk::<N>(), bytes.last_chunk::<N>()) {
        window[..N].copy_from_slice(first);
        window[bytes.len() - N..bytes.len()].copy_from_slice(last);
    }
    window
}

/// The masks with plain integers.
#[inline(always)]
fn masks_portable(window: &[u8; WINDOW_BYTES]) -> Masks {
    let mut masks = Masks { newline: 0, colon: 0, bar: 0 };
    for (index, chunk) in window.as_chunks::<8>().0.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        masks.newline |= equal_bytes(word, b'\n') << (8 * index);
        masks.colon |= equal_bytes(word, b':') << (8 * index);
        masks.bar |= equal_bytes(word, b'|') << (8 * index);
    }
    masks
}

/// Bit i of the result is set where byte i of `word` is `character`.
#[inline(always)]
fn equal_bytes(word: u64, character: u8) -> u64 {
    const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differs = word ^ (u64::from(character) * 0x0101_0101_0101_0101);
    // The top bit of each byte that is zero, exactly: no borrow runs from byte to byte.
    let zero = !(((differs & LOW_7) + LOW_7) | differs | LOW_7);
    // Gathers the eight top bits into the low byte.
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86_64 {
    use super::super::scan::{Marks, Work, each_line};
    use super::{Masks, WINDOW_BYTES};
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
        _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_set1_epi8,
    };

    /// Whether [`each_line_avx2`] may be called.
    pub fn has_avx2() -> bool {
        is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("popcnt")
    }

    pub fn each_line_avx2(datagram: &[u8], marks: &mut Marks, work: impl Work) {
        // SAFETY: a `Way` of this kind is made only where `has_avx2` said so.
        unsafe { with_avx2(datagram, marks, work) }
    }

    pub fn each_line_sse2(datagram: &[u8], marks: &mut Marks, work: impl Work) {
        // SAFETY: SSE2 is part of x86-64.
        let masks = |window: &[u8; WINDOW_BYTES]| unsafe { masks_sse2(window) };
        each_line(datagram, marks, masks, work);
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn with_avx2(datagram: &[u8], marks: &mut Marks, work: impl Work) {
        let masks = |window: &[u8; WINDOW_BYTES]| masks_avx2(window);
        each_line(datagram, marks, masks, work);
    }

    #[inline]
    #[target_feature(enable = "sse2")]
    fn masks_sse2(window: &[u8; WINDOW_BYTES]) -> Masks {
        let mut masks = Masks { newline: 0, colon: 0, bar: 0 };
        for (index, chunk) in window.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: the chunk has the 16 bytes that are read; the load needs no alignment.
            let bytes: __m128i = unsafe { _mm_loadu_si128(chunk.as_ptr().cast()) };
            let equal = |character: u8| {
                let found = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(character as i8)));
                u64::from(found as u32) << (16 * index)
            };
            masks.newline |= equal(b'\n');
            masks.colon |= equal(b':');
            masks.bar |= equal(b'|');
        }
        masks
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn masks_avx2(window: &[u8; WINDOW_BYTES]) -> Masks {
        let mut masks = Masks { newline: 0, colon: 0, bar: 0 };
        for (index, chunk) in window.as_chunks::<32>().0.iter().enumerate() {
            // SAFETY: the chunk has the 32 bytes that are read; the load needs no alignment.
            let bytes: __m256i = unsafe { _mm256_loadu_si256(chunk.as_ptr().cast()) };
            let equal = |character: u8| {
                let found = _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_set1_epi8(character as i8)));
                u64::from(found as u32) << (32 * index)
            };
            masks.newline |= equal(b'\n');
            masks.colon |= equal(b':');
            masks.bar |= equal(b'|');
        }
        masks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_portable_masks_are_the_naive_ones(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b':'), Just(b'|'), Just(0x8a), Just(0xba), Just(0xfc), any::<u8>()],
                WINDOW_BYTES,
            )
        ) {
            let window: [u8; WINDOW_BYTES] = bytes.try_into().unwrap();
            let naive = |character: u8| {
                window.iter().enumerate().fold(0, |mask, (i, byte)| mask | u64::from(*byte == character) << i)
            };
            let expected = Masks { newline: naive(b'\n'), colon: naive(b':'), bar: naive(b'|') };
            prop_assert_eq!(masks_portable(&window), expected);
            // A part of it, as at a datagram's end: what is behind it counts as nothing.
            for length in 0..WINDOW_BYTES {
                let inside = (1 << length) - 1;
                let Masks { newline, colon, bar } = expected;
                let expected = Masks { newline: newline & inside, colon: colon & inside, bar: bar & inside };
                prop_assert_eq!(masks_portable(&padded(&window[..length])), expected);
            }
        }
    }
}
