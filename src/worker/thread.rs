//! The thread around a worker: it builds the ring inside, since a ring belongs to the thread that made it.
//!
//! In: sockets and links from control. Out: a [`Report::Ended`], whatever happens. Next: `step.rs`.

use super::limits::Limits;
use super::step::{Step, Worker, WorkerLinks};
use super::{Ended, Report};
use crate::driver::{DriverError, Waker, uring};
use crate::relay::RouteTable;
use crate::stats::WorkerShared;
use arc_swap::ArcSwap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use tokio::sync::mpsc::Sender;

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
    pub reports: Sender<Report>,
    /// Its bounds.
    pub limits: Limits,
}

/// Starts a worker's thread. How it ended comes as [`Report::Ended`], also after a panic.
pub fn spawn(setup: WorkerSetup) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        let mut last_words =
            LastWords { reports: setup.reports.clone(), worker: setup.index, end: Some(Ok(Ended::Panicked)) };
        last_words.end = Some(run(setup));
    })
}

fn run(setup: WorkerSetup) -> Result<Ended, DriverError> {
    let WorkerSetup { index, listeners, routes, shared, waker, reports, limits } = setup;
    let driver = uring::open(listeners, waker, &limits.driver())?;
    let mut worker = Worker::new(driver, WorkerLinks { index, routes, shared, reports, limits });
    loop {
        if let Step::Ended(end) = worker.step()? {
            return Ok(end);
        }
    }
}

/// Tells control how the thread ended when it is dropped, which a panic does too.
struct LastWords {
    reports: Sender<Report>,
    worker: usize,
    end: Option<Result<Ended, DriverError>>,
}

impl Drop for LastWords {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // The thread is at its end, so it may wait for room in the channel; a receiver that is gone needs no report.
            let _ = self.reports.blocking_send(Report::Ended { worker: self.worker, end });
        }
    }
}
