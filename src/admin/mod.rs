//! The admin port: text over TCP, one command a line, made for `nc`.
//!
//! In: a connection's bytes, and a [`View`] of the running proxy that `control/` makes on request. Out: replies.
//! The way of a command: [`Session`] (bytes → lines) → [`parse`] (line → [`Command`]) → [`serve`] (asks
//! [`AdminActions`]) → `reply.rs` and its neighbours ([`View`] → text). All but [`serve`] is pure. The commands:
//!
#![doc = concat!("```text\n", include_str!("help.txt"), "```")]
//!
//! Next: `control/`, which accepts the connections and implements [`AdminActions`].

mod backends;
mod command;
mod counters;
mod escape;
mod latency;
mod levers;
mod memstats;
mod reply;
mod server;
mod session;
mod stats;
mod status;
mod view;
mod wish;

pub use command::{Command, HELP, TAP_METRICS_MAX, parse};
pub use counters::{AdminCounter, AdminCounters};
pub use escape::escape;
pub use levers::LeversView;
pub use server::{AdminActions, Connection, Tapped, serve};
pub use session::{Foreign, Input, LINE_BYTES_MAX, Session};
pub use view::{BackendState, BackendView, MemoryView, View, WorkerView};
pub use wish::Wish;
