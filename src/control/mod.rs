//! The control thread: desired state, health, probes, reload, signals, shutdown.
//!
//! In: a validated config, signals, the operator's commands, the workers' reports. Out: route tables to the workers, an
//! exit code in the end. No data passes through here, and nothing here can block the data path.
//!
//! ```text
//! lifecycle/  start → ready → stop, restarts without loss
//! backends/   where the backends are and whether they are up → route tables
//! service/    the admin port's connections and actions
//! state.rs    what is known, and its way to the workers
//! reload.rs   a new config                      config_reads.rs (from a file that may block), config_diff.rs
//! net.rs      TCP on either engine              blocking.rs (work that may block)
//! lateness.rs (stalls of this thread), liveness.rs (of the workers), shortage.rs (descriptors, memory, ports)
//! ```
//!
//! Next: `admin/`.

pub mod backends;
mod blocking;
pub mod config_diff;
mod config_reads;
mod lateness;
pub mod lifecycle;
mod liveness;
mod net;
mod reload;
pub mod service;
mod shortage;
mod state;

pub use backends::health::{Cause, Health, Outcome, Transition};
pub use backends::health_checker::LOG_TARGET as BACKENDS_LOG_TARGET;
pub use backends::own::own_nodes;
pub use lifecycle::failure::Failure;
pub use lifecycle::handle::ProxyHandle;
pub use lifecycle::start::{run, run_with};

use crate::config::Configured;
use lifecycle::activation::{self, Activated};
use lifecycle::handover::predecessor::Predecessor;
use lifecycle::handover::program::Program;
use lifecycle::systemd::Notifier;
use std::path::PathBuf;

/// Inputs of the control thread besides the config.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that a reload reads; `None` if the config did not come from one.
    pub config_path: Option<PathBuf>,
    /// That file as the admin command `config` of `proxy.js` shows it.
    pub listing: String,
    /// Whether each metric is logged.
    pub debug: bool,
}

/// Origin of this process: how it was started, and what it inherited.
#[derive(Default)]
pub struct Origin {
    predecessor: Option<Predecessor>,
    activated: Option<Activated>,
    program: Option<Program>,
    notifier: Notifier,
    /// Notices for the operator.
    notices: Vec<String>,
    /// Which addresses the config file sets; set before the start.
    pub configured: Configured,
}

impl Origin {
    /// Of a process that is only the proxy. Must be called once, before it opens anything that stays open and before
    /// there are other threads.
    pub fn of_this_process() -> Result<Origin, Failure> {
        let usage = |message| Failure { message, code: crate::exit::USAGE };
        let predecessor = Predecessor::meet().map_err(usage)?;
        // An old process gives what it was given.
        let activated = if predecessor.is_some() { None } else { activation::take()? };
        let (notifier, notices) = match Notifier::from_environment() {
            Ok(notifier) => (notifier, Vec::new()),
            Err(message) => (Notifier::default(), vec![message]),
        };
        Ok(Origin {
            predecessor,
            activated,
            program: Program::of_this_process(),
            notifier,
            notices,
            configured: Configured::default(),
        })
    }

    /// Reports to the parent why this process does not start.
    pub fn report_failure(&self, message: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.send_failed(message);
        }
    }
}
