//! Numbers by which the proxies of a fleet can be compared.
//!
//! In: the placement, the policy for a dead backend's names, each backend's name and state, in the config's order.
//! Out: two numbers. Pure. Next: `control/` logs changes of them, `status` shows them.

use xxhash_rust::xxh3::Xxh3;

/// State of a backend's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It serves them.
    Serves = 1,
    /// It does not.
    Dead = 0,
    /// It does not, and others serve them regardless of `onNodeDown`.
    Diverted = 2,
}

/// See the module. xxh3_64 over texts, each after its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Equal if the configs place every name alike as long as all backends live.
    pub config: u64,
    /// Equal if every name is placed alike now: the same config part, and the same backends live.
    pub now: u64,
}

impl Fingerprint {
    /// Of backends in the config's order. `rules` are the settings that the placement depends on: `hashing`, `onNodeDown`.
    pub fn new<'n>(
        rules: [&str; 2],
        backends: impl IntoIterator<Item = (&'n str, Part)> + Clone,
    ) -> Fingerprint {
        let mut hash = Xxh3::new();
        // A length before each text keeps "a", "bc" apart from "ab", "c".
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        rules.into_iter().for_each(&mut add);
        backends.clone().into_iter().for_each(|(name, _)| add(name));
        let config = hash.digest();
        for (_, part) in backends {
            hash.update(&[part as u8]);
        }
        Fingerprint { config, now: hash.digest() }
    }
}

#[cfg(test)]
mod tests {
    use super::Part::{Dead, Diverted, Serves};
    use super::*;

    const RULES: [&str; 2] = ["jump", "divert"];

    fn of(names: [&str; 3], parts: [Part; 3]) -> Fingerprint {
        Fingerprint::new(RULES, names.into_iter().zip(parts))
    }

    #[test]
    fn different_placements_have_different_fingerprints() {
        let names = ["a:1", "b:1", "c:1"];
        let all = of(names, [Serves; 3]);
        assert_eq!(all, of(names, [Serves; 3]));
        let one_dead = of(names, [Serves, Dead, Serves]);
        assert_eq!(all.config, one_dead.config);
        assert_ne!(all.now, one_dead.now);
        assert_ne!(one_dead.now, of(names, [Serves, Serves, Dead]).now);
        assert_ne!(one_dead.now, of(names, [Serves, Diverted, Serves]).now);
        let others = [
            of(["c:1", "b:1", "a:1"], [Serves; 3]),
            of(["a:1b", ":1", "c:1"], [Serves; 3]),
            Fingerprint::new(RULES, names[..2].iter().map(|name| (*name, Serves))),
            Fingerprint::new(["jump", "drop"], names.map(|name| (name, Serves))),
        ];
        for other in others {
            assert_ne!(all.config, other.config);
            assert_ne!(all.now, other.now);
        }
    }

    /// Versions of the program must agree.
    #[test]
    fn it_is_the_same_number_in_every_version() {
        let all = of(["a:1", "b:1", "c:1"], [Serves, Dead, Diverted]);
        assert_eq!((all.config, all.now), (13_484_003_934_314_160_202, 3_540_978_033_887_699_854));
    }
}
