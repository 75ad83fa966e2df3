//! Where the bytes that matter stand in 64 bytes: newline, colon and bar, as bit masks. One pass finds all three.
//!
//! In: 64 bytes. Out: three masks, bit i for byte i. Next: `scan.rs`, which is compiled into each way of making them.
//!
//! The ways: AVX2 where the processor has it, SSE2 on every x86-64, and plain integers elsewhere (eight bytes at a time;
//! H. S. Warren, "Hacker's Delight", 2nd edition, section 6-1, in the exact form without carries between bytes). Which
//! one is chosen at run time, and each is tested against the naive one.
//!
//! Unsafe for its gain: `cargo bench -- scan`, ns of CPU for a line of 40 bytes, is written beside each way below.

use super::scan::{Spans, find};

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

/// Finds lines of a datagram from an offset on; see `Scanner::scan`.
pub type Find = fn(&[u8], usize, &mut Spans) -> usize;

/// One way with its name.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// As users see it.
    pub name: &'static str,
    /// The way itself.
    pub find: Find,
}

/// The way that every processor has.
pub const PORTABLE: Way = Way { name: "portable", find: find_portable };

/// The fastest way that this processor has.
pub fn fastest() -> Way {
    all().next().unwrap_or(PORTABLE)
}

/// Every way that this processor has, the fastest first.
pub fn all() -> impl Iterator<Item = Way> {
    #[cfg(target_arch = "x86_64")]
    let special = [
        is_x86_feature_detected!("avx2").then_some(Way { name: "AVX2", find: find_avx2 }),
        Some(Way { name: "SSE2", find: find_sse2 }),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let special: [Option<Way>; 0] = [];
    special.into_iter().flatten().chain([PORTABLE])
}

fn find_portable(datagram: &[u8], from: usize, spans: &mut Spans) -> usize {
    find(datagram, from, spans, masks_portable)
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
    use super::{Masks, Spans, WINDOW_BYTES, find};
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_cmpeq_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_set1_epi8,
        _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_set1_epi8,
    };

    pub fn find_sse2(datagram: &[u8], from: usize, spans: &mut Spans) -> usize {
        // SAFETY: SSE2 is part of x86-64.
        find(datagram, from, spans, |window| unsafe { masks_sse2(window) })
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

    pub fn find_avx2(datagram: &[u8], from: usize, spans: &mut Spans) -> usize {
        // SAFETY: `all` offers this way only where the processor was seen to have AVX2 (and with it BMI1).
        unsafe { find_avx2_inner(datagram, from, spans) }
    }

    #[target_feature(enable = "avx2")]
    fn find_avx2_inner(datagram: &[u8], from: usize, spans: &mut Spans) -> usize {
        find(datagram, from, spans, |window| masks_avx2(window))
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

#[cfg(target_arch = "x86_64")]
use x86_64::{find_avx2, find_sse2};

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
        }
    }
}
