//! What one worker shows to the rest of the process.
//!
//! In: written by the worker. Out: read by `admin/` and `control/`. Next: `admin/`.

use super::{LatencyExchange, Published};

/// One worker's figures.
#[derive(Default)]
pub struct WorkerShared {
    /// Its counters, one consistent snapshot per batch.
    pub published: Published,
    /// Its latency histograms, on request.
    pub latency: LatencyExchange,
}
