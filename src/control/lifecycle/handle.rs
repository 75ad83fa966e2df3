//! A running proxy, seen from other threads of the same process: the demo and the tests.
//!
//! In: made by `process.rs` when the proxy is ready. Out: figures to read, and a way to stop it. Next: `tools/`.

use crate::control::backends::table::Publisher;
use crate::relay::RouteTable;
use crate::stats::{Counters, Latency, WorkerShared};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a worker may take to hand its histograms over.
pub(in crate::control) const LATENCY_WAIT: Duration = Duration::from_millis(100);

/// A running proxy. Cheap to clone.
#[derive(Clone)]
pub struct ProxyHandle {
    pub(in crate::control) workers: Arc<[Arc<WorkerShared>]>,
    pub(in crate::control) publisher: Publisher,
    pub(in crate::control) listen: Arc<[SocketAddr]>,
    pub(in crate::control) management: Arc<[SocketAddr]>,
    pub(in crate::control) latency: Arc<Mutex<Latency>>,
    pub(in crate::control) stopping: Arc<AtomicBool>,
    pub(in crate::control) stop: Arc<Notify>,
}

impl ProxyHandle {
    /// What each worker publishes, by index.
    pub fn workers(&self) -> &[Arc<WorkerShared>] {
        &self.workers
    }

    /// The route table in force: the backends with their figures, and who of them lives.
    pub fn routes(&self) -> Arc<RouteTable> {
        self.publisher.routes.load_full()
    }

    /// The listening addresses, with the actual ports in place of 0.
    pub fn listen(&self) -> &[SocketAddr] {
        &self.listen
    }

    /// Where the admin port listens, likewise.
    pub fn management(&self) -> &[SocketAddr] {
        &self.management
    }

    /// The counters of all workers together, each a consistent snapshot.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::new();
        for worker in self.workers.iter() {
            sum.merge(&worker.published.read());
        }
        sum
    }

    /// Adds what the workers measured since it was last taken, here or by the admin port, to `recent` and to what the
    /// admin port shows. Waits up to 100 ms for them.
    pub fn collect_latency(&self, recent: &mut Latency) {
        for worker in self.workers.iter() {
            worker.latency.request();
        }
        self.publisher.wake();
        let deadline = Instant::now() + LATENCY_WAIT;
        while !self.workers.iter().all(|worker| worker.latency.is_done()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut taken = Latency::new();
        for worker in self.workers.iter() {
            worker.latency.collect(&mut taken);
        }
        recent.merge(&taken);
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).merge(&taken);
    }

    /// Everything measured since the start, as far as it was taken from the workers.
    pub fn latency(&self) -> Latency {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is about to end: by a signal, by [`ProxyHandle::stop`], or because a worker failed. For `shutdownDelay` it goes
    /// on as before.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Stops it as SIGTERM does. Repeating it does nothing.
    pub fn stop(&self) {
        self.stop.notify_one();
    }
}
