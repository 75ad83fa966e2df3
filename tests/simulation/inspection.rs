//! Invariants of a worker on a fake kernel, checked after every step.

use crate::oracle;
use statsring::driver::sim::{SimHandle, SimKernel};
use statsring::stats::{Counter, WorkerShared};
use statsring::worker::Worker;

/// Checks one worker, step by step.
#[derive(Default)]
pub struct Inspection {
    /// Lines in the first datagrams received, truncated ones included, and the number of these datagrams.
    lines_read: (u64, u64),
}

impl Inspection {
    /// After a step.
    pub fn step(
        &mut self,
        worker: &Worker<SimKernel>,
        handle: &SimHandle,
        shared: &WorkerShared,
    ) -> Result<(), String> {
        if handle.has_violations() {
            return Err(handle.violations().join("; "));
        }
        Inspection::generation(worker, shared)?;
        self.counters(worker, handle, shared)
    }

    /// At any time: what the worker reports as in force, it applies.
    pub fn generation(worker: &Worker<SimKernel>, shared: &WorkerShared) -> Result<(), String> {
        let (reported, applied) = (shared.generation(), worker.relay().table().generation);
        if reported > applied {
            return Err(format!(
                "table {reported} is reported as in force, the worker applies table {applied}"
            ));
        }
        Ok(())
    }

    fn counters(
        &mut self,
        worker: &Worker<SimKernel>,
        handle: &SimHandle,
        shared: &WorkerShared,
    ) -> Result<(), String> {
        let counters = worker.relay().counters();
        if counters.imbalance() != 0 {
            return Err(format!("the counters are off by {}", counters.imbalance()));
        }
        let (pending, counted) = (worker.relay().count_pending(), counters.get(Counter::MetricsPending));
        if pending != counted {
            return Err(format!("metrics_pending: {counted}, expected {pending}"));
        }
        if shared.published.read() != *counters {
            return Err("the published snapshot differs from the worker's counters".into());
        }
        let delivered = counters.get(Counter::DatagramsReceived);
        let (lines, read) = &mut self.lines_read;
        handle.with_received(|received| {
            for datagram in received.iter().take(delivered as usize).skip(*read as usize) {
                let reading = oracle::read(datagram);
                *lines += reading.lines.len() as u64 + u64::from(reading.has_truncated_line);
                *read += 1;
            }
        });
        let counted = counters.get(Counter::MetricsReceived);
        if *lines == counted { Ok(()) } else { Err(format!("metrics_received: {counted}, expected {lines}")) }
    }

    /// After the last step.
    pub fn end(&self, worker: &Worker<SimKernel>) -> Result<(), String> {
        if worker.driver().is_idle() { Ok(()) } else { Err("the driver is not idle at the end".into()) }
    }
}
