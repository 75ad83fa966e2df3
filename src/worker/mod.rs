//! The loop that carries metrics from the driver to the relay and back: the only place where the two meet.
//!
//! In: datagrams and outcomes from the driver, the route table from control. Out: packets to the driver, snapshots to
//! `stats/`, reports to control. `step.rs` is one batch, `coalesce.rs` computes how long to sleep, `answers.rs` when to poll for
//! ICMP errors, `paths.rs` follows the paths' MTUs, `orders.rs` follows control, `thread.rs` is the thread around it. Next:
//! `relay/`.

mod answers;
mod coalesce;
mod limits;
mod orders;
mod paths;
mod reopen;
mod reporter;
#[cfg(test)]
mod sim_tests;
mod sockets;
mod step;
mod thread;

pub use coalesce::Coalescing;
pub use limits::{BACKLOG_BYTES_MAX, DATAGRAM_BYTES_LIMIT, Limits, NODES_MAX};
pub use reopen::ReopenReason;
pub use step::{Step, Worker, WorkerLinks};
pub use thread::{WorkerSetup, spawn};

use crate::driver::{DriverError, DriverInfo};
use std::net::SocketAddr;
use std::sync::Arc;

/// Reports of a worker to control; rare, never per datagram.
#[derive(Debug)]
pub enum Report {
    /// Every receive is armed.
    Ready {
        /// Which worker.
        worker: usize,
        /// Resources granted to it.
        info: DriverInfo,
    },
    /// Sends to a backend fail, or ICMP errors report undelivered packets: the backend's counters have the kind.
    /// Sent once until control takes the hint (`NodeCounters::take_hint`).
    SendsFail {
        /// The backend's identity.
        node: Arc<str>,
        /// Its address in the worker's route table.
        address: Option<SocketAddr>,
    },
    /// A backend's socket could not be created; its metrics are dropped as `send_failed` until a retry succeeds. Reported once
    /// for each errno.
    SocketFailed {
        /// The backend's identity.
        node: Arc<str>,
        /// Why.
        error: std::io::Error,
    },
    /// A backend's socket was created after failures.
    SocketMade {
        /// The backend's identity.
        node: Arc<str>,
    },
    /// A backend's socket was replaced by a new one.
    SocketReopened {
        /// The backend's identity.
        node: Arc<str>,
        /// Why.
        reason: ReopenReason,
    },
    /// A backend's socket could not be replaced: the old one stays until a retry succeeds.
    /// Reported once for each errno.
    ReopenFailed {
        /// The backend's identity.
        node: Arc<str>,
        /// Reason for the replacement.
        reason: ReopenReason,
        /// The error.
        error: std::io::Error,
    },
    /// Batches (UDP_SEGMENT) to a backend are refused; its packets are sent one by one until the next try. Reported once for
    /// each socket.
    GsoRefused {
        /// The backend's identity.
        node: Arc<str>,
        /// The kernel's error.
        error: std::io::Error,
        /// When they are tried again, in seconds from now.
        retry_s: u64,
    },
    /// Packets to a backend exceed its path MTU, and are sent in IP fragments from now on.
    FragmentationBegan {
        /// The backend's identity.
        node: Arc<str>,
    },
    /// Packets to a backend fit its path again.
    FragmentationEnded {
        /// The backend's identity.
        node: Arc<str>,
    },
    /// With `maxPacketSize` `auto`: the MTU of the path to a backend changed, and so the largest packet for it.
    PacketsResized {
        /// The backend's identity.
        node: Arc<str>,
        /// The largest packet from now on.
        packet_bytes: usize,
    },
    /// A datagram was longer than `maxDatagramSize`; reported once.
    Truncated {
        /// Its true length.
        datagram_bytes: usize,
    },
    /// The worker could not be pinned to its CPU; it runs unpinned.
    PinFailed {
        /// Which worker.
        worker: usize,
        /// The CPU.
        cpu: usize,
        /// The kernel's error.
        error: std::io::Error,
    },
    /// The listening sockets could not be fenced at the stop: new datagrams may still arrive while it drains.
    FenceFailed {
        /// The kernel's error.
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
    /// The time limit passed: this many metrics were dropped, as `shutdown`.
    CutShort {
        /// Metrics dropped.
        metrics_dropped: u64,
    },
    /// The thread panicked; the message went to the log.
    Panicked,
}
