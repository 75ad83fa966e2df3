//! A window of 64 bytes and where the bytes that matter are in it: newline, colon and bar, as bit masks.
//!
//! In: at most 64 bytes. Out: a window; masks, bit i for byte i, which `simd.rs` makes. Next: `scan.rs`.

/// Bytes processed at once.
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
