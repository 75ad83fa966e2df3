//! The pure core: no sockets, no clock, no threads.
//!
//! In: `ingest(arrived_us, bytes)`. Out: packets by `transmit(now_us)`, and when to call it by `next_deadline_us()`.
//! Next: `wire/` finds lines and keys, `placement/` their backends, `egress.rs` packs.

mod route;

pub use route::{Malformed, Observer, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
