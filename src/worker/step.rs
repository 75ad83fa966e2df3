//! One batch: transmit packets that are ready or due, enter the kernel, receive, publish the counters.
//!
//! In: the driver's events. Out: the relay's packets. Next: `relay/mod.rs`.

use super::answers::AnswerLooks;
use super::coalesce::Coalescing;
use super::reopen::ReopenReason;
use super::reporter::Reporter;
use super::sockets::Sockets;
use super::{Ended, Limits, Report};
use crate::driver::kernel::Kernel;
use crate::driver::{Delivered, Driver, DriverError, Events, Flow, Stamp, Wait};
use crate::packet::{Arrival, Arrivals, Packet, SendError, SendErrorCounts, SendOutcome, SocketSlot};
use crate::relay::{Flush, Hint, Relay, RouteTable, Transmitted};
use crate::stats::{Counter, Latency, LatencyKind, Sleep, WorkerShared};
use arc_swap::{ArcSwap, Cache};
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// Where a worker stands between running and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Receives and relays.
    Running,
    /// The sockets are fenced; what is queued is read and relayed until the deadline, and dropped after it.
    Draining {
        /// µs of the driver's clock.
        deadline_us: u64,
        /// Metrics dropped since the deadline.
        metrics_dropped: Option<u64>,
    },
    /// Nothing is received any more; the last packets are awaited.
    Ending {
        /// µs of the driver's clock.
        deadline_us: u64,
        /// Metrics dropped, if the time ran out.
        metrics_dropped: Option<u64>,
    },
}

/// Rounds of transmitting and taking within one batch, before orders are looked at again.
const ROUNDS_MAX: usize = 64;
/// Rounds of taking within one batch under a flood: some thousand datagrams, a few ms.
const TAKE_ROUNDS_MAX: usize = 8;
/// The longest sleep between two tries to read the sockets at the start.
const START_SLEEP_US: u64 = 1_000;
/// How often the receive buffers' memory and drops are read while traffic flows.
const MEMORY_INTERVAL_US: u64 = 10_000;

/// A worker's links to the rest of the process.
pub struct WorkerLinks {
    /// Which worker, from 0.
    pub index: usize,
    /// The desired state, read once per batch.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// Where it publishes.
    pub shared: Arc<WorkerShared>,
    /// Where it reports to.
    pub reports: Sender<Report>,
    /// Its bounds.
    pub limits: Limits,
}

/// Whether a worker continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Call again.
    Running,
    /// It has ended; nothing is in flight.
    Ended(Ended),
}

/// One worker, on any driver.
pub struct Worker<K: Kernel> {
    pub(super) driver: Driver<K>,
    pub(super) relay: Relay,
    pub(super) sockets: Sockets,
    pub(super) routes: Cache<Arc<ArcSwap<RouteTable>>, Arc<RouteTable>>,
    pub(super) stage: Stage,
    pub(super) coalescing: Coalescing,
    pub(super) reporter: Reporter,
    pub(super) index: usize,
    pub(super) shared: Arc<WorkerShared>,
    latency: Latency,
    is_ready: bool,
    batch: Batch,
    /// Whether the last wake-up brought datagrams.
    flowing: bool,
    /// Lower bound of the arrival of everything received from now on.
    known_empty_us: u64,
    /// That moment is only the end of an idle sleep.
    after_idle: bool,
    /// Whether the last batch received everything available.
    took_all: bool,
    /// When the wait that began this batch returned.
    taken_us: u64,
    /// The clock before the last enter, which submitted what was pushed, and after it.
    submitted_us: u64,
    pub(super) woke_us: u64,
    memory_read_us: u64,
    answer_looks: AnswerLooks,
    /// The kernel's drop counts of each socket at its hand-over.
    drops_before: Vec<u64>,
}

/// Totals of one batch.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    datagrams: u64,
    bytes: u64,
}

impl<K: Kernel> Worker<K> {
    /// A worker whose driver listens already; nothing is read before the first step.
    pub fn new(mut driver: Driver<K>, links: WorkerLinks) -> Worker<K> {
        let mut routes = Cache::new(links.routes);
        let table = Arc::clone(routes.load());
        let mut sockets = Sockets::new(links.limits.sockets_max, links.index);
        let mut reporter = Reporter::new(links.reports);
        let now_us = driver.now_us();
        sockets.follow(&table, &mut driver, &mut reporter);
        sockets.compare(&table, now_us);
        links.shared.drops.make_room(driver.listeners());
        links.shared.set_generation(table.generation);
        let flush_us = table.rules.flush_us;
        let mut relay = Relay::new(links.limits.relay(), table, sockets.slots());
        sockets.read_paths(&mut relay, &mut driver, &mut reporter);
        Worker {
            coalescing: Coalescing::new(driver.info().receive_buffer_bytes, flush_us),
            relay,
            driver,
            sockets,
            routes,
            stage: Stage::Running,
            reporter,
            index: links.index,
            shared: links.shared,
            latency: Latency::new(),
            is_ready: false,
            batch: Batch::default(),
            flowing: false,
            known_empty_us: now_us,
            after_idle: true,
            took_all: true,
            taken_us: now_us,
            submitted_us: now_us,
            woke_us: now_us,
            memory_read_us: now_us,
            answer_looks: AnswerLooks::default(),
            drops_before: Vec::new(),
        }
    }

    /// Starts the count of the kernel's drops at zero: so far the sockets were another process's, which counted them.
    pub fn forget_drops(&mut self) {
        self.drops_before =
            (0..self.driver.listeners()).map(|listener| self.driver.receive_memory(listener).drops).collect();
    }

    /// One batch.
    pub fn step(&mut self) -> Result<Step, DriverError> {
        let woke_before_us = self.woke_us;
        self.batch = Batch::default();
        self.follow_orders()?;
        let has_pushed = self.hand_over(self.flush())?;
        let (wait, is_idle) = self.next_wait(has_pushed);
        let was_reading = self.driver.is_reading();
        self.enter(wait)?;
        self.taken_us = self.woke_us;
        if self.answer_looks.take_due(self.woke_us) {
            self.driver.look_for_icmp_errors();
            let Worker { sockets, relay, driver, reporter, .. } = self;
            sockets.look_at_paths(relay, driver, reporter, self.woke_us);
        }
        if is_idle && self.took_all {
            // The length of the sleep says nothing about the arrival of the datagram that ended it.
            (self.known_empty_us, self.after_idle) = (self.woke_us, true);
        }
        let is_due = self.woke_us >= self.memory_read_us + MEMORY_INTERVAL_US;
        let queued_bytes = is_due.then(|| self.read_memory());
        let whole = self.take()?;
        if whole && let Some(queued_bytes) = queued_bytes {
            self.coalescing.measured(queued_bytes, self.batch.datagrams, self.batch.bytes);
        }
        self.learn(wait, was_reading && whole, woke_before_us);
        if !self.is_ready && self.driver.is_reading() {
            self.is_ready = true;
            let info = self.driver.info().clone();
            self.reporter.report(Report::Ready { worker: self.index, info });
        }
        let step = self.advance_stage();
        if let Step::Ended(_) = step {
            // Drops since the last read are not reported otherwise.
            self.read_memory();
        }
        self.publish();
        Ok(step)
    }

    /// The relay, for tests.
    pub fn relay(&self) -> &Relay {
        &self.relay
    }

    /// The driver, for tests.
    pub fn driver(&self) -> &Driver<K> {
        &self.driver
    }

    /// The driver, for tests.
    pub fn driver_mut(&mut self) -> &mut Driver<K> {
        &mut self.driver
    }

    /// Hands the relay's packets to the driver; when its queue is full, enters the kernel in between. Whether any went
    /// that are not submitted yet.
    pub(super) fn hand_over(&mut self, flush: Flush) -> Result<bool, DriverError> {
        let mut has_pushed = false;
        for _ in 0..ROUNDS_MAX {
            self.reopen_sockets();
            self.read_wanted_paths();
            let now_us = self.driver.now_us();
            let driver = &mut self.driver;
            let transmitted = self.relay.transmit(now_us, flush, |packet| {
                driver.push(packet)?;
                has_pushed = true;
                Ok(())
            });
            if has_pushed {
                self.answer_looks.sent(now_us);
            }
            if transmitted == Transmitted::All {
                break;
            }
            self.enter(Wait::Poll)?;
            has_pushed = false;
            self.deliver();
        }
        Ok(has_pushed)
    }

    /// Replaces the sockets that are due. The driver must have no packet for them.
    fn reopen_sockets(&mut self) {
        if self.sockets.reopen_at_us() <= self.woke_us && self.relay.is_settled() {
            let Worker { sockets, relay, driver, reporter, .. } = self;
            sockets.reopen(relay, driver, reporter, self.woke_us);
        }
    }

    /// Reads the paths that may have another MTU, so that packets follow it at once.
    fn read_wanted_paths(&mut self) {
        let Worker { sockets, relay, driver, reporter, .. } = self;
        sockets.read_wanted_paths(relay, driver, reporter);
    }

    fn enter(&mut self, wait: Wait) -> Result<(), DriverError> {
        self.submitted_us = self.driver.now_us();
        self.relay.counters_mut().add(Counter::Wakeups, 1);
        if matches!(wait, Wait::GatherUntil { .. }) {
            self.relay.counters_mut().add(Counter::CoalescedWaits, 1);
        }
        let entered = self.driver.enter(wait);
        self.woke_us = self.driver.now_us();
        entered
    }

    /// Takes everything that came, transmitting in between when the relay is full. Whether all of it was taken in one
    /// go; under overload the rest is left to the next batch, so that orders are followed in time.
    fn take(&mut self) -> Result<bool, DriverError> {
        for round in 0..TAKE_ROUNDS_MAX {
            self.took_all = self.deliver() == Delivered::All;
            if self.took_all {
                return Ok(round == 0);
            }
            self.hand_over(Flush::Due)?;
            self.enter(Wait::Poll)?;
        }
        Ok(false)
    }

    fn deliver(&mut self) -> Delivered {
        let arrival =
            Arrival { bound_us: self.known_empty_us, taken_us: self.taken_us, after_idle: self.after_idle };
        self.driver.deliver(&mut Sink {
            relay: &mut self.relay,
            sockets: &mut self.sockets,
            latency: &mut self.latency,
            reporter: &mut self.reporter,
            batch: &mut self.batch,
            arrival,
            submitted_us: self.submitted_us,
            woke_us: self.woke_us,
        })
    }

    /// Enters until the driver has given every packet back; a few rounds do unless the kernel takes nothing.
    pub(super) fn settle(&mut self) -> Result<(), DriverError> {
        for _ in 0..ROUNDS_MAX {
            if self.relay.is_settled() {
                break;
            }
            self.enter(Wait::Poll)?;
            self.deliver();
            self.hand_over(Flush::All)?;
        }
        Ok(())
    }

    fn flush(&self) -> Flush {
        if self.stage == Stage::Running { Flush::Due } else { Flush::All }
    }

    /// How to sleep now, and whether that is a sleep until something happens, with nothing to send meanwhile.
    fn next_wait(&mut self, has_pushed: bool) -> (Wait, bool) {
        let now_us = self.driver.now_us();
        if !self.is_ready {
            // A driver that has not read its sockets yet does not sleep.
            return (Wait::EventUntil { deadline_us: now_us + START_SLEEP_US }, false);
        }
        if let Some(wait) = self.stage_wait(now_us) {
            return (wait, false);
        }
        let due_us = self.relay.next_deadline_us();
        if due_us.is_some_and(|due_us| due_us <= now_us) {
            return (Wait::Poll, false);
        }
        if self.flowing
            && let Some(sleep_us) = self.coalescing.sleep_us(now_us)
        {
            // The oldest datagram that this sleep can contain arrived when the socket was last known empty.
            let budget_us = self.known_empty_us + self.relay.table().rules.flush_us;
            let deadline_us = (now_us + sleep_us).min(budget_us).min(due_us.unwrap_or(u64::MAX)).max(now_us);
            return (Wait::GatherUntil { deadline_us }, false);
        }
        if has_pushed {
            // Before an unlimited sleep, the outcomes of pushed packets must be counted.
            return (Wait::Poll, false);
        }
        let chores_us = self.sockets.retry_at_us().into_iter().chain(self.answer_looks.due_us());
        let wait = match due_us.into_iter().chain(chores_us).min() {
            Some(deadline_us) => Wait::EventUntil { deadline_us },
            None => Wait::Event,
        };
        (wait, due_us.is_none())
    }

    /// Derives the traffic rate, and the time when the socket was last empty, from a wakeup.
    fn learn(&mut self, wait: Wait, whole: bool, woke_before_us: u64) {
        let took = self.batch;
        let is_whole = whole && self.driver.is_reading();
        if took.datagrams > 0 {
            let elapsed_us = self.woke_us.saturating_sub(woke_before_us);
            self.coalescing.took(self.woke_us, elapsed_us, took.datagrams, took.bytes);
        } else if self.flowing {
            self.coalescing.silence();
        }
        let empty_us = match wait {
            // The clock before an enter that delivered nothing: after it, pre-emption would hide the tail.
            _ if took.datagrams == 0 && is_whole => Some(self.submitted_us),
            // A gather that lasted to its deadline took everything after it, until the socket said it was empty. One that a
            // signal ended early, before a pause beyond the deadline, looks the same: wrong by its length at most.
            Wait::GatherUntil { deadline_us } if is_whole && self.woke_us >= deadline_us => Some(deadline_us),
            _ => None,
        };
        if let Some(empty_us) = empty_us {
            (self.known_empty_us, self.after_idle) = (empty_us, false);
        }
        let was_flowing = self.flowing;
        self.flowing = took.datagrams > 0;
        if was_flowing && !self.flowing {
            self.read_memory();
        }
    }

    /// Reads what the kernel dropped at the listening sockets; new drops shorten the sleeps. What is queued there, in bytes as the
    /// kernel charges them.
    fn read_memory(&mut self) -> u64 {
        self.memory_read_us = self.woke_us;
        let (mut drops, mut queued_bytes) = (0, 0);
        for listener in 0..self.driver.listeners() {
            let before = self.drops_before.get(listener).copied().unwrap_or(0);
            let memory = self.driver.receive_memory(listener);
            let at_socket = memory.drops.saturating_sub(before);
            self.shared.drops.set(listener, at_socket, self.woke_us);
            drops += at_socket;
            queued_bytes += memory.queued_bytes;
        }
        if drops > self.relay.counters().get(Counter::KernelDrops) {
            self.coalescing.pressed(self.woke_us);
        }
        self.relay.counters_mut().set(Counter::KernelDrops, drops);
        queued_bytes
    }

    fn publish(&mut self) {
        let events = self.driver.receive_events();
        let counters = self.relay.counters_mut();
        counters.set(Counter::ReceiveErrors, events.errors);
        counters.set(Counter::DatagramsUnreadable, events.unreadable);
        counters.set(Counter::WaitErrors, events.wait_errors);
        counters.set(Counter::DatagramsGro, events.joined);
        self.relay.check_account();
        self.shared.published.publish(self.relay.counters());
        self.shared.sleep.set(self.sleep());
        self.shared.latency.serve(&mut self.latency);
        self.shared.echo();
    }

    /// How it sleeps now, as the coalescing would have it.
    fn sleep(&self) -> Sleep {
        if !self.flowing {
            return Sleep::Idle;
        }
        self.coalescing.sleep_us(self.woke_us).map_or(Sleep::Each, |sleep_us| Sleep::Gather {
            sleep_us,
            filled_permille: self.coalescing.filled_permille(sleep_us),
        })
    }
}

/// Carries one delivery's events to the relay.
struct Sink<'a> {
    relay: &'a mut Relay,
    sockets: &'a mut Sockets,
    latency: &'a mut Latency,
    reporter: &'a mut Reporter,
    batch: &'a mut Batch,
    arrival: Arrival,
    submitted_us: u64,
    woke_us: u64,
}

impl Sink<'_> {
    /// Takes a datagram that the kernel was to stamp.
    fn ingest_stamped(&mut self, stamp: Stamp, bytes: &[u8], datagram_bytes: usize) {
        let (stamped_us, counter) = match stamp {
            Stamp::At(stamped_us) => (Some(stamped_us), None),
            Stamp::Missing | Stamp::Disabled => (None, Some(Counter::TimestampsMissing)),
            Stamp::Invalid => (None, Some(Counter::TimestampsInvalid)),
        };
        if let Some(counter) = counter {
            self.relay.counters_mut().add(counter, 1);
        }
        self.relay.ingest_stamped(self.arrival, stamped_us, bytes, datagram_bytes);
    }

    /// Records how long each metric of a packet that was sent took since the kernel had stamped it.
    fn record_exact(&mut self, packet: &Packet) {
        for (arrived_us, metrics) in packet.arrivals().into_iter().flat_map(Arrivals::iter) {
            let took_us = (self.submitted_us as i64).saturating_sub(arrived_us);
            let took_us = u64::try_from(took_us).unwrap_or(0);
            self.latency.record(LatencyKind::Exact, took_us, u64::from(metrics));
        }
    }
}

impl Events for Sink<'_> {
    fn flow(&self) -> Flow {
        if self.relay.has_room() { Flow::More } else { Flow::Pause }
    }

    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow {
        self.batch.datagrams += 1;
        self.batch.bytes += datagram_bytes as u64;
        if datagram_bytes > bytes.len() {
            self.reporter.truncated(datagram_bytes);
        }
        match stamp {
            Stamp::Disabled => self.relay.ingest(self.arrival, bytes, datagram_bytes),
            stamp => self.ingest_stamped(stamp, bytes, datagram_bytes),
        }
        self.flow()
    }

    fn sent(&mut self, packet: Packet, outcome: SendOutcome) {
        if outcome == SendOutcome::Sent {
            let arrival = packet.arrival();
            let kind = if arrival.after_idle { LatencyKind::AfterIdle } else { LatencyKind::Bound };
            let metrics = u64::from(packet.metrics());
            self.latency.record(
                LatencyKind::Residence,
                self.submitted_us.saturating_sub(arrival.taken_us),
                metrics,
            );
            self.latency.record(kind, self.submitted_us.saturating_sub(arrival.bound_us), metrics);
            self.record_exact(&packet);
        }
        if outcome.blames_socket() {
            self.sockets.want_new(packet.socket(), ReopenReason::SendFailed, self.woke_us);
        }
        if outcome.concerns_path() {
            self.sockets.want_path(packet.socket());
        }
        let hint = self.relay.sent(packet, outcome, self.woke_us);
        self.pass_on(hint);
    }

    fn answered(&mut self, slot: SocketSlot, errors: SendErrorCounts) {
        if errors.get(SendError::TooLong) > 0 {
            self.sockets.want_path(slot);
        }
        let hint = self.relay.answered(slot, &errors, self.woke_us);
        self.pass_on(hint);
    }
}

impl Sink<'_> {
    /// Reports to control what the relay found.
    fn pass_on(&mut self, hint: Hint) {
        match hint {
            Hint::None => {}
            Hint::SendsFail { backend } => self.reporter.sends_fail(&self.relay.table().nodes[backend]),
            Hint::GsoRefused { backend, errno } => {
                self.sockets.gso_refused(backend, self.relay, errno, self.reporter, self.woke_us);
            }
            Hint::Fragmented { backend } => {
                let node = Arc::clone(&self.relay.table().nodes[backend].name);
                self.reporter.report(Report::FragmentationBegan { node });
            }
        }
    }
}
