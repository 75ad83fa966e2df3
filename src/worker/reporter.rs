//! What a worker says to control, without ever waiting for it, and without saying the same thing for every datagram.
//!
//! In: rare events. Out: [`Report`]s in a bounded channel; when it is full a report is left out, since the counters tell
//! the same. Next: `control/`.

use super::Report;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// The worker's end of the channel.
pub struct Reporter {
    reports: Sender<Report>,
    told_truncated: bool,
    /// Errnos of sends already told.
    told_errnos: Vec<i32>,
}

/// Different errnos of sends that are told.
const ERRNOS_MAX: usize = 32;

impl Reporter {
    /// Nothing told yet.
    pub fn new(reports: Sender<Report>) -> Reporter {
        Reporter { reports, told_truncated: false, told_errnos: Vec::with_capacity(ERRNOS_MAX) }
    }

    /// Tells control.
    pub fn tell(&mut self, report: Report) {
        let _ = self.reports.try_send(report);
    }

    /// Tells of the first datagram that was too long.
    pub fn truncated(&mut self, datagram_bytes: usize) {
        if !std::mem::replace(&mut self.told_truncated, true) {
            self.tell(Report::Truncated { datagram_bytes });
        }
    }

    /// Tells of the first send that failed with this errno.
    pub fn send_failed(&mut self, node: &Arc<str>, errno: i32) {
        if self.told_errnos.len() < ERRNOS_MAX && !self.told_errnos.contains(&errno) {
            self.told_errnos.push(errno);
            let error = std::io::Error::from_raw_os_error(errno);
            self.tell(Report::SendFailed { node: Arc::clone(node), error });
        }
    }
}
