//! Whole proxies on one fake host, thousands of times: workers and control, health checks, reloads, restarts without loss,
//! kills and pauses, in virtual time.
//!
//! In: a seed. Out: a verdict, or which invariant broke. `plan.rs` decides what happens, `process.rs` is one process,
//! `restart.rs` what two of them say to each other, `world.rs` lets it all happen in order, `promises.rs` looks.
//!
//! Real code: driver, worker, relay, placement, account; the state machines of health, of the rounds of checks and of both
//! sides of a hand-over; which sockets are inherited; what goes over; the comparison of configs; the roster of backends with
//! its route tables; the judgement of a check's answer. Modelled, after `control/`: the kernel, the tasks and timers that
//! call them, the connection between the two processes, the steps of a start and of an end.

mod plan;
mod process;
mod promises;
mod restart;
mod world;

pub use plan::Plan;
pub use world::{Happened, run};
