//! Lists in which a backend may occur several times: the shard map of uber's and lyft's statsrelay, and the arguments of
//! jjneely's. A name's hash chooses an entry: murmur3_x86_32 of it modulo their number, or its FNV-1a 64 by a jump.
//!
//! Sources, read for their behaviour: `src/hashlib.c` and `src/hashring.c` of github.com/uber/statsrelay, `src/shard.rs` of
//! github.com/lyft/statsrelay, `jump.go` and `statsrelay.go` of github.com/jjneely/statsrelay.
//!
//! In: the list and a key. Out: its backend.

use super::jump::{DRAWS_MAX, jump, last_choice};
use super::{Hashing, LiveSet, splitmix64};
use fnv::FnvHasher;
use std::hash::Hasher;
use std::io::Cursor;

/// The seed of uber's and lyft's programs.
const SEED: u32 = 0xaccd_3d34;

/// How a key chooses an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    /// [`Hashing::Murmur3`].
    Murmur3,
    /// [`Hashing::JumpFnv1a`].
    JumpFnv1a,
}

/// The list as indices of backends.
#[derive(Debug, PartialEq, Eq)]
pub struct Shards {
    choice: Choice,
    entries: Box<[u16]>,
}

impl Shards {
    /// The shard map of uber's and lyft's statsrelay; each entry is the index of a backend.
    pub fn murmur3(entries: &[u16]) -> Shards {
        Shards { choice: Choice::Murmur3, entries: entries.into() }
    }

    /// The backends of jjneely's statsrelay, HOST:PORT or HOST:PORT:INSTANCE; each entry is the index of a backend.
    pub fn jump_fnv1a(entries: &[u16]) -> Shards {
        Shards { choice: Choice::JumpFnv1a, entries: entries.into() }
    }

    /// Which placement it is.
    pub fn hashing(&self) -> Hashing {
        match self.choice {
            Choice::Murmur3 => Hashing::Murmur3,
            Choice::JumpFnv1a => Hashing::JumpFnv1a,
        }
    }

    /// Its entries.
    pub fn entries(&self) -> &[u16] {
        &self.entries
    }

    /// The hash of a key.
    pub fn hash(&self, key: &[u8]) -> u64 {
        match self.choice {
            // Reading from memory does not fail.
            Choice::Murmur3 => murmur3::murmur3_32(&mut Cursor::new(key), SEED).unwrap_or_default().into(),
            Choice::JumpFnv1a => {
                let mut hasher = FnvHasher::default();
                hasher.write(key);
                hasher.finish()
            }
        }
    }

    /// The backend that owns what hashes to `hash`.
    pub fn home(&self, hash: u64) -> Option<usize> {
        self.entry(hash)
    }

    /// The living backend that serves what hashes to `hash`; `None` if none lives.
    ///
    /// The originals do not divert a dead backend's names. If the config diverts them, it is done as by `jump`:
    /// only these names move, evenly, and the result depends on the live set alone.
    pub fn owner(&self, hash: u64, live: &LiveSet) -> Option<usize> {
        if live.alive() == 0 {
            return None;
        }
        let mut draw = hash;
        for _ in 0..DRAWS_MAX {
            let node = self.entry(draw)?;
            if live.contains(node) {
                return Some(node);
            }
            draw = splitmix64(draw);
        }
        last_choice(hash, live)
    }

    fn entry(&self, draw: u64) -> Option<usize> {
        let index = match (self.choice, self.entries.len()) {
            (_, 0) => return None,
            (Choice::Murmur3, count) => (draw % count as u64) as usize,
            (Choice::JumpFnv1a, count) => jump(draw, count),
        };
        self.entries.get(index).map(|node| usize::from(*node))
    }
}
