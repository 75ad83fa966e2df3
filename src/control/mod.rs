//! The control thread: desired state, health, probes, reload, signals, shutdown.
//!
//! In: a proven config, signals, the operator's commands, the workers' reports. Out: route tables to the workers, an
//! exit code in the end. No data goes through here, and nothing here can hold the data path up.
//!
//! ```text
//! start.rs     sockets, engine, workers → ready                    failure.rs (why not)
//! process.rs   events → exit code                                  signals.rs, stop.rs, systemd.rs
//!   engine.rs    io_uring, or what does without it
//!   sockets.rs   everything that listens, wherever it comes from   bind.rs, activation.rs, descriptors.rs
//!   restart.rs   a new process takes over, or this one did         handover/
//!   watch.rs     one backend's checks and look-ups                 rounds.rs, health.rs, check.rs, backend.rs
//!   locate.rs    where the backends are                            resolve.rs, addresses.rs, own.rs
//!   operator.rs  the admin port's connections and actions          doors.rs, accept.rs, observe.rs, reload.rs, config_reads.rs
//!   state.rs     what is known, and its way to the workers         roster.rs, table.rs
//!   net.rs       TCP on either engine; nothing else knows it       offload.rs (work that may block), lateness.rs (stalls), liveness.rs
//! ```
//!
//! Next: `admin/`.

mod accept;
mod activation;
pub mod addresses;
pub mod backend;
mod bind;
mod config_reads;
mod check;
mod descriptors;
mod doors;
mod engine;
mod failure;
mod handle;
pub mod handover;
pub mod health;
mod lateness;
mod liveness;
mod locate;
mod net;
mod observe;
mod offload;
mod operator;
mod own;
pub mod probe;
mod process;
pub mod config_diff;
mod reload;
mod serve;
mod resolve;
mod restart;
pub mod roster;
pub mod rounds;
mod send_error_log;
mod shortage;
mod signals;
mod sockets;
mod source;
mod spares;
mod start;
mod state;
mod stop;
mod systemd;
pub mod table;
mod watch;

pub use failure::Failure;
pub use handle::ProxyHandle;
pub use health::{Cause, Health, Outcome, Transition};
pub use own::own_nodes;
pub use start::{run, run_with};

use crate::config::Configured;
use activation::Activated;
use handover::predecessor::Predecessor;
use handover::program::Program;
use std::path::PathBuf;
use systemd::Notifier;

/// What the control thread is told beside the config.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that a reload reads again; `None` if the config did not come from one.
    pub config_path: Option<PathBuf>,
    /// That file as the admin command `config` of `proxy.js` shows it.
    pub listing: String,
    /// Whether each metric is logged.
    pub debug: bool,
}

/// Where this process comes from: how it was started, and who gave it what.
#[derive(Default)]
pub struct Origin {
    predecessor: Option<Predecessor>,
    activated: Option<Activated>,
    program: Option<Program>,
    notifier: Notifier,
    /// What the operator should know about it.
    notices: Vec<String>,
    /// Which addresses the config file sets; set before the start.
    pub configured: Configured,
}

impl Origin {
    /// Of a process that is nothing but the proxy. To be called once, before it opens anything that stays open and before
    /// there are other threads.
    pub fn of_this_process() -> Result<Origin, Failure> {
        let usage = |words| Failure { words, code: crate::exit::USAGE };
        let predecessor = Predecessor::meet().map_err(usage)?;
        // An old process gives what it was given.
        let activated = if predecessor.is_some() { None } else { activation::take()? };
        let (notifier, notices) = match Notifier::from_environment() {
            Ok(notifier) => (notifier, Vec::new()),
            Err(words) => (Notifier::default(), vec![words]),
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

    /// Tells who started this process why it does not start.
    pub fn refuse(&self, words: &str) {
        if let Some(predecessor) = &self.predecessor {
            predecessor.say_failed(words);
        }
    }
}
