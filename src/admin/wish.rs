//! The administrative state of one backend, regardless of its health.
//!
//! In: `backend HOST:PORT drain|up|down` on the admin port. Out: a value that `control/` keeps with the backend, small
//! enough to be written down. Next: `control/backends/backend.rs`.

use serde::{Deserialize, Serialize};

/// The administrative state of a backend. It is kept across reloads while the config lists the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Follows its health checks.
    #[default]
    Up,
    /// Its names are served by the others even if it is healthy; its health is still checked.
    Drain,
    /// Considered down, with `onNodeDown` deciding about its names; its health is still checked.
    Down,
}

impl Wish {
    /// As written in the command.
    pub const fn name(self) -> &'static str {
        match self {
            Wish::Up => "up",
            Wish::Drain => "drain",
            Wish::Down => "down",
        }
    }

    /// Parses the word of the command.
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
