//! The control thread: desired state, health, probes, reload, signals, shutdown.
//!
//! In: a proven config, signals, the operator's commands, the workers' reports. Out: route tables to the workers, an
//! exit code in the end. No data goes through here, and nothing here can hold the data path up.
//!
//! ```text
//! process.rs   start → ready → events → exit code                  bind.rs, descriptors.rs, signals.rs, stop.rs
//!   watch.rs     one backend's checks and look-ups                 health.rs, probe.rs, resolve.rs, backend.rs
//!   operator.rs  the admin port's connections and actions          observe.rs, reload.rs
//!   state.rs     what is known, and its way to the workers         table.rs
//!   net.rs       TCP on tokio-uring; nothing else knows it         offload.rs (work that may block)
//! ```
//!
//! Next: `admin/`.

mod backend;
mod bind;
mod descriptors;
mod handle;
mod health;
mod net;
mod observe;
mod offload;
mod operator;
mod probe;
mod process;
mod reload;
mod resolve;
mod signals;
mod state;
mod stop;
mod table;
mod watch;

pub use handle::ProxyHandle;
pub use health::{Cause, Health, Outcome, Transition};
pub use process::{run, run_with};

use std::path::PathBuf;

/// What the control thread is told beside the config.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that a reload reads again; `None` if the config did not come from one.
    pub config_path: Option<PathBuf>,
    /// Whether each metric is logged.
    pub debug: bool,
}
