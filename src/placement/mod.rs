//! Name → backend, and who serves a dead backend's names. Pure.
//!
//! In: a routing key and the set of living backends. Out: the index of a backend in the config's list.
//! Next: `relay/`, which packs the metric for it.

mod cache;
mod few;
mod fingerprint;
mod jump;
mod live;

pub use cache::{HashCache, VALUE_MAX};
pub use few::FewBuckets;
pub use fingerprint::{Fingerprint, Part};
pub use jump::{jump, splitmix64};
pub use live::LiveSet;

use xxhash_rust::xxh3::xxh3_64;

/// How names are spread over backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// xxh3_64 of the name, jump consistent hash, re-drawn past dead backends.
    Jump,
}

/// What was decided for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The living backend that serves the name.
    pub owner: usize,
    /// The backend that owns it when all live.
    pub home: usize,
}

/// The hash by which a key is remembered in a [`HashCache`].
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

impl Placement {
    /// Its value in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Placement::Jump => "jump",
        }
    }

    /// The living backend that serves `key`; `None` if none lives.
    pub fn owner(self, key: &[u8], live: &LiveSet) -> Option<usize> {
        match self {
            Placement::Jump => jump::owner(xxh3_64(key), live),
        }
    }

    /// The backend that owns `key` when all live; `None` if the list is empty.
    pub fn home(self, key: &[u8], nodes: usize) -> Option<usize> {
        match self {
            Placement::Jump => (nodes > 0).then(|| jump::jump(xxh3_64(key), nodes)),
        }
    }

    /// Both for `key`, whose [`key_hash`] is known; `None` if no backend lives.
    pub fn destination(self, key_hash: u64, live: &LiveSet) -> Option<Destination> {
        match self {
            Placement::Jump => {
                let owner = jump::owner(key_hash, live)?;
                let home = if live.is_full() { owner } else { jump::jump(key_hash, live.len()) };
                Some(Destination { owner, home })
            }
        }
    }
}
