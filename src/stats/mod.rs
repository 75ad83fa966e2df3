//! Counters of received, sent and dropped metrics; latency histograms.
//!
//! In: the relay and the worker count into plain [`Counters`] of their own. Out: once per batch a worker publishes
//! them as one consistent snapshot ([`Published`]); `admin/` reads and adds them up. Next: `admin/`.

pub mod alloc;
mod counters;
pub mod host;
mod latency;
mod node;
mod published;
mod shared;

pub(crate) use counters::named;
pub use counters::{Counter, Counters, DropReason, Exit};
pub use latency::{Latency, LatencyExchange, LatencyKind, new_histogram};
pub use node::{ErrorView, Fragmentation, NodeCounters};
pub use published::Published;
pub use shared::{Sleep, SleepGauge, SocketDrops, WorkerShared};
