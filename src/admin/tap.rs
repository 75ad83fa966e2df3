//! The metrics that `tap` shows, and the limit of open taps.
//!
//! In: metrics on their way, from the workers. Out: the same, to `server.rs`, which shows them. Next: `reply.rs`.

use std::sync::Arc;

/// Taps that may be open at once: each costs the workers time for every metric, and memory for those that wait to be shown.
pub const TAPS_MAX: usize = 8;

/// One metric on its way, as `tap` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// The whole line.
    pub line: Vec<u8>,
    /// The identity of the backend that gets it.
    pub node: Arc<str>,
}
