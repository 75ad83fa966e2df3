//! What the proxies of a host promise together: somebody receives at every moment, no datagram is lost between two
//! processes, no name moves at a restart, checks find out who is up.

use super::plan::{Plan, node_number};
use super::process::Process;
use super::world::World;
use statsring::config::Node;
use statsring::control::backends::backend::Backend;
use std::collections::HashMap;
use std::sync::Arc;

/// How a backend stood as an old process left.
#[derive(Clone, Debug)]
pub struct Stood {
    node: Node,
    live: bool,
    diverted: bool,
}

impl World<'_> {
    /// Notes how the old process's backends stand, at the moment at which it says "go".
    pub fn expect_same_names(&mut self, old: usize, new: usize) {
        let stood: HashMap<Arc<str>, Stood> = self.processes[old]
            .roster
            .backends()
            .iter()
            .map(|backend| {
                let standing = backend.standing();
                let (live, diverted) = (standing.is_live(), standing.is_diverted());
                (backend.name.clone(), Stood { node: backend.node().clone(), live, diverted })
            })
            .collect();
        self.stood.insert(new, stood);
    }

    /// Every backend of which the new config says the same stands as it stood: so no name moves that the config does not
    /// move.
    pub fn check_same_names(&mut self, new: usize) -> Result<(), String> {
        let Some(stood) = self.stood.remove(&new) else { return Ok(()) };
        let table = self.processes[new].table();
        for (index, backend) in self.processes[new].roster.backends().iter().enumerate() {
            let Some(before) = stood.get(&backend.name).filter(|before| before.node == *backend.node())
            else {
                continue;
            };
            let now = (table.live.contains(index), table.diverted.contains(index));
            if now != (before.live, before.diverted) {
                return Err(format!(
                    "process {new} began with {} live, diverted {now:?}, the old one had {:?}",
                    backend.name,
                    (before.live, before.diverted)
                ));
            }
        }
        Ok(())
    }

    /// The config that a new process has read is the last one that was accepted: a reload at the old process, which it
    /// answered with the changes, is not undone by the restart.
    pub fn check_config(&self, old: usize, new: usize) -> Result<(), String> {
        let (old, new) = (&self.processes[old], &self.processes[new]);
        let is_read_before = old.reloaded_us.is_some_and(|at_us| at_us > new.born_us());
        if is_read_before && *old.roster.config() != *new.roster.config() {
            return Err(format!(
                "process {} takes over with a config that a reload has replaced",
                new.number
            ));
        }
        Ok(())
    }

    /// As long as any process is up, every socket that takes datagrams has a worker that reads it.
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
            .flat_map(|process| &process.seats)
            .flat_map(|seat| seat.sockets.iter().copied())
            .collect();
        sockets.sort_unstable();
        sockets.dedup();
        for socket in sockets {
            let is_read = || self.processes.iter().any(|process| process.reads(socket));
            if self.network.takes_new(socket) && !is_read() {
                return Err(format!("socket {socket} takes datagrams, and nobody reads them"));
            }
        }
        Ok(())
    }

    /// Checks that have had their time have found out who is up; what refusals say counts before them.
    pub fn check_health(&self, number: usize) -> Result<(), String> {
        if let Some(backend) = self.processes.iter().find_map(|process| process.wrongly_down.as_ref()) {
            return Err(format!("{backend} went down because of checks that were not made"));
        }
        let process = &self.processes[number];
        let Some(watching_us) = process.watching_us else { return Ok(()) };
        let check = process.roster.config().check;
        let results = u64::from(check.fall.max(check.rise)) + 1;
        // Two intervals until the first check by the mood, and one more for each that may be as slow.
        let settled_ms = 2 * check.interval_ms + results * (check.interval_ms + check.timeout_ms + 2);
        for backend in process.roster.backends().iter() {
            let (mood, since_us) = self.moods[node_number(&backend.name)];
            let not_checked_us = process.frozen_until_us.max(process.short_until_us);
            let since_us = since_us.max(watching_us).max(self.changed_us).max(not_checked_us);
            let is_looked_at = backend.is_checked();
            if !is_looked_at || self.now_us < since_us + settled_ms * 1_000 || self.is_refused(&backend.name)
            {
                continue;
            }
            let is_up = backend.with_health(|health| health.is_up());
            if is_up != mood.is_up(check.timeout_ms) {
                let found = if is_up { "up" } else { "down" };
                return Err(format!("{} answers its checks as {mood:?} and counts as {found}", backend.name));
            }
        }
        Ok(())
    }

    /// Whether sends to this backend reported that it refuses or cannot be reached, to any process.
    fn is_refused(&self, name: &str) -> bool {
        let is_refused = |backend: &Backend| {
            let counts = backend.counters.error_counts();
            let mut errors = counts.iter();
            &*backend.name == name && errors.any(|(error, count)| error.is_evidence() && count > 0)
        };
        self.processes
            .iter()
            .any(|process| process.roster.backends().iter().any(|backend| is_refused(backend)))
    }

    /// Every datagram that was sent to the proxy was taken by one worker, or the kernel's queue was full.
    pub fn check_datagrams(&self, plan: &Plan) -> Result<(), String> {
        if self.happened.kills > 0 {
            // What a killed process had taken, or alone had a socket for, is lost with it.
            return Ok(());
        }
        let until_us = self.stopped_us.unwrap_or(u64::MAX);
        let is_listed = |process: &&Process| process.roster.config().listen.len() == plan.config.listen.len();
        let addresses = if self.processes.iter().all(|process| is_listed(&process)) {
            plan.config.listen.len()
        } else {
            1
        };
        for address in 0..addresses {
            if let Some(at_us) = self.network.refused_us(address).iter().find(|at_us| **at_us < until_us) {
                return Err(format!("nobody had a socket at address {address} at {at_us}"));
            }
        }
        if self.network.lost_in_queues() > 0 {
            return Err(format!(
                "{} datagrams lay in sockets that were closed",
                self.network.lost_in_queues()
            ));
        }
        Ok(())
    }
}
