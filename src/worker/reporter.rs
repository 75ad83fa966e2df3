//! Reports of a worker to control: never blocking, and not for each datagram.
//!
//! In: rare events. Out: [`Report`]s in a bounded channel; when it is full a report is skipped, since the counters show
//! the same, or the next error of the same backend will. Next: `control/`.

use super::Report;
use crate::relay::RouteNode;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// The worker's end of the channel.
pub struct Reporter {
    reports: Sender<Report>,
    told_truncated: bool,
}

impl Reporter {
    /// Nothing reported yet.
    pub fn new(reports: Sender<Report>) -> Reporter {
        Reporter { reports, told_truncated: false }
    }

    /// Sends a report.
    pub fn report(&mut self, report: Report) {
        let _ = self.reports.try_send(report);
    }

    /// Reports that sends to a backend fail. If the channel is full, its next error is reported instead.
    pub fn sends_fail(&mut self, node: &RouteNode) {
        let report = Report::SendsFail { node: Arc::clone(&node.name), address: node.address };
        if self.reports.try_send(report).is_err() {
            node.counters.take_hint();
        }
    }

    /// Reports the first datagram that was too long.
    pub fn truncated(&mut self, datagram_bytes: usize) {
        if !std::mem::replace(&mut self.told_truncated, true) {
            self.report(Report::Truncated { datagram_bytes });
        }
    }
}
