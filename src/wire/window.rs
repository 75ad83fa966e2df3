//! Where the bytes that matter stand in 64 bytes: newline, colon and bar, as bit masks. One pass finds all three.
//!
//! In: 64 bytes. Out: three masks, bit i for byte i. Next: `scan.rs`.
//!
//! Two ways of the same: SSE2, which every x86-64 has, and a portable one of plain integers (eight bytes at a time;
//! H. S. Warren, "Hacker's Delight", 2nd edition, section 6-1, in the exact form without carries between bytes).

/// Bytes that are looked at at once.
pub const WINDOW_BYTES: usize = 64;

/// Bit i is set where byte i is that character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    /// `\n`
    pub newline: u64,
    /// `:`
    pub colon: u64,
    /// `|`
    pub bar: u64,
}

/// The masks of 64 bytes, by the fastest way this processor has.
#[inline]
pub fn masks(window: &[u8; WINDOW_BYTES]) -> Masks {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)]
    {
        // SAFETY: SSE2 is part of x86-64.
        unsafe { sse2(window) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        portable(window)
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn sse2(window: &[u8; WINDOW_BYTES]) -> Masks {
    use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
    // Two integers make a vector without a pointer; the compiler turns them into one load.
    let mut masks = Masks { newline: 0, colon: 0, bar: 0 };
    let [newline, colon, bar] =
        [_mm_set1_epi8(b'\n' as i8), _mm_set1_epi8(b':' as i8), _mm_set1_epi8(b'|' as i8)];
    let mut at = 0;
    while at < WINDOW_BYTES {
        let mut halves = [0i64; 2];
        for (half, bytes) in halves.iter_mut().zip(window[at..at + 16].as_chunks::<8>().0) {
            *half = i64::from_le_bytes(*bytes);
        }
        let chunk: __m128i = _mm_set_epi64x(halves[1], halves[0]);
        masks.newline |= u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(chunk, newline)) as u32) << at;
        masks.colon |= u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(chunk, colon)) as u32) << at;
        masks.bar |= u64::from(_mm_movemask_epi8(_mm_cmpeq_epi8(chunk, bar)) as u32) << at;
        at += 16;
    }
    masks
}

/// The same with plain integers.
#[cfg_attr(target_arch = "x86_64", allow(dead_code))]
fn portable(window: &[u8; WINDOW_BYTES]) -> Masks {
    let mut masks = Masks { newline: 0, colon: 0, bar: 0 };
    for (index, chunk) in window.chunks_exact(8).enumerate() {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(chunk);
        let word = u64::from_le_bytes(bytes);
        masks.newline |= equal_bytes(word, b'\n') << (8 * index);
        masks.colon |= equal_bytes(word, b':') << (8 * index);
        masks.bar |= equal_bytes(word, b'|') << (8 * index);
    }
    masks
}

/// Bit i of the result is set where byte i of `word` is `character`.
fn equal_bytes(word: u64, character: u8) -> u64 {
    const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differs = word ^ (u64::from(character) * 0x0101_0101_0101_0101);
    // The top bit of each byte that is zero, exactly: no borrow runs from byte to byte.
    let zero = !(((differs & LOW_7) + LOW_7) | differs | LOW_7);
    // Gathers the eight top bits into the low byte.
    (zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(window: &[u8; WINDOW_BYTES]) -> Masks {
        let find = |character: u8| {
            window.iter().enumerate().fold(0, |mask, (i, byte)| mask | u64::from(*byte == character) << i)
        };
        Masks { newline: find(b'\n'), colon: find(b':'), bar: find(b'|') }
    }

    proptest! {
        #[test]
        fn every_way_gives_what_the_naive_one_gives(
            bytes in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b':'), Just(b'|'), Just(0x8a), Just(0xba), Just(0xfc), any::<u8>()],
                WINDOW_BYTES,
            )
        ) {
            let window: [u8; WINDOW_BYTES] = bytes.try_into().unwrap();
            prop_assert_eq!(masks(&window), naive(&window));
            prop_assert_eq!(portable(&window), naive(&window));
        }
    }
}
