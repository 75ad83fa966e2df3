//! What holds for a worker on a fake kernel after every step, whatever happens around it.

use crate::oracle;
use statsring::driver::sim::{SimHandle, SimKernel};
use statsring::stats::{Counter, WorkerShared};
use statsring::worker::Worker;

/// Looks at one worker, step by step.
#[derive(Default)]
pub struct Inspection {
    /// Lines in the first datagrams received, cut ones included, and how many datagrams those are.
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
        let (told, followed) = (shared.generation(), worker.relay().table().generation);
        if told > followed {
            return Err(format!("table {told} is told to be in force, table {followed} is"));
        }
        self.account(worker, handle, shared)
    }

    fn account(
        &mut self,
        worker: &Worker<SimKernel>,
        handle: &SimHandle,
        shared: &WorkerShared,
    ) -> Result<(), String> {
        let counters = worker.relay().counters();
        if counters.imbalance() != 0 {
            return Err(format!("the account is off by {}", counters.imbalance()));
        }
        let (lain, counted) = (worker.relay().count_pending(), counters.get(Counter::MetricsPending));
        if lain != counted {
            return Err(format!("{lain} metrics lie pending, {counted} are counted"));
        }
        if shared.published.read() != *counters {
            return Err("the published snapshot is not the step's account".into());
        }
        let delivered = counters.get(Counter::DatagramsReceived);
        let (lines, read) = &mut self.lines_read;
        handle.with_received(|received| {
            for datagram in received.iter().take(delivered as usize).skip(*read as usize) {
                let reading = oracle::read(datagram);
                *lines += reading.lines.len() as u64 + u64::from(reading.has_cut_line);
                *read += 1;
            }
        });
        let counted = counters.get(Counter::MetricsReceived);
        if *lines == counted { Ok(()) } else { Err(format!("{lines} lines delivered, {counted} counted")) }
    }

    /// After the last step.
    pub fn end(&self, worker: &Worker<SimKernel>) -> Result<(), String> {
        if worker.driver().is_idle() { Ok(()) } else { Err("something is still in flight at the end".into()) }
    }
}
