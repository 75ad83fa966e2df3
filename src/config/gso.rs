//! `gso`: whether and how several packets for one backend are passed to the kernel in one send.
//!
//! In: a value of the file, and whether the backend has an `adminport`. Out: a [`GsoMode`]. Next: `relay/`, by way of the route
//! table.

use crate::relay::GsoMode;

/// A value of `gso`, of the file or of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// Padded for a backend with an `adminport`, else unpadded. `health` is a command of StatsD's admin port since 0.7.0, the
    /// version that began to skip empty lines; other servers, which have no such port, may count or log them.
    Auto,
    /// Largest batches, for servers that skip empty lines.
    Padded,
    /// No empty lines.
    Unpadded,
    /// Each packet by itself.
    Off,
}

impl Gso {
    /// The values in the file.
    pub(super) const NAMES: [(&'static str, Gso); 4] = [
        (Gso::Auto.name(), Gso::Auto),
        (Gso::Padded.name(), Gso::Padded),
        (Gso::Unpadded.name(), Gso::Unpadded),
        (Gso::Off.name(), Gso::Off),
    ];

    /// The value in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Gso::Auto => "auto",
            Gso::Padded => GsoMode::Padded.name(),
            Gso::Unpadded => GsoMode::Unpadded.name(),
            Gso::Off => GsoMode::Off.name(),
        }
    }

    /// Its meaning for a backend with or without an `adminport`.
    pub const fn mode(self, has_adminport: bool) -> GsoMode {
        match self {
            Gso::Auto if has_adminport => GsoMode::Padded,
            Gso::Auto | Gso::Unpadded => GsoMode::Unpadded,
            Gso::Padded => GsoMode::Padded,
            Gso::Off => GsoMode::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_backend_with_an_adminport_gets_padding_unasked() {
        let modes = |gso: Gso| [false, true].map(|has_adminport| gso.mode(has_adminport).name());
        assert_eq!(modes(Gso::Auto), ["unpadded", "padded"]);
        for gso in [Gso::Padded, Gso::Unpadded, Gso::Off] {
            assert_eq!(modes(gso), [gso.name(); 2]);
        }
    }
}
