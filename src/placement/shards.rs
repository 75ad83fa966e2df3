//! The shard map of uber's and lyft's statsrelay: murmur3_x86_32 of the name, modulo the entries of the list.
//!
//! Sources, read for their behaviour: `src/hashlib.c` and `src/hashring.c` of github.com/uber/statsrelay, `src/shard.rs` of
//! github.com/lyft/statsrelay.
//!
//! In: the list, in which a backend may stand several times, and a key. Out: its backend.

use super::jump::{DRAWS_MAX, last_choice};
use super::{LiveSet, splitmix64};
use std::io::Cursor;

/// The seed of both programs.
const SEED: u32 = 0xaccd_3d34;

/// The list as indices of backends.
#[derive(Debug, PartialEq, Eq)]
pub struct Shards {
    entries: Box<[u16]>,
}

impl Shards {
    /// The list; each entry is the index of a backend.
    pub fn new(entries: &[u16]) -> Shards {
        Shards { entries: entries.into() }
    }

    /// Its entries.
    pub fn entries(&self) -> &[u16] {
        &self.entries
    }

    /// The hash of a key.
    pub fn hash(key: &[u8]) -> u32 {
        // Reading from memory does not fail.
        murmur3::murmur3_32(&mut Cursor::new(key), SEED).unwrap_or_default()
    }

    /// The backend that owns what hashes to `hash`.
    pub fn home(&self, hash: u32) -> Option<usize> {
        self.entry(u64::from(hash))
    }

    /// The living backend that serves what hashes to `hash`; `None` if none lives.
    ///
    /// The originals give a dead backend's names to nobody. Where the config wants them diverted it is done as `jump`
    /// does it: only these names move, evenly, and the answer depends on the living set alone.
    pub fn owner(&self, hash: u32, live: &LiveSet) -> Option<usize> {
        if live.alive() == 0 {
            return None;
        }
        let mut draw = u64::from(hash);
        for _ in 0..DRAWS_MAX {
            let node = self.entry(draw)?;
            if live.contains(node) {
                return Some(node);
            }
            draw = splitmix64(draw);
        }
        last_choice(u64::from(hash), live)
    }

    fn entry(&self, draw: u64) -> Option<usize> {
        let index = draw.checked_rem(self.entries.len() as u64)?;
        self.entries.get(index as usize).map(|node| usize::from(*node))
    }
}
