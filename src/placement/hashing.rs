//! The hashings by name: the values of `hashing` in the config, and what each of them has.
//!
//! In: a value of the config. Out: a [`Hashing`]. Next: `mod.rs`, which makes a placement over a list of backends of it.

use std::sync::Arc;

/// How names are spread over backends: statsring's own way, and those of other proxies, bit-exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashing {
    /// xxh3_64 of the name, jump consistent hash, re-drawn past dead backends.
    Jump,
    /// The npm package hashring 3.2.0 as StatsD 0.8.0 to 0.10.2 `proxy.js` uses it: 40 MD5 points a backend.
    Hashring3,
    /// The npm package hashring 1.0.1 as StatsD 0.7.0 to 0.7.2 `proxy.js` uses it: 160 MD5 points a backend.
    Hashring1,
    /// hit9/statsd-proxy: 160 × weight MD5 points a backend.
    Ketama,
    /// uber's and lyft's statsrelay: murmur3_x86_32 of the name, modulo the entries of the list.
    Murmur3,
    /// jjneely/statsrelay: FNV-1a 64 of the name, jump consistent hash over the entries of the list.
    JumpFnv1a,
}

impl Hashing {
    /// All of them, the default first.
    pub const ALL: [Hashing; 6] = [
        Hashing::Jump,
        Hashing::Hashring3,
        Hashing::Hashring1,
        Hashing::Ketama,
        Hashing::Murmur3,
        Hashing::JumpFnv1a,
    ];

    /// Its value in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Hashing::Jump => "jump",
            Hashing::Hashring3 => "hashring-3",
            Hashing::Hashring1 => "hashring-1",
            Hashing::Ketama => "ketama",
            Hashing::Murmur3 => "murmur3",
            Hashing::JumpFnv1a => "jump-fnv1a",
        }
    }

    /// Whether backends may have weights.
    pub const fn has_weights(self) -> bool {
        matches!(self, Hashing::Ketama)
    }

    /// Whether the list may name a backend several times, as the shard map of statsrelay and the instances of jjneely's do.
    pub const fn has_shards(self) -> bool {
        matches!(self, Hashing::Murmur3 | Hashing::JumpFnv1a)
    }

    /// Whether the original proxy diverts a dead backend's names to the others. The rest leave them where they
    /// are, so that they are lost until it returns.
    pub const fn diverts(self) -> bool {
        matches!(self, Hashing::Jump | Hashing::Hashring3 | Hashing::Hashring1)
    }
}

/// What decides about a placement, apart from who lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The way.
    pub hashing: Hashing,
    /// The backends' identities and weights, in the config's order.
    pub nodes: Vec<(Arc<str>, u32)>,
    /// The config's list as indices of `nodes`: 0, 1, 2, … unless it names one several times.
    pub shards: Vec<u16>,
}
