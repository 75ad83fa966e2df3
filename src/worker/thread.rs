//! The thread of a worker: it creates the driver itself, since a ring belongs to the thread that created it.
//!
//! In: sockets and links from control. Out: always a [`Report::Ended`]. Next: `step.rs`.

use super::limits::Limits;
use super::step::{Step, Worker, WorkerLinks};
use super::{Ended, Report};
use crate::driver::kernel::Kernel;
use crate::driver::{Driver, DriverError, DriverLimits, Engine, Waker, portable, uring};
use crate::failpoint::panic_on;
use crate::relay::RouteTable;
use crate::stats::{Counter, WorkerShared};
use arc_swap::ArcSwap;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use std::net::UdpSocket;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use tokio::sync::mpsc::Sender;

/// Everything a worker is created with.
pub struct WorkerSetup {
    /// Which worker, from 0.
    pub index: usize,
    /// Its listening sockets, one per address.
    pub listeners: Vec<UdpSocket>,
    /// The desired state, read once per batch.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// Where it publishes its counters.
    pub shared: Arc<WorkerShared>,
    /// Wakes it.
    pub waker: Arc<Waker>,
    /// Where it reports to.
    pub reports: Sender<Report>,
    /// Its bounds.
    pub limits: Limits,
    /// Its I/O engine.
    pub engine: Engine,
    /// Locked memory that all rings of this process need.
    pub rings_bytes: usize,
    /// The CPU to pin it to; `None` = not pinned.
    pub cpu: Option<usize>,
    /// Whether the sockets were inherited from another process.
    pub has_inherited: bool,
}

/// Starts a worker's thread. Its end is reported as [`Report::Ended`], also after a panic.
pub fn spawn(setup: WorkerSetup) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(format!("worker-{}", setup.index)).spawn(move || {
        let mut last_words =
            ExitGuard { reports: setup.reports.clone(), worker: setup.index, end: Some(Ok(Ended::Panicked)) };
        last_words.end = Some(run(setup));
    })
}

fn run(setup: WorkerSetup) -> Result<Ended, DriverError> {
    let WorkerSetup {
        index,
        listeners,
        routes,
        shared,
        waker,
        reports,
        limits,
        engine,
        rings_bytes,
        cpu,
        has_inherited,
    } = setup;
    shared.set_thread(nix::unistd::gettid().as_raw());
    // Before the driver, whose memory is then allocated near that CPU.
    if let Some(cpu) = cpu
        && let Err(error) = keep_to(cpu)
    {
        let error = error.into();
        let _ = reports.try_send(Report::PinFailed { worker: index, cpu, error });
    }
    let bounds = DriverLimits { rings_bytes, ..limits.driver() };
    let links = WorkerLinks { index, routes, shared, reports, limits };
    match engine {
        Engine::IoUring => work(uring::open(listeners, waker, &bounds)?, links, has_inherited),
        Engine::Portable => work(portable::open(listeners, waker, &bounds)?, links, has_inherited),
    }
}

/// Runs a worker on its driver until its end.
fn work(driver: Driver<impl Kernel>, links: WorkerLinks, has_inherited: bool) -> Result<Ended, DriverError> {
    let mut worker = Worker::new(driver, links);
    if has_inherited {
        worker.forget_drops();
    }
    loop {
        if let Step::Ended(end) = worker.step()? {
            return Ok(end);
        }
        if worker.relay().counters().get(Counter::DatagramsReceived) > 0 {
            panic_on("worker");
        }
    }
}

/// Pins this thread to one CPU.
fn keep_to(cpu: usize) -> nix::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus)
}

/// Reports to control how the thread ended when it is dropped, also by a panic.
struct ExitGuard {
    reports: Sender<Report>,
    worker: usize,
    end: Option<Result<Ended, DriverError>>,
}

impl Drop for ExitGuard {
    fn drop(&mut self) {
        if let Some(end) = self.end.take() {
            // The thread is ending, so it may wait for room in the channel; a closed channel needs no report.
            let _ = self.reports.blocking_send(Report::Ended { worker: self.worker, end });
        }
    }
}
