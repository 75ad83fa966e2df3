//! io_uring. (The real ring is being written.)
//!
//! In: datagrams from the kernel, packets from the worker. Out: both to the other side. Next: `ring.rs`, what is asked
//! of a ring.

pub mod classify;
pub mod engine;
pub mod header;
pub mod ring;
mod standing;
