//! Long inputs from short ones: a fuzzer that has to write every byte of a long line is slow and rarely gets there.

/// The byte that stands for many of the one before it.
const REPEAT: u8 = 0xFD;

/// How often it does; further ones stand for themselves.
const REPEATS_MAX: usize = 3;

/// The text in which each of the first `REPEAT`s is `times` times the byte before it.
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
