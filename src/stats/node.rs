//! One backend's figures, added up over all workers.
//!
//! In: the relay adds once per packet. Out: `backends` on the admin port, and hints for the health checks.
//! Next: `admin/`, `control/health.rs`.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// A backend's figures; they live as long as its identity stands in the config.
#[derive(Debug, Default)]
pub struct NodeCounters {
    /// Metrics accepted by this kernel for this backend.
    pub metrics_sent: AtomicU64,
    /// Packets accepted by this kernel.
    pub datagrams_sent: AtomicU64,
    /// Their payload bytes.
    pub bytes_sent: AtomicU64,
    /// Metrics dropped that were for this backend.
    pub metrics_dropped: AtomicU64,
    /// Sends that reported a refusal of an earlier datagram, or an unreachable host.
    pub refused: AtomicU64,
    /// Of the packets accepted, those that went with others in one send (UDP_SEGMENT).
    pub datagrams_in_trains: AtomicU64,
    /// Trains that were refused; their packets went one by one.
    pub trains_refused: AtomicU64,
    /// Why the last one was; 0 while trains are not refused.
    pub trains_errno: AtomicI32,
    /// Times a worker replaced its socket to it by a new one.
    pub sockets_reopened: AtomicU64,
    /// The largest packet that metrics for it are gathered into, in bytes; 0 until a worker knows.
    pub packet_bytes_max: AtomicUsize,
    /// Refusals in a row: back to 0 by `control/` when it has seen none for a whole check interval.
    pub refused_in_a_row: AtomicU64,
    /// Set by a worker at a refusal, taken by the health checks: one hint at a time.
    hinted: AtomicBool,
}

impl NodeCounters {
    /// Counts an accepted packet, and whether it went in a train.
    pub fn sent(&self, metrics: u32, bytes: usize, in_train: bool) {
        self.metrics_sent.fetch_add(u64::from(metrics), Ordering::Relaxed);
        self.datagrams_sent.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if in_train {
            self.datagrams_in_trains.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a refused train.
    pub fn train_refused(&self, errno: i32) {
        self.trains_refused.fetch_add(1, Ordering::Relaxed);
        self.trains_errno.store(errno, Ordering::Relaxed);
    }

    /// Counts dropped metrics.
    pub fn dropped(&self, metrics: u64) {
        self.metrics_dropped.fetch_add(metrics, Ordering::Relaxed);
    }

    /// Counts a refusal; true if the health checks should be told, which they are once until they take the hint.
    pub fn refused(&self) -> bool {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.refused_in_a_row.fetch_add(1, Ordering::Relaxed);
        !self.hinted.swap(true, Ordering::AcqRel)
    }

    /// Takes the hint: whether there was a refusal since the last call.
    pub fn take_hint(&self) -> bool {
        self.hinted.swap(false, Ordering::AcqRel)
    }
}
