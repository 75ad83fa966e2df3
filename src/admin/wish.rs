//! What the operator wants of one backend, whatever its health says.
//!
//! In: `backend HOST:PORT drain|up|down` on the admin port. Out: a value that `control/` keeps with the backend, small
//! enough to be written down. Next: `control/backends/backend.rs`.

use serde::{Deserialize, Serialize};

/// What the operator wants of a backend. It stays over reloads as long as the config lists the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// What its health says counts.
    #[default]
    Up,
    /// Its names are served by the others though it may be healthy; its health is watched all the same.
    Drain,
    /// It counts as down, and `onNodeDown` says what becomes of its names; its health is watched all the same.
    Down,
}

impl Wish {
    /// The word of the command.
    pub const fn name(self) -> &'static str {
        match self {
            Wish::Up => "up",
            Wish::Drain => "drain",
            Wish::Down => "down",
        }
    }

    /// The wish of this word.
    pub fn parse(word: &[u8]) -> Option<Wish> {
        [Wish::Up, Wish::Drain, Wish::Down].into_iter().find(|wish| word == wish.name().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_json_say_the_same() {
        for wish in [Wish::Up, Wish::Drain, Wish::Down] {
            assert_eq!(Wish::parse(wish.name().as_bytes()), Some(wish));
            let json = serde_json::to_string(&wish).unwrap();
            assert_eq!(json, format!("{:?}", wish.name()));
            assert_eq!(serde_json::from_str::<Wish>(&json).unwrap(), wish);
        }
        assert_eq!(Wish::parse(b"Up"), None);
    }
}
