//! The life of the process: start, ready, events, stop.
//!
//! In: a config. Out: a running proxy, then an exit code (`exit.rs`). Next: `state.rs` knows, `watch.rs` and
//! `operator.rs` work; the stop is `stop.rs`.

use super::bind::bind_admin;
use super::handle::ProxyHandle;
use super::net::{self, Listener};
use super::observe::{DebugLog, write_debug_log};
use super::operator::{Open, Operator, accept};
use super::signals::{self, Signal, Signals};
use super::state::{Control, Parts, Seat};
use super::table::{self, Publisher};
use super::{Options, stop, watch};
use crate::config::Config;
use crate::driver::{DriverError, Waker, socket};
use crate::exit;
use crate::relay::Phase;
use crate::stats::WorkerShared;
use crate::worker::{self, Ended, Limits, MemoryBound, Report, WorkerSetup};
use arc_swap::ArcSwap;
use std::cell::RefCell;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// How long the workers may take to arm their receives.
const READY: Duration = Duration::from_secs(30);
/// Room for the workers' reports beside one for each backend and worker.
const REPORTS: usize = 256;

/// Runs the proxy until it is stopped; the exit code.
///
/// When it returns the process is to end: what a client of the admin port keeps open may still be held.
pub fn run(config: Config, options: Options) -> u8 {
    run_with(config, options, |_| ())
}

/// Like [`run`], and calls `started` once, when the proxy is ready; never if the start fails.
///
/// Blocks this thread. SIGHUP, SIGTERM and SIGINT are handled from then on, for the whole process.
pub fn run_with(config: Config, options: Options, started: impl FnOnce(ProxyHandle)) -> u8 {
    match start(&config) {
        Ok(parts) => parts.run(config, options, started),
        Err(failure) => failure.tell(),
    }
}

/// Why the process ends before its time: for the log, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What the operator is told.
    pub words: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// Something the system refused.
    pub fn system(what: &str, error: impl std::fmt::Display) -> Failure {
        Failure { words: format!("{what}: {error}"), code: exit::SYSTEM }
    }

    /// What ended a worker.
    pub fn of_worker(index: usize, end: &Result<Ended, DriverError>) -> Failure {
        match end {
            Err(DriverError::Refused(words)) => Failure { words: words.clone(), code: exit::NO_ENGINE },
            Err(error) => Failure { words: format!("worker {index}: {error}"), code: exit::SYSTEM },
            Ok(end) => Failure {
                words: format!("worker {index} ended unasked ({end:?}): this is a mistake in the program"),
                code: exit::INTERNAL,
            },
        }
    }

    /// Logs it; the exit code.
    pub fn tell(&self) -> u8 {
        tracing::error!("{}", self.words);
        self.code
    }
}

/// What is there before the control thread's runtime: sockets, and workers under way.
struct Started {
    publisher: Publisher,
    workers: Vec<Arc<WorkerShared>>,
    threads: Vec<JoinHandle<()>>,
    reports: mpsc::Receiver<Report>,
    listen: Vec<SocketAddr>,
    admin: Vec<TcpListener>,
    management: Vec<SocketAddr>,
    limits: Limits,
    degraded: Vec<String>,
}

/// Binds the sockets and starts the workers; they begin to arm their receives at once, on an empty route table.
fn start(config: &Config) -> Result<Started, Failure> {
    signals::block().map_err(|error| Failure::system("signals cannot be blocked", error))?;
    let bind_failure = |error: &dyn std::fmt::Display| Failure { words: error.to_string(), code: exit::SYSTEM };
    let listeners = socket::bind_listeners(&config.listen, config.workers, config.receive_buffer_bytes)
        .map_err(|error| bind_failure(&error))?;
    let admin = bind_admin(&config.management).map_err(|error| bind_failure(&error))?;
    let management: io::Result<Vec<SocketAddr>> = admin.iter().map(TcpListener::local_addr).collect();
    let skipped = |(address, error): &(SocketAddr, io::Error)| format!("{address} is left out: {error}");
    // Until the first table is published, what arrives waits in the sockets: no backend would be a drop.
    let nothing = table::build(0, config, [], Phase::Run, None);
    let mut started = Started {
        publisher: Publisher { routes: Arc::new(ArcSwap::from_pointee(nothing)), wakers: Vec::new() },
        workers: Vec::new(),
        threads: Vec::new(),
        reports: mpsc::channel(1).1,
        listen: listeners.addresses,
        admin,
        management: management.map_err(|error| Failure::system("admin port", error))?,
        limits: Limits::new(config),
        degraded: listeners.skipped.iter().map(skipped).collect(),
    };
    started.spawn_workers(config, listeners.workers)?;
    Ok(started)
}
