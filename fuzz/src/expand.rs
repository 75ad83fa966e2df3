//! Expands short inputs to long ones: writing every byte of a long line is slow for a fuzzer.

/// Repeats the preceding byte.
const REPEAT: u8 = 0xFD;

/// Repetitions per input; further `REPEAT`s are literal.
const REPEATS_MAX: usize = 3;

/// Replaces each of the first `REPEAT`s by `times` copies of the preceding byte.
pub fn expand(text: &[u8], times: usize) -> Vec<u8> {
    let mut long = Vec::with_capacity(text.len());
    let mut left = REPEATS_MAX;
    for byte in text {
        match (*byte, long.last().copied()) {
            (REPEAT, Some(before)) if left > 0 => {
                long.resize(long.len() + times, before);
                left -= 1;
            }
            (byte, _) => long.push(byte),
        }
    }
    long
}
