//! Assigns socket slots of the driver to backends; identical backends keep theirs across reloads, and sockets that have
//! reached their age limit are replaced.
//!
//! In: a route table. Out: its backends' slots in its order, and when to try again what could not be made. Next:
//! `reopen.rs` says when a socket is replaced, `relay/reroute.rs` follows the slots.

use super::Report;
use super::reopen::{ReopenReason, Reopening};
use super::reporter::Reporter;
use crate::driver::Driver;
use crate::driver::kernel::Kernel;
use crate::packet::{SendError, SocketSlot};
use crate::placement::{LiveSet, splitmix64};
use crate::relay::{GsoMode, Relay, RouteNode, RouteTable};
use crate::stats::Counter;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use xxhash_rust::xxh3::xxh3_64;

/// The pause before a socket that could not be created is retried, µs: a route or an address may appear at any time,
/// without notification.
const RETRY_US: u64 = 1_000_000;
/// The pause before a socket that holds packets is looked at again, µs.
const HELD_US: u64 = 1_000;
/// Sockets replaced at once because `reopenInterval` is over: after a long silence it is over for all of them, and the metrics
/// that end the silence wait.
const INTERVAL_BATCH_MAX: usize = 8;

/// A connected socket.
pub(super) struct Open {
    name: Arc<str>,
    address: SocketAddr,
    /// The address that it sends from.
    source: IpAddr,
    /// Whether its backend got metrics by the table that was followed last.
    is_live: bool,
    reopening: Reopening,
    /// The errno of the last try to replace it.
    reopen_errno: Option<i32>,
    gso: GsoMode,
    /// Its path and its GSO batches.
    pub(super) path: PathState,
}

/// Which paths are read next, beside those that have to be read at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathLooks {
    /// The backend where the next look begins.
    pub(super) next: usize,
    /// Some paths have to be read at once.
    pub(super) is_wanted: bool,
}

/// The path of one socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct PathState {
    /// It has to be read at once.
    pub(super) is_wanted: bool,
    /// When GSO batches, which were refused, are tried again.
    pub(super) gso_retry_us: Option<u64>,
    /// A refusal was reported.
    pub(super) is_refusal_reported: bool,
}

/// The sockets of one worker.
pub struct Sockets {
    pub(super) open: Vec<Option<Open>>,
    /// The slot of each open one.
    by_name: HashMap<Arc<str>, usize>,
    /// Those of the last applied table, in its order.
    pub(super) slots: Vec<Option<SocketSlot>>,
    /// Which paths are to be read next.
    pub(super) path_looks: PathLooks,
    /// Backends of that table whose socket could not be created, with the errno reported.
    missing: HashMap<Arc<str>, Option<i32>>,
    retry_at_us: Option<u64>,
    /// After how long sockets are replaced; 0 = never.
    interval_us: u64,
    /// When the next one is due for replacement; `u64::MAX` = none.
    reopen_at_us: u64,
    /// Another one in each worker.
    jitter: u64,
}

impl Sockets {
    /// None yet; at most `sockets_max` at once, of worker `worker`.
    pub fn new(sockets_max: usize, worker: usize) -> Sockets {
        Sockets {
            open: std::iter::repeat_with(|| None).take(sockets_max).collect(),
            by_name: HashMap::new(),
            slots: Vec::new(),
            path_looks: PathLooks::default(),
            missing: HashMap::new(),
            retry_at_us: None,
            interval_us: 0,
            reopen_at_us: u64::MAX,
            jitter: worker as u64,
        }
    }

    /// Whether every backend of a table has its socket already.
    pub fn has_all(&self, table: &RouteTable) -> bool {
        table.nodes.iter().all(|node| node.address.is_none() || self.kept(node).is_some())
    }

    /// Whether a backend has no socket that gets metrics by `table`, which lists the same backends as the table that was
    /// followed last, and got none by that one, whose living set was `before`.
    pub fn lacks_one_of(&self, table: &RouteTable, before: &LiveSet) -> bool {
        let is_up_again = |index: usize| table.live.contains(index) && !before.contains(index);
        !self.missing.is_empty()
            && self.slots.iter().enumerate().any(|(index, slot)| slot.is_none() && is_up_again(index))
    }

    /// The slots of the table that was followed last, in its order.
    pub fn slots(&self) -> &[Option<SocketSlot>] {
        &self.slots
    }

    /// When to follow the table once more, µs of the driver's clock: a socket could not be made.
    pub fn retry_at_us(&self) -> Option<u64> {
        self.retry_at_us
    }

    /// Finds the slots for a table: those it has are kept, missing ones are made. A backend that moved keeps its slot and
    /// gets a socket to its new address; if that fails it has none, rather than one to where it no longer is, until the next
    /// try. Sockets that are no longer needed stay until [`Sockets::release`].
    pub fn follow(&mut self, table: &RouteTable, driver: &mut Driver<impl Kernel>, reporter: &mut Reporter) {
        let told = std::mem::take(&mut self.missing);
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        for node in table.nodes.iter() {
            let slot = match self.slot_of(node, driver) {
                Ok(slot) => {
                    if told.contains_key(&node.name) {
                        reporter.report(Report::SocketMade { node: Arc::clone(&node.name) });
                    }
                    slot
                }
                Err(error) => {
                    let errno = error.raw_os_error();
                    // For the health of a backend it is the same as a send that fails.
                    let kind = errno.map_or(SendError::Other, socket_error);
                    node.counters.socket_failed(kind);
                    let is_news = errno.is_some() && node.counters.failed(kind, errno, driver.now_us());
                    if is_news {
                        reporter.sends_fail(node);
                    }
                    self.missing.insert(Arc::clone(&node.name), errno);
                    if told.get(&node.name) != Some(&errno) {
                        reporter.report(Report::SocketFailed { node: Arc::clone(&node.name), error });
                    }
                    None
                }
            };
            slots.push(slot);
        }
        self.slots = slots;
        self.retry_at_us = (!self.missing.is_empty()).then(|| driver.now_us() + RETRY_US);
    }

    /// The slot of one backend; one whose address is not known has that of its old address, if any.
    fn slot_of(
        &mut self,
        node: &RouteNode,
        driver: &mut Driver<impl Kernel>,
    ) -> std::io::Result<Option<SocketSlot>> {
        let known = self.by_name.get(&node.name).copied();
        let Some(address) = node.address else { return Ok(known.map(slot)) };
        if let Some(index) = self.kept(node) {
            self.follow_gso(index, node, driver);
            return Ok(Some(slot(index)));
        }
        let index = known.or_else(|| self.open.iter().position(Option::is_none)).ok_or_else(no_slot)?;
        let source = driver.open_backend(slot(index), address)?;
        self.by_name.insert(Arc::clone(&node.name), index);
        let mut reopening = Reopening::new(driver.now_us());
        reopening.set_interval(self.interval_us, self.next_jitter(&node.name));
        self.open[index] = Some(Open {
            name: Arc::clone(&node.name),
            address,
            source,
            gso: node.gso,
            is_live: true,
            reopening,
            reopen_errno: None,
            path: PathState::default(),
        });
        Ok(Some(slot(index)))
    }

    /// Spreads the replacements of sockets that were made together, over the backends and over the workers.
    fn next_jitter(&mut self, name: &str) -> u64 {
        self.jitter = splitmix64(self.jitter ^ xxh3_64(name.as_bytes()));
        self.jitter
    }

    /// After [`Sockets::follow`], if that was needed: which sockets a new table has replaced, for its backends that are up
    /// again or are sent to from another address, and after which interval.
    pub fn compare(&mut self, table: &RouteTable, now_us: u64) {
        let interval_us = table.rules.reopen_us;
        let is_other_interval = std::mem::replace(&mut self.interval_us, interval_us) != interval_us;
        for (index, node) in table.nodes.iter().enumerate() {
            let Some(place) = self.slots.get(index).copied().flatten() else { continue };
            let jitter = if is_other_interval { self.next_jitter(&node.name) } else { 0 };
            let Some(open) = self.open.get_mut(place.0 as usize).and_then(Option::as_mut) else { continue };
            let is_live = table.live.contains(index);
            if !std::mem::replace(&mut open.is_live, is_live) && is_live {
                open.reopening.want(ReopenReason::Up, now_us);
            }
            let is_moved = node.source.is_some_and(|source| source != open.source);
            if is_moved && node.address == Some(open.address) {
                open.reopening.want(ReopenReason::SourceChanged, now_us);
            }
            if is_other_interval {
                open.reopening.set_interval(interval_us, jitter);
            }
        }
        self.schedule();
    }

    /// Schedules the replacement of the socket in a slot, as soon as possible.
    pub fn want_new(&mut self, place: SocketSlot, reason: ReopenReason, now_us: u64) {
        if let Some(open) = self.open.get_mut(place.0 as usize).and_then(Option::as_mut) {
            open.reopening.want(reason, now_us);
            let at_us = open.reopening.next().map_or(u64::MAX, |(_, at_us)| at_us);
            self.reopen_at_us = self.reopen_at_us.min(at_us);
        }
    }

    /// When to call [`Sockets::reopen`], µs of the driver's clock. It is no reason to wake: nothing is sent meanwhile.
    pub fn reopen_at_us(&self) -> u64 {
        self.reopen_at_us
    }

    fn schedule(&mut self) {
        let next = self.open.iter().flatten().filter_map(|open| open.reopening.next());
        self.reopen_at_us = next.map(|(_, at_us)| at_us).min().unwrap_or(u64::MAX);
    }

    /// Replaces the sockets whose time has come; the driver must have no packet for any. Only one whose
    /// packets have all left the kernel is replaced, so that none is overtaken; what waits in the relay goes by the new one. If a new one cannot be made, the old one stays.
    pub fn reopen(
        &mut self,
        relay: &mut Relay,
        driver: &mut Driver<impl Kernel>,
        reporter: &mut Reporter,
        now_us: u64,
    ) {
        let table = Arc::clone(relay.table());
        let (mut by_interval, mut is_held, mut is_any) = (0, false, false);
        for (index, node) in table.nodes.iter().enumerate() {
            let Some(place) = self.slots.get(index).copied().flatten() else { continue };
            let Some(Some(open)) = self.open.get(place.0 as usize) else { continue };
            let Some((reason, _)) = open.reopening.next().filter(|(_, at_us)| *at_us <= now_us) else {
                continue;
            };
            // With nothing to send the old one is kept, since replies to its packets may arrive.
            let is_put_off = by_interval == INTERVAL_BATCH_MAX || relay.is_empty();
            if reason == ReopenReason::Interval && is_put_off {
                continue;
            }
            let holds_packets = driver.has_unsent(place);
            if holds_packets && !open.reopening.is_overdue(now_us) {
                is_held = true;
                continue;
            }
            by_interval += usize::from(reason == ReopenReason::Interval);
            if self.replace(place, node, reason, driver, reporter, now_us) {
                is_any = true;
                relay.counters_mut().add(Counter::SocketsReopened, 1);
                if reason != ReopenReason::Interval {
                    relay.allow_gso(index);
                    self.forget_gso_refusal(place);
                }
            }
        }
        self.schedule();
        if is_held {
            self.reopen_at_us = self.reopen_at_us.max(now_us + HELD_US);
        }
        if is_any {
            self.read_paths(relay, driver, reporter);
        }
    }

    /// Makes a new socket in the place of an old one; whether that succeeded.
    fn replace(
        &mut self,
        place: SocketSlot,
        node: &RouteNode,
        reason: ReopenReason,
        driver: &mut Driver<impl Kernel>,
        reporter: &mut Reporter,
        now_us: u64,
    ) -> bool {
        let jitter = self.next_jitter(&node.name);
        let Some(Some(open)) = self.open.get_mut(place.0 as usize) else { return false };
        match driver.open_backend(place, open.address) {
            Ok(source) => {
                open.source = source;
                open.reopening = open.reopening.replaced(reason, now_us);
                open.reopening.set_interval(self.interval_us, jitter);
                open.reopen_errno = None;
                node.counters.sockets_reopened.fetch_add(1, Ordering::Relaxed);
                reporter.report(Report::SocketReopened { node: Arc::clone(&node.name), reason });
                true
            }
            Err(error) => {
                open.reopening.defer(now_us);
                let errno = error.raw_os_error();
                if std::mem::replace(&mut open.reopen_errno, errno) != errno {
                    reporter.report(Report::ReopenFailed { node: Arc::clone(&node.name), reason, error });
                }
                false
            }
        }
    }

    /// The slot of the socket connected to this backend's address, if any.
    fn kept(&self, node: &RouteNode) -> Option<usize> {
        let index = *self.by_name.get(&node.name)?;
        let open = self.open.get(index)?.as_ref()?;
        (node.address == Some(open.address)).then_some(index)
    }

    /// Toggling `gso` re-enables batches that were refused.
    fn follow_gso(&mut self, index: usize, node: &RouteNode, driver: &mut Driver<impl Kernel>) {
        if let Some(open) = &mut self.open[index]
            && std::mem::replace(&mut open.gso, node.gso) == GsoMode::Off
            && node.gso != GsoMode::Off
        {
            open.path = PathState::default();
            driver.allow_gso(slot(index));
        }
    }

    /// Closes the sockets of backends that the table does not list.
    pub fn release(&mut self, table: &RouteTable, driver: &mut Driver<impl Kernel>) {
        let listed: HashSet<&str> = table.nodes.iter().map(|node| &*node.name).collect();
        for (index, place) in self.open.iter_mut().enumerate() {
            let is_gone = place.as_ref().is_some_and(|open| !listed.contains(&*open.name));
            if is_gone && let Some(open) = place.take() {
                self.by_name.remove(&open.name);
                driver.close_backend(slot(index));
            }
        }
    }
}

fn slot(index: usize) -> SocketSlot {
    SocketSlot(index as u32)
}

/// The error of a socket to a backend that could not be created.
fn socket_error(errno: i32) -> SendError {
    match SendError::of(errno) {
        // This process's own shortage says nothing about a backend.
        _ if matches!(errno, libc::EMFILE | libc::ENFILE) => SendError::Other,
        SendError::Other | SendError::NotPermitted => SendError::NoSocket,
        error => error,
    }
}

fn no_slot() -> std::io::Error {
    std::io::Error::other("no free socket slot; restart with the new list of nodes")
}
