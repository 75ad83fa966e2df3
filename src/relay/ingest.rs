//! A datagram's lines into their backends' packets.
//!
//! In: a datagram. Out: its lines in open packets, or counted by the reason for which they are dropped. In three loops of
//! little work each, instead of one that does all: find and hash, decide, pack. A processor looks ahead by a number of
//! instructions, and so over more lines, whose waits for memory and multiplications it then has at once. Gain with 3
//! backends, `cargo bench -- relay/statsring/3`: 20.0 ns a metric instead of 28.3.
//! Next: `mod.rs`, which closes packets and hands them over.

use super::parsed_line::{Decision, ParsedLine};
use super::{Malformed, Relay};
use crate::packet::Arrival;
use crate::placement::{Placement, key_hash};
use crate::stats::{Counter, DropReason, Exit};
use crate::wire::{self, LineVisitor};

/// What became of a line. Whoever has one counts it: a line that is forgotten does not compile.
#[must_use]
enum Disposition {
    /// It is in a packet, pending.
    Held,
    /// It was dropped; with the backend, if it had one.
    Dropped(DropReason, Option<usize>),
}

/// Hashes the lines of one datagram, as they are found.
struct Hashing<'a> {
    relay: &'a mut Relay,
    arrival: Arrival,
    datagram: &'a [u8],
    /// Lines seen.
    metrics: u64,
}

impl LineVisitor for &mut Hashing<'_> {
    #[inline(always)]
    fn line(&mut self, line: &[u8], key: Option<&[u8]>) {
        self.metrics += 1;
        let relay = &mut *self.relay;
        let key = match (relay.table.key(line, key), relay.table.rules.malformed) {
            (Some(key), _) => key,
            (None, Malformed::Forward) => line,
            (None, Malformed::Drop) => {
                return relay.drop_line(DropReason::Malformed, None, self.arrival.taken_us);
            }
        };
        if relay.found.len() == relay.found.capacity() {
            relay.route_found(self.arrival, self.datagram);
        }
        // A line is a slice of its datagram: its offset is the distance between the two.
        let start = line.as_ptr().addr() - self.datagram.as_ptr().addr();
        let (start, end) = (start as u32, (start + line.len()) as u32);
        relay.found.push(ParsedLine { hash: key_hash(key), start, end, decision: None });
    }
}

impl Relay {
    /// Takes a datagram with the kernel timestamp `stamped_us`; `None` if missing or implausible. Packets record
    /// it if the limits enable that.
    pub fn ingest_stamped(
        &mut self,
        arrival: Arrival,
        stamped_us: Option<i64>,
        bytes: &[u8],
        datagram_bytes: usize,
    ) {
        self.stamped_us = stamped_us;
        self.ingest(arrival, bytes, datagram_bytes);
        self.stamped_us = None;
    }

    /// Takes a datagram: its lines are routed and packed. `datagram_bytes` is its true length, of which `bytes` is what
    /// there was room for.
    pub fn ingest(&mut self, arrival: Arrival, bytes: &[u8], datagram_bytes: usize) {
        self.counters.add(Counter::DatagramsReceived, 1);
        self.counters.add(Counter::BytesReceived, bytes.len() as u64);
        let whole =
            if datagram_bytes > bytes.len() { self.cut(arrival, bytes, datagram_bytes) } else { bytes };
        // Taken out for the time of the pass, which needs the relay as a whole; a pointer is all that moves.
        let mut line_index = self.line_index.take();
        let scanner = self.scanner;
        let mut hashing = Hashing { relay: self, arrival, datagram: whole, metrics: 0 };
        if let Some(line_index) = &mut line_index {
            scanner.each_line(whole, line_index, &mut hashing);
        }
        let metrics = hashing.metrics;
        self.line_index = line_index;
        self.route_found(arrival, whole);
        self.counters.add(Counter::MetricsReceived, metrics);
        if metrics == 0 {
            let blank = if datagram_bytes == 0 { Counter::DatagramsEmpty } else { Counter::DatagramsBlank };
            self.counters.add(blank, u64::from(datagram_bytes == bytes.len()));
        }
    }

    /// Counts a datagram that was longer than its buffer; its complete lines remain.
    fn cut<'a>(&mut self, arrival: Arrival, bytes: &'a [u8], datagram_bytes: usize) -> &'a [u8] {
        self.counters.add(Counter::DatagramsTruncated, 1);
        self.counters.add(Counter::BytesTruncated, (datagram_bytes - bytes.len()) as u64);
        let (whole, cut) = wire::split_cut_line(bytes);
        if !cut.is_empty() {
            self.counters.add(Counter::MetricsReceived, 1);
            self.drop_line(DropReason::Truncated, None, arrival.taken_us);
        }
        whole
    }

    /// Decides for the lines found, then packs them, in order.
    fn route_found(&mut self, arrival: Arrival, datagram: &[u8]) {
        let mut found = std::mem::take(&mut self.found);
        self.decide_all(&mut found, datagram);
        // Known once for all lines, so that those without a stamp are packed by code that knows of none.
        let held = match self.stamped_us {
            None => self.pack_found::<false>(arrival, &found, datagram),
            Some(_) => self.pack_found::<true>(arrival, &found, datagram),
        };
        self.counters.add(Counter::MetricsPending, held);
        found.clear();
        self.found = found;
    }

    /// Packs lines that are decided; how many are held then.
    #[inline(always)]
    fn pack_found<const STAMPED: bool>(
        &mut self,
        arrival: Arrival,
        found: &[ParsedLine],
        datagram: &[u8],
    ) -> u64 {
        let is_observed = self.table.observer.is_some();
        let mut held = 0;
        for ParsedLine { start, end, decision, .. } in found {
            let line = datagram.get(*start as usize..*end as usize).unwrap_or(&[]);
            let fate = match *decision {
                None => Disposition::Dropped(DropReason::NoBackend, None),
                Some(decision) if is_observed || decision.is_away_from_home() => {
                    self.route_unusual::<STAMPED>(arrival, line, decision)
                }
                Some(decision) => self.pack::<STAMPED>(arrival, line, decision.backend()),
            };
            match fate {
                Disposition::Held => held += 1,
                Disposition::Dropped(reason, backend) => self.drop_line(reason, backend, arrival.taken_us),
            }
        }
        held
    }

    /// Decides for lines: without memory, by the cache, or anew.
    #[inline(always)]
    fn decide_all(&mut self, found: &mut [ParsedLine], datagram: &[u8]) {
        if let Some(jump_table) = &self.jump_table {
            for line in found {
                line.decision = Some(Decision::at_home(jump_table.bucket(line.hash)));
            }
            return;
        }
        for line in found {
            line.decision = match self.cache.get(line.hash) {
                Some(decision) => Some(Decision(decision)),
                None => {
                    let (start, end) = (line.start as usize, line.end as usize);
                    self.decide(line.hash, datagram.get(start..end).unwrap_or(&[]))
                }
            };
        }
    }

    /// Packs a line that is diverted, or observed.
    #[inline(never)]
    fn route_unusual<const STAMPED: bool>(
        &mut self,
        arrival: Arrival,
        line: &[u8],
        decision: Decision,
    ) -> Disposition {
        let backend = decision.backend();
        if decision.is_away_from_home() {
            // A dead backend is chosen only if its names have to be dropped.
            if !self.table.live.contains(backend) {
                return Disposition::Dropped(DropReason::NodeDown, Some(backend));
            }
            self.counters.add(Counter::MetricsDiverted, 1);
        }
        if let Some(observer) = &self.table.observer {
            observer.routed(line, &self.table.nodes[backend]);
        }
        self.pack::<STAMPED>(arrival, line, backend)
    }

    /// Routes a name that is not cached, and caches it; `None` if no backend is live.
    #[inline(never)]
    fn decide(&mut self, hash: u64, line: &[u8]) -> Option<Decision> {
        let table = &*self.table;
        // `jump` goes by the hash alone; the others hash the key in their own way, for which it is looked for again.
        let key = match table.placement {
            Placement::Jump => line,
            _ => table.key(line, wire::routing_key(line)).unwrap_or(line),
        };
        let destination = table.placement.destination(hash, key, &table.live)?;
        let decision = Decision::new(destination, table.on_node_down(destination.home), &table.live);
        self.cache.put(hash, decision.0);
        Some(decision)
    }

    /// Counts a line that leaves without having been packed, for `backend` if one was found.
    #[inline(never)]
    fn drop_line(&mut self, reason: DropReason, backend: Option<usize>, now_us: u64) {
        self.counters.leave(Exit::Dropped(reason), 1, now_us);
        if let Some(backend) = backend {
            let counters = &self.table.nodes[backend].counters;
            counters.dropped(1);
            if reason == DropReason::SendFailed {
                counters.dropped_without_socket(1);
            }
        }
    }

    /// Puts a line into its backend's open packet, or into a fresh one.
    #[inline(always)]
    fn pack<const STAMPED: bool>(&mut self, arrival: Arrival, line: &[u8], backend: usize) -> Disposition {
        let egress = &mut self.egress[backend];
        let fill_bytes_max = egress.fill_bytes_max();
        if let Some(open) = &mut egress.open {
            if open.append_next(line, fill_bytes_max) {
                if STAMPED {
                    open.note_arrival(self.stamped_us, 1);
                }
                return Disposition::Held;
            }
            self.close(backend);
        }
        self.open(arrival, line, backend)
    }

    /// Opens a packet with its first line. One too long to be shared is closed at once.
    fn open(&mut self, arrival: Arrival, line: &[u8], backend: usize) -> Disposition {
        let Some(socket) = self.egress[backend].socket else {
            return Disposition::Dropped(DropReason::SendFailed, Some(backend));
        };
        if self.is_queue_full(backend) {
            return Disposition::Dropped(DropReason::QueueFull, Some(backend));
        }
        let Some(mut packet) = self.pool.take(line.len()) else {
            return Disposition::Dropped(DropReason::QueueFull, Some(backend));
        };
        if !packet.append(line) {
            // Unreachable: the pool's long packets hold a whole datagram. Counted anyway.
            self.pool.recycle(packet);
            return Disposition::Dropped(DropReason::SendTooLong, Some(backend));
        }
        packet.set_destination(backend, socket);
        packet.set_arrival(arrival);
        packet.note_arrival(self.stamped_us, 1);
        let egress = &mut self.egress[backend];
        let alone = packet.len() > egress.packet_bytes_max();
        if packet.len() > egress.fill_bytes_max() {
            egress.begin_gso_batch();
        }
        egress.opened += 1;
        egress.open = Some(packet);
        if alone {
            self.close(backend);
        } else {
            self.remember_deadline(backend);
        }
        Disposition::Held
    }
}
