//! The pure core: no sockets, no clock, no threads, no allocation after start.
//!
//! In: `ingest(arrival, bytes)`, and each packet back with its outcome by `sent`. Out: packets by `transmit(now_us)`, and
//! when to call it next by `next_deadline_us()`. Next: `ingest.rs` takes datagrams apart (`wire/` finds lines and keys,
//! `placement/` their backends), `egress.rs` keeps each backend's packets (`backlog.rs` those for busy sockets), `pool.rs` all the others.
//! The failpoint of each file concerns its own bookkeeping: the relay is pure, so there is no fake between it and its rules.

mod egress;
mod parsed_line;
mod ingest;
mod outcome;
mod paths;
mod pool;
mod reroute;
mod route;
mod backlog;

pub use outcome::Hint;
pub use paths::PathChange;
pub use pool::PoolSize;
pub use route::{GsoMode, Left, Malformed, Observer, OnNodeDown, Phase, RouteNode, RouteTable, Rules};

use crate::failpoint::{Mutation, is_active};
use crate::packet::{Packet, SocketSlot};
use crate::placement::{HashCache, JumpTable};
use crate::stats::{Counter, Counters};
use crate::wire::{LineIndex, Scanner};
use backlog::Backlog;
use egress::Egress;
use parsed_line::{FOUND_MAX, ParsedLine};
use pool::Pool;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Retries of a packet whose send reported that an earlier datagram was refused.
pub const REFUSED_ATTEMPTS_MAX: u8 = 3;
/// Retries of a packet whose backend was unreachable.
pub const UNREACHABLE_ATTEMPTS_MAX: u8 = 1;
/// Retries of a packet whose socket has no valid source address any more: a new socket is opened meanwhile.
pub const SOCKET_ATTEMPTS_MAX: u8 = 1;
/// A smaller path MTU does not reduce packets further; every IPv4 host accepts datagrams of 576 bytes (RFC 791).
const PATH_BYTES_MIN: usize = 512;
/// Pause before a busy socket is tried again, when the flush budget is shorter.
pub const BUSY_RETRY_US_MIN: u64 = 1_000;
/// Pause before a busy socket is tried again, when the flush budget is longer.
const BUSY_RETRY_US_MAX: u64 = 20_000;

/// Longest time that a packet waits for a backend that refused it to move to another address. Control needs about 1 ms; the
/// packet is sent as soon as the table has the address.
const MOVE_WAIT_US: u64 = 20_000;

/// Bounds that hold for a relay's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelayLimits {
    /// Packets that may be in flight in the driver at once.
    pub sends_max: usize,
    /// Bytes of packets that may be queued for busy backends, in total.
    pub backlog_bytes_max: usize,
    /// Longest datagram received whole, so longest metric.
    pub datagram_bytes_max: usize,
    /// Entries of the cache from name to backend; 0 = none.
    pub cache_entries: usize,
    /// Whether packets note when each of their metrics arrived: [`Relay::ingest_stamped`].
    pub timestamps: bool,
}

impl RelayLimits {
    /// The packets that one datagram's lines for `nodes` backends can need.
    fn needs(&self, nodes: usize, packet_bytes: usize) -> Needs {
        let may_be_oversize = self.datagram_bytes_max > packet_bytes;
        Needs {
            packets: self.packets_per_datagram(nodes, packet_bytes),
            oversize: if may_be_oversize { self.oversize_per_datagram(packet_bytes) } else { 0 },
        }
    }

    /// The packets needed for `nodes` backends: one open for each, those with the driver, those that wait.
    pub fn pool_size(&self, nodes: usize, packet_bytes: usize) -> PoolSize {
        PoolSize {
            packets: nodes
                + self.sends_max
                + self.packets_per_datagram(nodes, packet_bytes)
                + self.backlog_bytes_max / packet_bytes,
            packet_bytes,
            oversize: 2 * self.needs(nodes, packet_bytes).oversize,
            oversize_bytes: self.datagram_bytes_max,
            timestamps: self.timestamps,
        }
    }

    /// Most packets that the lines of one datagram can open: one for each backend that it has a line for (two bytes
    /// with its newline at least), whose open packet may be full already, and those that they then fill.
    fn packets_per_datagram(&self, nodes: usize, packet_bytes: usize) -> usize {
        let narrowest = packet_bytes.min(PATH_BYTES_MIN);
        nodes.min(self.datagram_bytes_max / 2 + 1) + 2 * (self.datagram_bytes_max / narrowest + 1)
    }

    /// Most metrics of one datagram that go alone, in packets of their own size.
    fn oversize_per_datagram(&self, packet_bytes: usize) -> usize {
        self.datagram_bytes_max / packet_bytes + 1
    }
}

/// Free packets required before a datagram is taken: the most of each kind that its lines can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Needs {
    packets: usize,
    oversize: usize,
}

/// How much [`Relay::transmit`] sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Full packets, and partial ones whose budget is spent.
    Due,
    /// Everything.
    All,
}

/// Whether [`Relay::transmit`] handed over everything that was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmitted {
    /// Nothing is left to hand over now.
    All,
    /// The driver has no room: submit, then transmit again.
    Full,
}

/// The deadline entry of a backend's open packet.
#[derive(Clone, Copy, Debug)]
struct Opened {
    backend: usize,
    opened: u64,
}

/// One worker's relay.
pub struct Relay {
    table: Arc<RouteTable>,
    limits: RelayLimits,
    /// By the table's backends and size of packet, asked for before each datagram.
    needs: Needs,
    pool: Pool,
    egress: Vec<Egress>,
    /// Packets of all backends that wait for busy sockets.
    backlog: Backlog,
    /// Closed packets, ready to be handed over, oldest first.
    ready: VecDeque<Packet>,
    /// Open packets in the order of their deadlines; entries of packets closed since are stale.
    opened: VecDeque<Opened>,
    /// Backends whose socket was busy, and when they are tried again.
    busy: Vec<usize>,
    busy_retry_us: u64,
    backlog_bytes: usize,
    /// Packets and metrics in flight in the driver.
    handed_over: (usize, u64),
    sequence: u64,
    /// Number of passes over `ready`.
    ready_pass: u64,
    /// Lines of the datagram that is being taken.
    found: Vec<ParsedLine>,
    /// When it arrived, if that is known.
    stamped_us: Option<i64>,
    /// Routing without the cache, if the table permits.
    jump_table: Option<JumpTable>,
    /// Cached routes by name, valid for this table only.
    cache: HashCache,
    scanner: Scanner,
    /// Line boundaries; always present except while a datagram is taken apart.
    line_index: Option<Box<LineIndex>>,
    counters: Counters,
}

impl Relay {
    /// A relay for `table`, whose backends' sockets are `sockets`, in its order.
    pub fn new(limits: RelayLimits, table: Arc<RouteTable>, sockets: &[Option<SocketSlot>]) -> Relay {
        let size = limits.pool_size(table.nodes.len(), table.rules.packet_bytes_max);
        let packets = size.packets + size.oversize;
        let egress: Vec<Egress> = (0..table.nodes.len())
            .map(|index| Egress::new(sockets.get(index).copied().flatten(), table.nodes[index].gso))
            .collect();
        let mut relay = Relay {
            limits,
            needs: limits.needs(table.nodes.len(), table.rules.packet_bytes_max),
            pool: Pool::new(size),
            busy: Vec::with_capacity(egress.len()),
            egress,
            backlog: Backlog::new(packets),
            ready: VecDeque::with_capacity(packets),
            opened: VecDeque::with_capacity(packets),
            busy_retry_us: 0,
            backlog_bytes: 0,
            handed_over: (0, 0),
            sequence: 0,
            ready_pass: 0,
            found: Vec::with_capacity(FOUND_MAX),
            stamped_us: None,
            jump_table: table.jump_table(),
            cache: HashCache::new(limits.cache_entries),
            scanner: Scanner::new(),
            line_index: Some(Box::default()),
            counters: Counters::new(),
            table,
        };
        relay.size_packets();
        relay
    }

    /// Sets the scanner; to measure one that is not the fastest here.
    pub fn scan_by(&mut self, scanner: Scanner) {
        self.scanner = scanner;
    }

    /// Whether a busy backend's queue is full.
    fn is_queue_full(&self, backend: usize) -> bool {
        self.egress[backend].busy && !self.may_wait(backend, self.table.rules.packet_bytes_max)
    }

    /// Whether a packet of `packet_bytes` may wait for a busy backend.
    fn may_wait(&self, backend: usize, packet_bytes: usize) -> bool {
        self.egress[backend].backlog_bytes() + packet_bytes <= self.table.rules.queue_bytes_max
            && self.backlog_bytes + packet_bytes <= self.limits.backlog_bytes_max
    }

    /// Queues a packet for a busy backend.
    fn wait(&mut self, mut packet: Packet) {
        // A reload may redirect it to a server that counts empty lines, and other lines may still fit into it.
        packet.unpad();
        let egress = &mut self.egress[packet.backend()];
        let before = egress.backlog_bytes();
        let absorbed = egress.wait(&mut self.backlog, packet);
        self.backlog_bytes += egress.backlog_bytes() - before;
        if let Some(packet) = absorbed {
            self.pool.recycle(packet);
        }
    }

    fn remember_deadline(&mut self, backend: usize) {
        if is_active(Mutation::DeadlineIgnored) {
            return;
        }
        if self.opened.len() == self.opened.capacity() {
            let egress = &self.egress;
            self.opened.retain(|entry| is_current(egress, *entry));
        }
        self.opened.push_back(Opened { backend, opened: self.egress[backend].opened });
    }

    /// Closes the open packet of a backend: it is ready, or queued after others if the socket is busy.
    fn close(&mut self, backend: usize) {
        let Some(mut packet) = self.egress[backend].open.take() else { return };
        self.sequence += 1;
        packet.set_sequence(self.sequence);
        self.egress[backend].closed(packet.len());
        if self.egress[backend].busy {
            self.wait(packet);
        } else {
            self.ready.push_back(packet);
        }
    }

    /// Whether the lines of one more datagram will find packets.
    pub fn has_room(&self) -> bool {
        let enough = self.pool.free() >= self.needs.packets
            && self.pool.free_oversize() >= self.needs.oversize
            && self.ready.len() < self.limits.sends_max;
        // With nothing to hand over, transmitting would free nothing: continue, and count lines without a packet.
        enough || (self.ready.is_empty() && self.handed_over.0 == 0)
    }

    /// Hands over packets that are ready, or due at `now_us`, by `push`, which returns a packet if it has no room.
    pub fn transmit(
        &mut self,
        now_us: u64,
        flush: Flush,
        mut push: impl FnMut(Packet) -> Result<(), Packet>,
    ) -> Transmitted {
        if !self.busy.is_empty() && now_us >= self.busy_retry_us {
            self.retry_busy();
        }
        self.close_due(now_us, flush);
        self.order_ready();
        let mut may_join = false;
        while let Some(mut packet) = self.ready.pop_front() {
            let egress = &mut self.egress[packet.backend()];
            if egress.busy {
                self.wait_or_drop(packet, now_us);
                continue;
            }
            packet.set_may_join(may_join);
            let is_followed = self.ready.front().is_some_and(|next| next.backend() == packet.backend());
            may_join = egress.hand_over(&mut packet, is_followed);
            let metrics = u64::from(packet.metrics());
            if let Err(packet) = push(packet) {
                self.ready.push_front(packet);
                return Transmitted::Full;
            }
            self.handed_over.0 += 1;
            self.handed_over.1 += metrics;
        }
        self.check_account();
        Transmitted::All
    }

    /// Groups the packets of each backend, so that they can be batched; in their order.
    fn order_ready(&mut self) {
        // With many backends each has one packet as a rule, and there is nothing to put together.
        if self.has_several_of_one_backend() {
            self.ready.make_contiguous().sort_unstable_by_key(|packet| (packet.backend(), packet.sequence()));
        }
    }

    fn has_several_of_one_backend(&mut self) -> bool {
        self.ready_pass += 1;
        let (ready_pass, egress) = (self.ready_pass, &mut self.egress);
        self.ready
            .iter()
            .any(|packet| std::mem::replace(&mut egress[packet.backend()].seen_at, ready_pass) == ready_pass)
    }

    /// Makes everything that waits for busy sockets ready again, before what was ready, in order.
    fn retry_busy(&mut self) {
        while let Some(backend) = self.busy.pop() {
            // The open packet goes along: its deadline may have passed while the socket was busy.
            self.close(backend);
            let egress = &mut self.egress[backend];
            egress.busy = false;
            while let Some(packet) = egress.next_back(&mut self.backlog) {
                self.backlog_bytes -= packet.capacity();
                self.ready.push_front(packet);
            }
        }
    }

    fn close_due(&mut self, now_us: u64, flush: Flush) {
        while let Some(entry) = self.opened.front().copied() {
            if is_current(&self.egress, entry) && !self.egress[entry.backend].busy {
                let deadline_us = self.deadline_us(entry.backend);
                if flush == Flush::Due && deadline_us.is_some_and(|deadline_us| deadline_us > now_us) {
                    return;
                }
                self.close(entry.backend);
            }
            self.opened.pop_front();
        }
    }

    fn deadline_us(&self, backend: usize) -> Option<u64> {
        let open = self.egress[backend].open.as_ref()?;
        Some(open.arrival().bound_us.saturating_add(self.table.rules.flush_us))
    }

    /// When [`Relay::transmit`] has to be called at the latest; 0 = now, `None` = nothing waits.
    pub fn next_deadline_us(&mut self) -> Option<u64> {
        if !self.ready.is_empty() {
            return Some(0);
        }
        while let Some(entry) = self.opened.front().copied() {
            if is_current(&self.egress, entry) && !self.egress[entry.backend].busy {
                break;
            }
            self.opened.pop_front();
        }
        let open = self.opened.front().and_then(|entry| self.deadline_us(entry.backend));
        let busy = (!self.busy.is_empty()).then_some(self.busy_retry_us);
        open.into_iter().chain(busy).min()
    }

    /// Whether the driver has none of this relay's packets.
    pub fn is_settled(&self) -> bool {
        self.handed_over.0 == 0
    }

    /// Whether it holds no metric at all.
    pub fn is_empty(&self) -> bool {
        self.counters.get(Counter::MetricsPending) == 0
    }

    /// Re-enables batches to a backend, if its rules do: its socket is new, and maybe the path to it.
    pub fn allow_gso(&mut self, backend: usize) {
        let node = &self.table.nodes[backend];
        self.egress[backend].gso = node.gso;
        node.counters.gso_errno.store(0, Ordering::Relaxed);
    }

    /// Backends whose socket was busy at the last send.
    pub fn busy_backends(&self) -> usize {
        self.busy.len()
    }

    /// Its route table.
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.table
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The counters, for events counted by the worker.
    pub fn counters_mut(&mut self) -> &mut Counters {
        &mut self.counters
    }

    /// Metrics held, counted in place.
    pub fn count_pending(&self) -> u64 {
        let ready: u64 = self.ready.iter().map(|packet| u64::from(packet.metrics())).sum();
        let egress = self.egress.iter().map(|egress| egress.metrics(&self.backlog));
        ready + self.handed_over.1 + egress.sum::<u64>()
    }

    /// A debug build compares the running count with the packets themselves, and checks the counters' balance; called after
    /// every batch.
    pub fn check_account(&self) {
        debug_assert_eq!(
            self.count_pending(),
            self.counters.get(Counter::MetricsPending),
            "metrics in packets differ from metrics_pending: {}",
            self.counters.identity()
        );
        debug_assert_eq!(
            self.counters.imbalance(),
            0,
            "counters do not balance: {}",
            self.counters.identity()
        );
    }
}

fn is_current(egress: &[Egress], entry: Opened) -> bool {
    egress.get(entry.backend).is_some_and(|egress| egress.open.is_some() && egress.opened == entry.opened)
}

#[cfg(test)]
mod tests;
