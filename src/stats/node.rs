//! One backend's figures, added up over all workers.
//!
//! In: the relay adds once per packet. Out: `backends` on the admin port, and hints for the health checks and the log.
//! Next: `admin/`, `control/backends/check_schedule.rs`.

use crate::packet::{SendError, SendErrorCounts};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};

/// A backend's figures; they live as long as its identity is in the config.
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
    /// Sends that reported a refusal of an earlier datagram (ECONNREFUSED).
    pub refused: AtomicU64,
    /// Sends that reported its host as unreachable.
    pub unreachable: AtomicU64,
    /// Of the packets accepted, those that were batched (UDP_SEGMENT).
    pub datagrams_gso: AtomicU64,
    /// Batches that were refused; their packets were sent one by one.
    pub gso_refused: AtomicU64,
    /// The errno of the last refusal; 0 while batches are not refused.
    pub gso_errno: AtomicI32,
    /// Times a worker replaced its socket to it by a new one.
    pub sockets_reopened: AtomicU64,
    /// The largest packet that metrics for it are gathered into, in bytes; 0 until a worker knows.
    pub packet_bytes_max: AtomicUsize,
    /// The largest packet that its path MTU permits, in bytes; 0 while unknown.
    pub path_payload_bytes: AtomicUsize,
    /// Of the packets accepted, those that exceed the path MTU: the kernel fragments them.
    pub packets_fragmented: AtomicU64,
    /// Whether full packets are fragmented, which was logged.
    is_fragmenting: AtomicBool,
    /// When a packet was fragmented last, µs of the workers' clock, and when one with a single long metric was; 0 = never.
    fragmented_us: AtomicU64,
    fragmented_metric_us: AtomicU64,
    /// The length of that metric.
    fragmented_metric_bytes: AtomicUsize,
    /// Errors reported by its sends and by ICMP, by kind.
    errors: [ErrorFigures; SendError::COUNT],
    /// Why a worker had no socket to it last: the number of the kind.
    socket_error: AtomicUsize,
    /// Set by a worker at an error, taken by `control/`: one hint at a time.
    hinted: AtomicBool,
}

/// Which packets to a backend exceed its path MTU. Lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragmentation {
    /// Full ones.
    Packets {
        /// The largest packet that metrics are gathered into.
        packet_bytes: usize,
        /// What the path MTU permits.
        path_bytes: usize,
    },
    /// Those of single metrics that are longer than a packet.
    LongMetric {
        /// The last one.
        metric_bytes: usize,
        /// What the path MTU permits.
        path_bytes: usize,
    },
}

/// Of one kind of error.
#[derive(Debug, Default)]
struct ErrorFigures {
    reports: AtomicU64,
    undelivered: AtomicU64,
    metrics_dropped: AtomicU64,
    without_socket: AtomicU64,
    /// The last one, where the kind does not tell it; else 0.
    errno: AtomicI32,
    /// µs of the workers' clock; 0 = never.
    last_us: AtomicU64,
}

/// One kind of error, as it has occurred so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorView {
    /// Its kind.
    pub error: SendError,
    /// The last errno, if the kind does not tell it.
    pub other_errno: Option<i32>,
    /// Failed sends, and ICMP errors that no send reported.
    pub reports: u64,
    /// Packets that were accepted and later reported as undelivered by an ICMP error.
    pub undelivered: u64,
    /// Metrics that were dropped for it.
    pub metrics_dropped: u64,
    /// Of those, the ones that were dropped because no socket could be made.
    pub without_socket: u64,
    /// When it occurred last, µs of the workers' clock.
    pub last_us: u64,
}

impl NodeCounters {
    /// Counts an accepted packet, and whether it went in a GSO batch.
    pub fn sent(&self, metrics: u32, bytes: usize, in_gso_batch: bool) {
        self.metrics_sent.fetch_add(u64::from(metrics), Ordering::Relaxed);
        self.datagrams_sent.fetch_add(1, Ordering::Relaxed);
        self.bytes_sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if in_gso_batch {
            self.datagrams_gso.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a packet of so many bytes that the kernel fragments.
    pub fn fragmented(&self, bytes: usize, metrics: u32, now_us: u64) {
        self.packets_fragmented.fetch_add(1, Ordering::Relaxed);
        self.fragmented_us.store(now_us.max(1), Ordering::Relaxed);
        if metrics == 1 && bytes > self.packet_bytes_max.load(Ordering::Relaxed) {
            self.fragmented_metric_bytes.store(bytes, Ordering::Relaxed);
            self.fragmented_metric_us.store(now_us.max(1), Ordering::Relaxed);
        }
    }

    /// Packets of `bytes` are fragmented from now on; true for the first worker that finds it, unless another one has found a
    /// larger MTU since.
    pub fn fragmentation_began(&self, bytes: usize) -> bool {
        bytes > self.path_payload_bytes.load(Ordering::Relaxed)
            && !self.is_fragmenting.swap(true, Ordering::Relaxed)
    }

    /// Packets are no longer fragmented; true for the first worker that finds it.
    pub fn fragmentation_ended(&self) -> bool {
        self.is_fragmenting.load(Ordering::Relaxed) && self.is_fragmenting.swap(false, Ordering::Relaxed)
    }

    /// Which of its packets are fragmented, if any were within `recent_us` before `now_us` of the workers' clock.
    pub fn fragmentation(&self, now_us: u64, recent_us: u64) -> Option<Fragmentation> {
        let is_recent = |at: &AtomicU64| {
            let at_us = at.load(Ordering::Relaxed);
            at_us > 0 && now_us.saturating_sub(at_us) < recent_us
        };
        let path_bytes = self.path_payload_bytes.load(Ordering::Relaxed);
        let packet_bytes = self.packet_bytes_max.load(Ordering::Relaxed);
        if self.is_fragmenting.load(Ordering::Relaxed) && is_recent(&self.fragmented_us) {
            return Some(Fragmentation::Packets { packet_bytes, path_bytes });
        }
        let metric_bytes = self.fragmented_metric_bytes.load(Ordering::Relaxed);
        (is_recent(&self.fragmented_metric_us) && metric_bytes > path_bytes)
            .then_some(Fragmentation::LongMetric { metric_bytes, path_bytes })
    }

    /// Counts a refused GSO batch.
    pub fn note_gso_refusal(&self, errno: i32) {
        self.gso_refused.fetch_add(1, Ordering::Relaxed);
        self.gso_errno.store(errno, Ordering::Relaxed);
    }

    /// Counts dropped metrics.
    pub fn dropped(&self, metrics: u64) {
        self.metrics_dropped.fetch_add(metrics, Ordering::Relaxed);
    }

    /// Counts an error of a send, or of making a socket; true if control should be told, which it is once until it takes the
    /// hint. `other_errno` is the errno where the kind does not tell it.
    pub fn failed(&self, error: SendError, other_errno: Option<i32>, now_us: u64) -> bool {
        match error {
            SendError::Refused => self.refused.fetch_add(1, Ordering::Relaxed),
            error if error.is_unreachable() => self.unreachable.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        if let (SendError::NoSocket | SendError::Other, Some(errno)) = (error, other_errno) {
            self.errors[error as usize].errno.store(errno, Ordering::Relaxed);
        }
        self.note(error, 1, now_us)
    }

    /// Counts ICMP answers to packets that were accepted earlier; true as [`NodeCounters::failed`] says.
    pub fn answered(&self, errors: &SendErrorCounts, now_us: u64) -> bool {
        // All of them are counted, also after a hint.
        errors.iter().fold(false, |is_hint, (error, count)| {
            self.errors[error as usize].undelivered.fetch_add(count, Ordering::Relaxed);
            self.note(error, count, now_us) || is_hint
        })
    }

    fn note(&self, error: SendError, count: u64, now_us: u64) -> bool {
        let figures = &self.errors[error as usize];
        figures.reports.fetch_add(count, Ordering::Relaxed);
        figures.last_us.store(now_us.max(1), Ordering::Relaxed);
        !self.hinted.swap(true, Ordering::AcqRel)
    }

    /// Counts metrics that were dropped because their send failed so.
    pub fn dropped_for(&self, error: SendError, metrics: u64) {
        self.errors[error as usize].metrics_dropped.fetch_add(metrics, Ordering::Relaxed);
    }

    /// No socket to it can be made, and so metrics will be dropped.
    pub fn socket_failed(&self, error: SendError) {
        self.socket_error.store(error as usize, Ordering::Relaxed);
    }

    /// Counts metrics that were dropped because there is no socket to it.
    pub fn dropped_without_socket(&self, metrics: u64) {
        if let Some(figures) = self.errors.get(self.socket_error.load(Ordering::Relaxed)) {
            figures.metrics_dropped.fetch_add(metrics, Ordering::Relaxed);
            figures.without_socket.fetch_add(metrics, Ordering::Relaxed);
        }
    }

    /// Takes the hint: whether there was an error since the last call.
    pub fn take_hint(&self) -> bool {
        self.hinted.swap(false, Ordering::AcqRel)
    }

    /// How often each kind of error was reported.
    pub fn error_counts(&self) -> SendErrorCounts {
        let mut counts = SendErrorCounts::default();
        for error in SendError::ALL {
            counts.set(error, self.errors[error as usize].reports.load(Ordering::Relaxed));
        }
        counts
    }

    /// The kinds of errors that have occurred, the latest first.
    pub fn errors(&self) -> Vec<ErrorView> {
        let mut views: Vec<ErrorView> =
            SendError::ALL.into_iter().filter_map(|error| self.error(error)).collect();
        views.sort_by_key(|view| std::cmp::Reverse(view.last_us));
        views
    }

    /// One kind of error, if it has occurred.
    pub fn error(&self, error: SendError) -> Option<ErrorView> {
        let figures = &self.errors[error as usize];
        let last_us = Some(figures.last_us.load(Ordering::Relaxed)).filter(|last_us| *last_us > 0)?;
        Some(ErrorView {
            error,
            other_errno: Some(figures.errno.load(Ordering::Relaxed)).filter(|errno| *errno != 0),
            reports: figures.reports.load(Ordering::Relaxed),
            undelivered: figures.undelivered.load(Ordering::Relaxed),
            metrics_dropped: figures.metrics_dropped.load(Ordering::Relaxed),
            without_socket: figures.without_socket.load(Ordering::Relaxed),
            last_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_by_kind_and_hinted_once_until_the_hint_is_taken() {
        let node = NodeCounters::default();
        assert!(node.failed(SendError::NotPermitted, None, 5));
        node.dropped_for(SendError::NotPermitted, 8);
        assert!(!node.failed(SendError::Other, Some(libc::EPROTO), 7));
        assert!(node.take_hint() && !node.take_hint());
        let mut answers = SendErrorCounts::default();
        [SendError::NoNeighbor, SendError::NoNeighbor, SendError::Refused]
            .into_iter()
            .for_each(|error| answers.add(error));
        assert!(node.answered(&answers, 9));
        let told: Vec<_> =
            node.errors().iter().map(|view| (view.last_us, view.error, view.reports)).collect();
        assert_eq!(
            told,
            [
                (9, SendError::Refused, 1),
                (9, SendError::NoNeighbor, 2),
                (7, SendError::Other, 1),
                (5, SendError::NotPermitted, 1)
            ]
        );
        assert_eq!(node.error(SendError::Other).unwrap().other_errno, Some(libc::EPROTO));
        assert_eq!(node.error(SendError::NotPermitted).unwrap().metrics_dropped, 8);
        assert_eq!(node.error(SendError::TooLong), None);
        assert_eq!(node.error_counts().get(SendError::NoNeighbor), 2);
        assert_eq!(node.error(SendError::NoNeighbor).unwrap().undelivered, 2);
        assert_eq!(node.error(SendError::Other).unwrap().undelivered, 0);
    }
}
