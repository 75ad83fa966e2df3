//! The instruction sets by which the masks of 64 bytes are made, one pass for all three, and the choice between them.
//!
//! In: a datagram. Out: its lines. Next: `scan.rs`, which is compiled into each of them, together with what is done with each
//! line.
//!
//! The ways: AVX2 where the processor has it, SSE2 on every x86-64, and plain integers elsewhere (eight bytes
//! at a time; H. S. Warren, "Hacker's Delight", 2nd edition, section 6-1, in the exact form without carries between
//! bytes). Which one is chosen at run time, and each is tested against the naive one.
//!
//! Unsafe for its gain: `cargo bench -- scan`, ns of CPU for a line of 40 bytes on an AMD EPYC (Zen 4): the plain oracle
//! 15.5, portable 20, SSE2 8.9, AVX2 6.2. AVX-512 was tried too: 5.6, not worth its code.

use super::masks::{Masks, WINDOW_BYTES};
use super::scan::{LineIndex, LineVisitor, each_line};

/// A line scanner for an instruction set that this processor has, by runtime detection only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanner(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Sse2,
    Portable,
}

impl Scanner {
    /// The fastest that this processor has.
    pub fn new() -> Scanner {
        Scanner::all().next().unwrap_or(Scanner::portable())
    }

    /// The one that every processor has; for measuring it.
    pub const fn portable() -> Scanner {
        Scanner(Kind::Portable)
    }

    /// All that this processor has, the fastest first; for measuring and testing them.
    pub fn all() -> impl Iterator<Item = Scanner> {
        #[cfg(target_arch = "x86_64")]
        let special = [x86_64::has_avx2().then_some(Scanner(Kind::Avx2)), Some(Scanner(Kind::Sse2))];
        #[cfg(not(target_arch = "x86_64"))]
        let special: [Option<Scanner>; 0] = [];
        special.into_iter().flatten().chain([Scanner::portable()])
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

    /// Gives each line of a datagram, in order, to `work`.
    #[inline]
    pub fn each_line(self, datagram: &[u8], line_index: &mut LineIndex, work: impl LineVisitor) {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => x86_64::each_line_avx2(datagram, line_index, work),
            #[cfg(target_arch = "x86_64")]
            Kind::Sse2 => x86_64::each_line_sse2(datagram, line_index, work),
            Kind::Portable => each_line(datagram, line_index, masks_portable, work),
        }
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Scanner::new()
    }
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
    // CoalescedWaits the eight top bits into the low byte.
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86_64 {
    use super::super::masks::{Masks, WINDOW_BYTES};
    use super::super::scan::{LineIndex, LineVisitor, each_line};
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

    pub fn each_line_avx2(datagram: &[u8], line_index: &mut LineIndex, work: impl LineVisitor) {
        // SAFETY: a `Way` of this kind is made only where `has_avx2` said so.
        unsafe { with_avx2(datagram, line_index, work) }
    }

    pub fn each_line_sse2(datagram: &[u8], line_index: &mut LineIndex, work: impl LineVisitor) {
        // SAFETY: SSE2 is part of x86-64.
        let masks = |window: &[u8; WINDOW_BYTES]| unsafe { masks_sse2(window) };
        each_line(datagram, line_index, masks, work);
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
    fn with_avx2(datagram: &[u8], line_index: &mut LineIndex, work: impl LineVisitor) {
        let masks = |window: &[u8; WINDOW_BYTES]| masks_avx2(window);
        each_line(datagram, line_index, masks, work);
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
    use super::super::masks::padded;
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
