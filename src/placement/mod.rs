//! Name → backend, and which backend serves a dead one's names. Pure.
//!
//! In: a routing key and the set of living backends. Out: the index of a backend in the config's list.
//! Next: `relay/`, which packs the metric for it.
//! Inside: `hashing.rs` names the ways; `jump.rs` is statsring's own, `ring.rs` and `shards.rs` are those of other proxies.

mod cache;
mod jump_table;
mod fingerprint;
mod hashing;
mod jump;
mod live;
mod ring;
mod shards;

pub use cache::{HashCache, VALUE_MAX};
pub use fingerprint::{Fingerprint, Part};
pub use hashing::{Hashing, Spec};
pub use jump::{jump, splitmix64};
pub use jump_table::JumpTable;
pub use live::LiveSet;
pub use ring::Ring;
pub use shards::Shards;

use std::borrow::Cow;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64;

/// How the names are spread over a list of backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// [`Hashing::Jump`].
    Jump,
    /// [`Hashing::Murmur3`] and [`Hashing::JumpFnv1a`].
    Shards(Arc<Shards>),
    /// [`Hashing::Hashring3`], [`Hashing::Hashring1`] and [`Hashing::Ketama`].
    Ring(Arc<Ring>),
}

/// The placement of a name.
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
    /// The placement when all backends live. Takes time for a ring: an MD5 digest for every point or every fourth.
    pub fn new(spec: Spec) -> Placement {
        match spec.hashing {
            Hashing::Jump => Placement::Jump,
            Hashing::Murmur3 => Placement::Shards(Arc::new(Shards::murmur3(&spec.shards))),
            Hashing::JumpFnv1a => Placement::Shards(Arc::new(Shards::jump_fnv1a(&spec.shards))),
            Hashing::Hashring3 | Hashing::Hashring1 | Hashing::Ketama => {
                Placement::Ring(Arc::new(Ring::new(spec)))
            }
        }
    }

    /// The most memory that a placement's tables take, in bytes, while the old and the new one live.
    pub fn bytes_max(spec: &Spec) -> usize {
        match spec.hashing {
            Hashing::Jump => 0,
            Hashing::Murmur3 | Hashing::JumpFnv1a => 2 * spec.shards.len() * size_of::<u16>(),
            Hashing::Hashring3 | Hashing::Hashring1 | Hashing::Ketama => Ring::bytes_max(spec),
        }
    }

    /// Whether [`Placement::new`] would make it, apart from the live set.
    pub fn is_of(&self, spec: &Spec) -> bool {
        match self {
            Placement::Jump => spec.hashing == Hashing::Jump,
            Placement::Shards(shards) => shards.hashing() == spec.hashing && shards.entries() == spec.shards,
            Placement::Ring(ring) => ring.spec() == spec,
        }
    }

    /// The placement after a change of the living: what [`Placement::owner`] is to be asked of from then on.
    ///
    /// For `hashring-3` and `hashring-1` it depends on the order of the changes, as it does in proxy.js: a backend that
    /// returns is the last in the ring. That makes a difference only where two backends have a point of the same value.
    #[must_use]
    pub fn with_living(&self, live: &LiveSet) -> Placement {
        match self {
            Placement::Ring(ring) if !ring.is_of(live) => Placement::Ring(Arc::new(ring.with_living(live))),
            other => other.clone(),
        }
    }

    /// The living backends in the order in which the original would list them: the config's, but that one which returned
    /// is the last on a ring of proxy.js.
    pub fn living(&self, live: &LiveSet) -> Vec<usize> {
        match self {
            Placement::Ring(ring) if ring.is_of(live) => {
                ring.order().iter().map(|node| usize::from(*node)).collect()
            }
            _ => live.iter().collect(),
        }
    }

    /// The hashing.
    #[inline]
    pub fn hashing(&self) -> Hashing {
        match self {
            Placement::Jump => Hashing::Jump,
            Placement::Shards(shards) => shards.hashing(),
            Placement::Ring(ring) => ring.spec().hashing,
        }
    }

    /// Its inputs besides the backends and their order: its name, and weights and shards unless each backend
    /// is listed once, with weight 1.
    pub fn description(&self) -> Cow<'static, str> {
        let numbers: Vec<u32> = match self {
            Placement::Jump => Vec::new(),
            Placement::Shards(shards) => shards.entries().iter().copied().map(u32::from).collect(),
            Placement::Ring(ring) => ring.spec().nodes.iter().map(|(_, weight)| *weight).collect(),
        };
        let is_plain = match self {
            Placement::Shards(_) => numbers.iter().copied().eq(0..numbers.len() as u32),
            _ => numbers.iter().all(|weight| *weight == 1),
        };
        let name = self.hashing().name();
        if is_plain { name.into() } else { format!("{name} {numbers:?}").into() }
    }

    /// The living backend that serves `key`; `None` if none lives.
    pub fn owner(&self, key: &[u8], live: &LiveSet) -> Option<usize> {
        self.destination(key_hash(key), key, live).map(|destination| destination.owner)
    }

    /// The backend that owns `key` when all live; `None` if the list is empty.
    pub fn home(&self, key: &[u8], nodes: usize) -> Option<usize> {
        match self {
            Placement::Jump => (nodes > 0).then(|| jump::jump(xxh3_64(key), nodes)),
            Placement::Shards(shards) => shards.home(shards.hash(key)),
            Placement::Ring(ring) => ring.home(ring.hash(key)),
        }
    }

    /// Both for `key`, whose [`key_hash`] is known; `None` if no backend lives.
    pub fn destination(&self, key_hash: u64, key: &[u8], live: &LiveSet) -> Option<Destination> {
        match self {
            Placement::Jump => jump_destination(key_hash, live),
            Placement::Shards(shards) => {
                let hash = shards.hash(key);
                let owner = shards.owner(hash, live)?;
                let home = if live.is_full() { owner } else { shards.home(hash)? };
                Some(Destination { owner, home })
            }
            Placement::Ring(ring) => {
                let hash = ring.hash(key);
                let owner = ring.owner(hash, live)?;
                // A second lookup in an uncached table would nearly double the cost.
                let home = if live.is_full() { owner } else { ring.home(hash)? };
                Some(Destination { owner, home })
            }
        }
    }
}

fn jump_destination(hash: u64, live: &LiveSet) -> Option<Destination> {
    let owner = jump::owner(hash, live)?;
    let home = if live.is_full() { owner } else { jump::jump(hash, live.len()) };
    Some(Destination { owner, home })
}
