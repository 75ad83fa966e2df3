//! Lines of the datagram that is being routed, between the loops of `ingest.rs`: found, then decided, then packed.

use super::OnNodeDown;
use crate::placement::{Destination, LiveSet};

/// Lines that are found before they are decided and packed; more than most datagrams have.
pub(super) const FOUND_MAX: usize = 64;

/// A line of the datagram that is being taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct ParsedLine {
    /// Of its key.
    pub(super) hash: u64,
    pub(super) start: u32,
    pub(super) end: u32,
    /// Not known before all lines are found.
    pub(super) decision: Option<Decision>,
}

/// A backend's index, and whether it is not the name's home; small enough for the cache.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decision(pub(super) u16);

impl Decision {
    /// The backend that serves the name; if dead backends' names are dropped, the one whose they are.
    pub(super) fn new(destination: Destination, on_node_down: OnNodeDown, live: &LiveSet) -> Decision {
        let Destination { owner, home } = destination;
        // Some placements also move names whose home lives; where dead backends' names are dropped, they stay there.
        let (backend, is_away) = match on_node_down {
            OnNodeDown::Drop => (home, !live.contains(home)),
            OnNodeDown::Divert => (owner, owner != home),
        };
        Decision((backend << 1 | usize::from(is_away)) as u16)
    }

    /// The backend itself serves the name.
    #[inline(always)]
    pub(super) fn at_home(backend: usize) -> Decision {
        Decision((backend << 1) as u16)
    }

    pub(super) fn backend(self) -> usize {
        usize::from(self.0 >> 1)
    }

    pub(super) fn is_away_from_home(self) -> bool {
        self.0 & 1 == 1
    }
}
