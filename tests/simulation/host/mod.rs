//! Whole proxies on one fake host, thousands of times: workers and control, health checks, reloads, restarts without loss,
//! kills and pauses, in virtual time.
//!
//! In: a seed. Out: the outcome, or the broken invariant. `plan.rs` generates the events, `process.rs` is one process,
//! `restart.rs` the messages between two of them, `world.rs` runs everything in order, `promises.rs` checks the invariants.
//!
//! Real code: driver, worker, relay, placement, counters; the state machines of health, of the check schedule and of both
//! sides of a handover; which sockets are inherited; the state handed over; the comparison of configs; the set of backends with
//! its route tables; the evaluation of a check's answer. Modelled after `control/`: the kernel, the tasks and timers that
//! call them, the connection between the two processes, the steps of a start and of a stop.

mod plan;
mod process;
mod promises;
mod restart;
mod world;

pub use plan::Plan;
pub use world::{Outcome, run};
