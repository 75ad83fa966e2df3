//! The admin port: text over TCP, one command per line, made for `nc`.
//!
//! In: a connection's bytes, and a [`View`] of the running proxy that `control/` makes on request. Out: replies.
//! Path of a command: [`Session`] (bytes → lines) → [`parse`] (line → [`Command`]) → [`serve`] (calls
//! [`AdminActions`]) → `reply.rs` and its siblings ([`View`] → text). HTTP on the same port is handled separately from the
//! first HTTP line on: `http/` (bytes → request → page), `prometheus/` and `json.rs` ([`View`] → text). Everything except what
//! waits ([`serve`], `http/connection.rs`, `connection.rs`, `slots.rs`) is pure. Under a config of StatsD's `proxy.js` the commands
//! that both have are parsed and answered in its dialect (`proxy_js.rs`). The commands:
//!
#![doc = concat!("```text\n", include_str!("help.txt"), "```")]
//!
//! Next: `control/`, which accepts the connections and implements [`AdminActions`].

mod backends;
mod command;
mod connection;
mod counters;
mod escape;
mod fragmentation;
mod http;
mod json;
mod latency;
mod tuning;
mod memstats;
mod slots;
mod prometheus;
pub mod proxy_js;
mod readiness;
mod reply;
mod send_error;
mod server;
mod session;
mod stats;
mod status;
mod telnet;
mod view;
mod admin_state;

pub use admin_state::AdminState;
pub use backends::BACKENDS_COLUMNS;
pub use command::{Command, HELP, TAP_METRICS_MAX, TAPS_MAX, parse};
pub use connection::Connection;
pub use counters::{AdminCounter, AdminCounters};
pub use escape::escape;
pub use fragmentation::fragmentation_message;
pub use http::HTTP_PATHS;
pub use prometheus::{MetricFamily, metric_families};
pub use readiness::Readiness;
pub use send_error::{ONGOING_US, capped, error_meaning, error_message, error_name, ongoing};
pub use server::{AdminActions, serve};
pub use session::{Foreign, Input, LINE_BYTES_MAX, Session};
pub use slots::{ConnectionHandle, ConnectionSlots, Slot};
pub use view::{
    AddressRole, BackendState, BackendView, LastReload, MemoryView, Tapped, TuningView, View, WorkerView,
};
