//! Orders from control: a new route table, or the stop.
//!
//! In: the route table, read once per batch. Out: the relay rerouted between two batches; the drain, step by step:
//! fence the sockets, read their now finite queues, flush, end. Next: `step.rs`.

use super::step::{Stage, Step, Worker};
use super::{Ended, Report};
use crate::driver::kernel::Kernel;
use crate::driver::{DriverError, Wait};
use crate::relay::{Flush, Left, Phase};
use crate::stats::DropReason;
use std::sync::Arc;

/// How long the queues may take to read after the drain's time limit; metrics read then are counted and dropped.
const OVERTIME_US: u64 = 1_000_000;
/// The longest sleep while ending; nothing depends on it but how soon the next look is.
const ENDING_SLEEP_US: u64 = 10_000;
/// How long the last packets may take before the worker ends without them.
const ENDING_US_MAX: u64 = 2_000_000;

impl<K: Kernel> Worker<K> {
    /// Applies a new route table, if there is one.
    pub(super) fn follow_orders(&mut self) -> Result<(), DriverError> {
        let retry_at_us = self.sockets.retry_at_us();
        let is_known = {
            let table = self.routes.load();
            // A worker's first table may already order the stop.
            let is_followed = table.phase == Phase::Run || self.stage != Stage::Running;
            Arc::ptr_eq(table, self.relay.table()) && is_followed
        };
        let is_retry_due = retry_at_us.is_some_and(|at_us| self.driver.now_us() >= at_us);
        if is_known && !is_retry_due {
            return Ok(());
        }
        let table = Arc::clone(self.routes.load());
        let same_nodes = Arc::ptr_eq(&table.nodes, &self.relay.table().nodes);
        // What could not be made is tried again when that is due, not at each change of another backend's state.
        let is_complete =
            same_nodes && !is_retry_due && !self.sockets.lacks_one_of(&table, &self.relay.table().live);
        let has_all = || same_nodes && self.sockets.has_all(&table);
        if !is_complete && !has_all() {
            // Everything that can leave leaves by the old table; only what busy sockets hold back stays.
            self.hand_over(Flush::All)?;
            self.settle()?;
            if !self.relay.is_settled() {
                return Ok(());
            }
        }
        if !is_complete {
            self.sockets.follow(&table, &mut self.driver, &mut self.reporter);
        }
        let now_us = self.driver.now_us();
        // As of the wake-up, so that what it wants is done before anything is sent in this batch.
        self.sockets.compare(&table, self.woke_us);
        self.relay.reroute(Arc::clone(&table), self.sockets.slots(), now_us);
        if !is_complete {
            self.sockets.read_paths(&mut self.relay, &mut self.driver, &mut self.reporter);
            self.sockets.release(&table, &mut self.driver);
        }
        self.coalescing.set_flush_us(table.rules.flush_us);
        self.shared.set_generation(table.generation);
        let (timeout_us, left) = match table.phase {
            Phase::Run => return Ok(()),
            Phase::Drain { timeout_us } => (timeout_us, Left::NONE),
            Phase::Leave { timeout_us, left } => (timeout_us, left),
        };
        if self.stage == Stage::Running {
            self.start_drain(now_us.saturating_add(timeout_us), left);
        }
        Ok(())
    }

    fn start_drain(&mut self, deadline_us: u64, left: Left) {
        for listener in (0..u64::BITS as usize).filter(|listener| left.has(self.index, *listener)) {
            self.driver.leave(listener);
        }
        if let Err(error) = self.driver.fence() {
            self.reporter.report(Report::FenceFailed { error });
        }
        self.stage = Stage::Draining { deadline_us, metrics_dropped: None };
    }

    /// How to sleep while ending.
    pub(super) fn stage_wait(&mut self, now_us: u64) -> Option<Wait> {
        match self.stage {
            Stage::Running => None,
            Stage::Draining { deadline_us, .. } => Some(match self.relay.next_deadline_us() {
                Some(due_us) if due_us > now_us && self.driver.is_drained() => {
                    Wait::EventUntil { deadline_us: due_us.min(deadline_us.max(now_us)) }
                }
                _ => Wait::Poll,
            }),
            Stage::Ending { .. } => Some(Wait::EventUntil { deadline_us: now_us + ENDING_SLEEP_US }),
        }
    }

    /// After a batch: advances the drain.
    pub(super) fn advance_stage(&mut self) -> Step {
        let now_us = self.driver.now_us();
        match self.stage {
            Stage::Running => Step::Running,
            Stage::Draining { deadline_us, metrics_dropped } => {
                self.drain(now_us, deadline_us, metrics_dropped);
                Step::Running
            }
            Stage::Ending { deadline_us, metrics_dropped } => {
                let overdue = now_us >= deadline_us;
                if !(overdue || (self.driver.is_idle() && self.relay.is_empty())) {
                    return Step::Running;
                }
                let late = if self.relay.is_settled() { self.drop_rest(now_us) } else { 0 };
                Step::Ended(match metrics_dropped.map_or(late, |dropped| dropped + late) {
                    0 if metrics_dropped.is_none() => Ended::Drained,
                    metrics_dropped => Ended::CutShort { metrics_dropped },
                })
            }
        }
    }

    fn drain(&mut self, now_us: u64, deadline_us: u64, mut metrics_dropped: Option<u64>) {
        if now_us >= deadline_us
            && self.relay.is_settled()
            && !(self.relay.is_empty() && self.driver.is_drained())
        {
            metrics_dropped = Some(metrics_dropped.unwrap_or(0) + self.drop_rest(now_us));
        }
        let done = self.driver.is_drained() && self.relay.is_empty() && self.relay.is_settled();
        if done || now_us >= deadline_us.saturating_add(OVERTIME_US) {
            self.driver.end();
            self.stage = Stage::Ending { deadline_us: now_us + ENDING_US_MAX, metrics_dropped };
        } else {
            self.stage = Stage::Draining { deadline_us, metrics_dropped };
        }
    }

    fn drop_rest(&mut self, now_us: u64) -> u64 {
        self.relay.drop_all(DropReason::Shutdown, now_us)
    }
}
