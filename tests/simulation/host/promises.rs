//! Invariants of all proxies of a host together: every bound socket is read at any time, no datagram is lost between two
//! processes, a restart moves no name, and health checks reach the right result.

use super::plan::{Plan, node_number};
use super::process::Process;
use super::world::World;
use statsring::config::Node;
use statsring::control::backends::backend::Backend;
use std::collections::HashMap;
use std::sync::Arc;

/// The status of a backend when an old process hands over.
#[derive(Clone, Debug)]
pub struct BackendStatus {
    node: Node,
    live: bool,
    diverted: bool,
}

impl World<'_> {
    /// Records the status of the old process's backends when it sends "go".
    pub fn record_statuses(&mut self, old: usize, new: usize) {
        let statuses: HashMap<Arc<str>, BackendStatus> = self.processes[old]
            .backend_set
            .backends()
            .iter()
            .map(|backend| {
                let status = backend.standing();
                let (live, diverted) = (status.is_live(), status.is_diverted());
                (backend.name.clone(), BackendStatus { node: backend.node().clone(), live, diverted })
            })
            .collect();
        self.statuses.insert(new, statuses);
    }

    /// Every backend whose config entry is unchanged keeps its status, so that no name moves unless the config moves it.
    pub fn check_statuses(&mut self, new: usize) -> Result<(), String> {
        let Some(statuses) = self.statuses.remove(&new) else { return Ok(()) };
        let table = self.processes[new].table();
        for (index, backend) in self.processes[new].backend_set.backends().iter().enumerate() {
            let Some(before) = statuses.get(&backend.name).filter(|before| before.node == *backend.node())
            else {
                continue;
            };
            let now = (table.live.contains(index), table.diverted.contains(index));
            if now != (before.live, before.diverted) {
                return Err(format!(
                    "process {new}: {} (live, diverted): expected {:?}, found {now:?}",
                    backend.name,
                    (before.live, before.diverted)
                ));
            }
        }
        Ok(())
    }

    /// The config that a new process has read is the last one that was accepted: the restart does not undo a reload of the old
    /// process.
    pub fn check_config(&self, old: usize, new: usize) -> Result<(), String> {
        let (old, new) = (&self.processes[old], &self.processes[new]);
        let is_read_before = old.reloaded_us.is_some_and(|at_us| at_us > new.born_us());
        if is_read_before && *old.backend_set.config() != *new.backend_set.config() {
            return Err(format!(
                "process {} takes over with a config that a reload has replaced",
                new.number
            ));
        }
        Ok(())
    }

    /// While any process is up, every socket that can receive datagrams is read by a worker.
    pub fn check_reception(&self) -> Result<(), String> {
        let is_up = |process: &&Process| {
            process.is_alive() && !process.phase.is_draining() && process.are_all_ready()
        };
        if !self.processes.iter().any(|process| is_up(&process)) {
            return Ok(());
        }
        let mut sockets: Vec<usize> = self
            .processes
            .iter()
            .filter(|process| process.is_alive())
            .flat_map(|process| &process.workers)
            .flat_map(|entry| entry.sockets.iter().copied())
            .collect();
        sockets.sort_unstable();
        sockets.dedup();
        for socket in sockets {
            let is_read = || self.processes.iter().any(|process| process.reads(socket));
            if self.network.takes_new(socket) && !is_read() {
                return Err(format!("socket {socket} receives datagrams, but no worker reads it"));
            }
        }
        Ok(())
    }

    /// Checks that had enough time have found out which backends are up; refusals count before them.
    pub fn check_health(&self, number: usize) -> Result<(), String> {
        if let Some(backend) = self.processes.iter().find_map(|process| process.down_by_shortage.as_ref()) {
            return Err(format!("{backend} went down because of checks that were not made"));
        }
        let process = &self.processes[number];
        let Some(watching_us) = process.watching_us else { return Ok(()) };
        let check = process.backend_set.config().check;
        let results = u64::from(check.fall.max(check.rise)) + 1;
        // Two intervals until the first check of the new behavior, and one more for each that may be as slow.
        let settled_ms = 2 * check.interval_ms + results * (check.interval_ms + check.timeout_ms + 2);
        for backend in process.backend_set.backends().iter() {
            let (behavior, since_us) = self.behaviors[node_number(&backend.name)];
            let not_checked_us = process.paused_until_us.max(process.shortage_until_us);
            let since_us = since_us.max(watching_us).max(self.changed_us).max(not_checked_us);
            let is_looked_at = backend.is_checked();
            if !is_looked_at || self.now_us < since_us + settled_ms * 1_000 || self.is_refused(&backend.name)
            {
                continue;
            }
            let is_up = backend.with_health(|health| health.is_up());
            if is_up != behavior.is_up(check.timeout_ms) {
                let found = if is_up { "up" } else { "down" };
                return Err(format!("{}, whose behavior is {behavior:?}, is {found}", backend.name));
            }
        }
        Ok(())
    }

    /// Whether sends of any process to this backend reported that it refuses or cannot be reached.
    fn is_refused(&self, name: &str) -> bool {
        let is_refused = |backend: &Backend| {
            let counts = backend.counters.error_counts();
            let mut errors = counts.iter();
            &*backend.name == name && errors.any(|(error, count)| error.is_evidence() && count > 0)
        };
        self.processes
            .iter()
            .any(|process| process.backend_set.backends().iter().any(|backend| is_refused(backend)))
    }

    /// Every datagram sent to the proxy was received by one worker, or dropped because the socket's queue was full.
    pub fn check_datagrams(&self, plan: &Plan) -> Result<(), String> {
        if self.outcome.kills > 0 {
            // What a killed process had received, or was the only holder of, is lost with it.
            return Ok(());
        }
        let until_us = self.stopped_us.unwrap_or(u64::MAX);
        let is_listed =
            |process: &&Process| process.backend_set.config().listen.len() == plan.config.listen.len();
        let addresses = if self.processes.iter().all(|process| is_listed(&process)) {
            plan.config.listen.len()
        } else {
            1
        };
        for address in 0..addresses {
            if let Some(at_us) = self.network.refused_us(address).iter().find(|at_us| **at_us < until_us) {
                return Err(format!("no socket at address {address} at {at_us}"));
            }
        }
        if self.network.lost_in_queues() > 0 {
            return Err(format!("{} datagrams were queued in closed sockets", self.network.lost_in_queues()));
        }
        Ok(())
    }
}
