//! The loop that carries metrics from the driver to the relay and back: the only place where the two meet.
//!
//! In: datagrams and outcomes from the driver, the route table from control. Out: packets to the driver, snapshots to
//! `stats/`, reports to control. Next: `relay/`.

mod limits;

pub use limits::{BACKLOG_BYTES_MAX, DATAGRAM_BYTES_LIMIT, Limits, MemoryBound, NODES_MAX};

use crate::driver::{DriverError, Facts, Waker};
use crate::relay::RouteTable;
use crate::stats::WorkerShared;
use arc_swap::ArcSwap;
use std::net::UdpSocket;
use std::sync::Arc;

/// Everything a worker is born with.
pub struct WorkerSetup {
    /// Which worker, from 0.
    pub index: usize,
    /// Its listening sockets, one per address.
    pub listeners: Vec<UdpSocket>,
    /// The desired state, read once per batch.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// Where it publishes.
    pub shared: Arc<WorkerShared>,
    /// Wakes it.
    pub waker: Arc<Waker>,
    /// Where it reports to.
    pub reports: tokio::sync::mpsc::Sender<Report>,
    /// Its bounds.
    pub limits: Limits,
}

/// What a worker tells control; rare, never per datagram.
#[derive(Debug)]
pub enum Report {
    /// Every receive is armed.
    Ready {
        /// Which worker.
        worker: usize,
        /// What it was granted.
        facts: Facts,
    },
    /// A backend refused: check it early. Sent once until control takes the hint (`NodeCounters::take_hint`).
    Refused {
        /// The backend's identity.
        node: Arc<str>,
    },
    /// A backend's socket could not be made; its metrics are dropped as `send_failed`.
    SocketFailed {
        /// The backend's identity.
        node: Arc<str>,
        /// Why.
        error: std::io::Error,
    },
    /// The worker's thread ended.
    Ended {
        /// Which worker.
        worker: usize,
        /// How.
        end: Result<Ended, DriverError>,
    },
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything queued before the fence was relayed.
    Drained,
    /// The time ran out: so many metrics were dropped, as `shutdown`.
    CutShort {
        /// Metrics dropped.
        metrics_dropped: u64,
    },
    /// The thread panicked; the message went to the log.
    Panicked,
}

/// Starts a worker's thread, which builds its ring itself (a ring belongs to the thread that made it).
/// How it ended comes as [`Report::Ended`], also after a panic.
pub fn spawn(_setup: WorkerSetup) -> std::io::Result<std::thread::JoinHandle<()>> {
    Err(std::io::Error::other("the worker is being written"))
}
