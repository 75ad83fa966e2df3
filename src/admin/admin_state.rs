//! The administrative state of one backend, regardless of its health.
//!
//! In: `backend HOST:PORT drain|up|down` on the admin port. Out: a value that `control/` keeps with the backend, small
//! enough to be written down. Next: `control/backends/backend.rs`.

use serde::{Deserialize, Serialize};

/// The administrative state of a backend. It is kept across reloads while the config lists the backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminState {
    /// Follows its health checks.
    #[default]
    Up,
    /// Its names are served by the others even if it is healthy; its health is still checked.
    Drain,
    /// Considered down, with `onNodeDown` deciding about its names; its health is still checked.
    Down,
}

impl AdminState {
    /// As written in the command.
    pub const fn name(self) -> &'static str {
        match self {
            AdminState::Up => "up",
            AdminState::Drain => "drain",
            AdminState::Down => "down",
        }
    }

    /// Parses the command's argument.
    pub fn parse(word: &[u8]) -> Option<AdminState> {
        [AdminState::Up, AdminState::Drain, AdminState::Down]
            .into_iter()
            .find(|admin_state| word == admin_state.name().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_agree() {
        for admin_state in [AdminState::Up, AdminState::Drain, AdminState::Down] {
            assert_eq!(AdminState::parse(admin_state.name().as_bytes()), Some(admin_state));
            let json = serde_json::to_string(&admin_state).unwrap();
            assert_eq!(json, format!("{:?}", admin_state.name()));
            assert_eq!(serde_json::from_str::<AdminState>(&json).unwrap(), admin_state);
        }
        assert_eq!(AdminState::parse(b"Up"), None);
    }
}
