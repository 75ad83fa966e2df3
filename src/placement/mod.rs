//! Name → backend, and who serves a dead backend's names. Pure.
//!
//! In: a routing key and the set of living backends. Out: the index of a backend in the config's list.
//! Next: `relay/`, which packs the metric for it.

mod jump;
mod live;

pub use jump::{jump, splitmix64};
pub use live::LiveSet;

/// How names are spread over backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// xxh3_64 of the name, jump consistent hash, re-drawn past dead backends.
    Jump,
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
            Placement::Jump => jump::owner(xxhash_rust::xxh3::xxh3_64(key), live),
        }
    }

    /// The backend that owns `key` when all live; `None` if the list is empty.
    pub fn home(self, key: &[u8], nodes: usize) -> Option<usize> {
        match self {
            Placement::Jump => (nodes > 0).then(|| jump::jump(xxhash_rust::xxh3::xxh3_64(key), nodes)),
        }
    }
}
