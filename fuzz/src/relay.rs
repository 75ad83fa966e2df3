//! Datagrams through the whole relay, with any outcome of any send; the counters are checked after every step.
//!
//! Input: pieces separated by FF FE. The first two bytes of the first piece select the rules (bit 6 of the second: whether
//! packets record arrival times). Every other piece is a step selected by its first byte: `D` a datagram, `C` a truncated one,
//! `T` and `F` transmit what is due or everything, `O` outcomes, `A` time passes, `L` other backends are live or exist. Any
//! other piece is a datagram.
//!
//! Invariants: every line leaves once, unchanged, for the backend that owns its name, or is counted under one drop reason; no
//! packet is empty, too long, or holds a partial line; the counters balance; order is kept while every send succeeds.

use crate::naive;
use statsring::failpoint::{Mutation, is_active};
use statsring::packet::{Arrival, Packet, SendError, SendOutcome, SocketSlot};
use statsring::placement::{LiveSet, Placement};
use statsring::relay::{
    Flush, GsoMode, Malformed, OnNodeDown, Phase, Relay, RelayLimits, RouteNode, RouteTable, Rules,
    Transmitted,
};
use statsring::stats::{Counter, DropReason};
use statsring::wire::Scanner;
use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Receive buffer size.
const DATAGRAM_BYTES_MAX: usize = 300;
/// Numbers of backends: few, or more than are searched without the cache.
const NODES_FEW: usize = 4;
const NODES_MANY: usize = 12;

/// Interprets any input as rules and steps.
pub fn run(bytes: &[u8]) {
    let mut pieces = pieces(bytes);
    let start = pieces.next().unwrap_or(&[]);
    let mut world = World::new(byte(start, 0), byte(start, 1));
    for piece in pieces {
        world.step(piece);
        world.check();
    }
    world.end();
}

fn byte(piece: &[u8], index: usize) -> u8 {
    piece.get(index).copied().unwrap_or(0xF)
}

fn pieces(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(bytes);
    std::iter::from_fn(move || {
        let bytes = rest?;
        let end = bytes.windows(2).position(|pair| pair == [0xFF, 0xFE]);
        rest = end.map(|end| &bytes[end + 2..]);
        Some(&bytes[..end.unwrap_or(bytes.len())])
    })
}

/// Expectations for the lines received so far.
#[derive(Default)]
struct Expected {
    received: u64,
    malformed: u64,
    truncated: u64,
    no_backend: u64,
    node_down: u64,
    /// Lines not yet sent, with their backends, by hash.
    waiting: HashMap<u64, u32>,
    /// The same in order, per backend; valid only while every send succeeds.
    in_order: [VecDeque<u64>; NODES_MANY],
}

struct World {
    relay: Relay,
    live: u8,
    rules: Rules,
    generation: u64,
    now_us: u64,
    with_driver: VecDeque<Packet>,
    expected: Expected,
    sent: u64,
    all_good: bool,
}

impl World {
    fn new(flags: u8, live: u8) -> World {
        let rules = Rules {
            flush_us: if flags & 1 == 0 { 0 } else { 1_000 },
            packet_bytes_max: 30 + 20 * usize::from(flags >> 5),
            packet_auto: false,
            queue_bytes_max: 3 * (30 + 20 * usize::from(flags >> 5)),
            reopen_us: 0,
            malformed: if flags & 2 == 0 { Malformed::Drop } else { Malformed::Forward },
            on_node_down: if flags & 4 == 0 { OnNodeDown::Divert } else { OnNodeDown::Drop },
        };
        let limits = RelayLimits {
            sends_max: 8,
            backlog_bytes_max: 1_000,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            cache_entries: if flags & 8 == 0 { 0 } else { 64 },
            timestamps: live & 0x40 != 0,
        };
        let mut relay = Relay::new(limits, table(live, rules, 1), &sockets(live));
        if flags & 16 != 0 {
            relay.scan_by(Scanner::portable());
        }
        World {
            relay,
            live,
            rules,
            generation: 1,
            now_us: 1,
            with_driver: VecDeque::new(),
            expected: Expected::default(),
            sent: 0,
            all_good: true,
        }
    }

    fn step(&mut self, piece: &[u8]) {
        let rest = piece.get(1..).unwrap_or(&[]);
        match piece.first() {
            Some(b'D') => self.datagram(rest, 0),
            Some(b'C') => self.datagram(rest, 9),
            Some(b'T') => self.transmit(Flush::Due, usize::from(byte(rest, 0) & 15)),
            Some(b'F') => self.transmit(Flush::All, usize::from(byte(rest, 0) & 15)),
            Some(b'O') => rest.iter().for_each(|kind| self.outcome(outcome(*kind))),
            Some(b'A') => self.now_us += 100 * u64::from(byte(rest, 0)),
            Some(b'L') => self.reroute(byte(rest, 0)),
            _ => self.datagram(piece, 0),
        }
    }

    /// A datagram that was `missing` bytes longer.
    fn datagram(&mut self, bytes: &[u8], missing: usize) {
        // Like the worker: receive only if there is room for its lines.
        while !self.relay.has_room() {
            self.transmit(Flush::Due, 8);
            self.recycle_all();
        }
        let received = &bytes[..bytes.len().min(DATAGRAM_BYTES_MAX)];
        let arrival = Arrival { bound_us: self.now_us, taken_us: self.now_us, after_idle: false };
        let is_cut = missing > 0 || received.len() < bytes.len();
        // Some datagrams have no timestamp; a relay without timestamps ignores it.
        let stamped_us = (!bytes.len().is_multiple_of(3)).then_some(self.now_us as i64 - 5);
        self.relay.ingest_stamped(arrival, stamped_us, received, bytes.len() + missing);
        let mut whole = received;
        if is_cut {
            let end = received.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
            let was_cut = u64::from(end < received.len());
            self.expected.received += was_cut;
            self.expected.truncated += was_cut;
            whole = &received[..end];
        }
        for line in naive::lines(whole) {
            self.expected.received += 1;
            self.expect(line);
        }
    }

    fn expect(&mut self, line: &[u8]) {
        let expected = &mut self.expected;
        let key = match (naive::key(line), self.rules.malformed) {
            (Some(key), _) => key,
            (None, Malformed::Forward) => line,
            (None, Malformed::Drop) => {
                expected.malformed += 1;
                return;
            }
        };
        let Some(owner) = Placement::Jump.owner(key, &live_set(self.live)) else {
            expected.no_backend += 1;
            return;
        };
        let home = Placement::Jump.home(key, nodes(self.live));
        let is_dead = home.is_some_and(|home| home != owner && !is_diverted(self.live, home));
        if self.rules.on_node_down == OnNodeDown::Drop && is_dead {
            expected.node_down += 1;
            return;
        }
        let hash = hash(line, owner);
        *expected.waiting.entry(hash).or_default() += 1;
        expected.in_order[owner].push_back(hash);
    }

    fn transmit(&mut self, flush: Flush, room: usize) {
        let (mut left, with_driver) = (room, &mut self.with_driver);
        let before = with_driver.len();
        let transmitted = self.relay.transmit(self.now_us, flush, |packet| {
            if left == 0 {
                return Err(packet);
            }
            left -= 1;
            with_driver.push_back(packet);
            Ok(())
        });
        assert!(transmitted == Transmitted::All || left == 0);
        if transmitted == Transmitted::All {
            let due_us = self.relay.next_deadline_us();
            assert!(due_us.is_none_or(|due_us| due_us > self.now_us), "a due packet was not sent");
        }
        for packet in self.with_driver.iter().skip(before) {
            self.check_packet(packet);
        }
    }

    fn check_packet(&self, packet: &Packet) {
        let lines: Vec<&[u8]> = lines_of(packet).collect();
        assert_eq!(lines.len(), packet.metrics() as usize, "metrics of a packet");
        assert!(!lines.is_empty() && !packet.bytes().starts_with(b"\n"));
        assert!(packet.len() <= self.rules.packet_bytes_max || lines.len() == 1, "packet too long");
        assert_eq!(packet.socket(), SocketSlot(packet.backend() as u32));
        let noted =
            packet.arrivals().into_iter().flat_map(|arrivals| arrivals.iter()).map(|(_, metrics)| metrics);
        assert!(noted.sum::<u32>() <= packet.metrics(), "more arrivals than metrics");
    }

    /// Completes the oldest packet of the driver.
    fn outcome(&mut self, outcome: SendOutcome) {
        let Some(packet) = self.with_driver.pop_front() else { return };
        self.all_good &= outcome == SendOutcome::Sent;
        if outcome == SendOutcome::Sent {
            for line in lines_of(&packet) {
                let hash = hash(line, packet.backend());
                let waiting = self.expected.waiting.get_mut(&hash).filter(|count| **count > 0);
                *waiting.expect("a line was sent that was not queued for this backend") -= 1;
                self.sent += 1;
                if self.all_good {
                    let next = self.expected.in_order[packet.backend()].pop_front();
                    assert_eq!(next, Some(hash), "lines were reordered");
                }
            }
        }
        let is_lost = outcome == SendOutcome::Refused && is_active(Mutation::RefusedPacketLost);
        self.relay.sent(packet, if is_lost { SendOutcome::Sent } else { outcome }, self.now_us);
    }

    fn recycle_all(&mut self) {
        while !self.with_driver.is_empty() {
            self.outcome(SendOutcome::Sent);
        }
    }

    /// Like the worker: flush first, and the driver returns all packets.
    fn reroute(&mut self, live: u8) {
        while {
            self.transmit(Flush::All, usize::MAX);
            !self.with_driver.is_empty()
        } {
            self.recycle_all();
        }
        self.generation += 1;
        self.live = live;
        self.relay.reroute(table(live, self.rules, self.generation), &sockets(live), self.now_us);
    }

    fn check(&self) {
        let (counters, expected) = (self.relay.counters(), &self.expected);
        assert_eq!(counters.imbalance(), 0, "the account");
        assert_eq!(self.relay.count_pending(), counters.get(Counter::MetricsPending), "pending");
        assert_eq!(counters.get(Counter::MetricsReceived), expected.received, "received");
        assert_eq!(counters.get(Counter::MetricsSent), self.sent, "sent");
        assert_eq!(counters.dropped(DropReason::Malformed), expected.malformed, "malformed");
        assert_eq!(counters.dropped(DropReason::Truncated), expected.truncated, "truncated");
        assert_eq!(counters.dropped(DropReason::NoBackend), expected.no_backend, "no backend");
        assert_eq!(counters.dropped(DropReason::NodeDown), expected.node_down, "node down");
    }

    /// Drains everything: what was not sent must equal what was dropped.
    fn end(mut self) {
        // Deferred packets are retried after a pause; a few rounds reach all of them.
        for _ in 0..50 {
            self.now_us += 100_000;
            self.transmit(Flush::All, usize::MAX);
            self.recycle_all();
            if self.relay.is_empty() {
                break;
            }
        }
        self.check();
        assert!(self.relay.is_empty() && self.relay.is_settled(), "packets remain");
        let left: u32 = self.expected.waiting.values().sum();
        let known = self.expected.malformed
            + self.expected.truncated
            + self.expected.no_backend
            + self.expected.node_down;
        assert_eq!(u64::from(left), self.relay.counters().dropped_total() - known, "lost but not counted");
    }
}

/// Lines of a packet; packets of a GSO batch are padded with newlines.
fn lines_of(packet: &Packet) -> impl Iterator<Item = &[u8]> {
    packet.bytes().split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn hash(line: &[u8], backend: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (line, backend).hash(&mut hasher);
    hasher.finish()
}

fn outcome(kind: u8) -> SendOutcome {
    match kind % 11 {
        1 => SendOutcome::Busy,
        2 => SendOutcome::Refused,
        3 => SendOutcome::Unreachable(SendError::HostUnreachable),
        4 => SendOutcome::NoBuffers(SendError::NoBuffers),
        5 => SendOutcome::TooLong,
        6 => SendOutcome::Denied(SendError::NotPermitted),
        7 => SendOutcome::Failed(5),
        8 => SendOutcome::GsoRefused(5),
        9 => SendOutcome::Answered(71),
        10 => SendOutcome::TooBigForPath,
        _ => SendOutcome::Sent,
    }
}

fn live_set(live: u8) -> LiveSet {
    LiveSet::new((0..nodes(live)).map(|index| is_live(live, index)))
}

fn is_live(live: u8, index: usize) -> bool {
    live >> (index % NODES_FEW) & 1 == 1
}

/// Every second dead backend is drained if bit 5 is set.
fn is_diverted(live: u8, index: usize) -> bool {
    live & 0x20 != 0 && !is_live(live, index) && index.is_multiple_of(2)
}

/// The number of backends: bit 4 of `live`.
fn nodes(live: u8) -> usize {
    if live & 0x10 == 0 { NODES_FEW } else { NODES_MANY }
}

fn sockets(live: u8) -> Vec<Option<SocketSlot>> {
    (0..nodes(live) as u32).map(|slot| Some(SocketSlot(slot))).collect()
}

fn table(live: u8, rules: Rules, generation: u64) -> Arc<RouteTable> {
    thread_local! {
        static NODES: [Arc<[RouteNode]>; 2] = [NODES_FEW, NODES_MANY].map(route_nodes);
    }
    Arc::new(RouteTable {
        generation,
        nodes: NODES.with(|lists| lists[usize::from(nodes(live) == NODES_MANY)].clone()),
        live: live_set(live),
        diverted: LiveSet::new((0..nodes(live)).map(|index| is_diverted(live, index))),
        placement: Placement::Jump,
        rules,
        phase: Phase::Run,
        observer: None,
    })
}

fn route_nodes(count: usize) -> Arc<[RouteNode]> {
    let node = |index: usize| RouteNode {
        name: format!("node{index}:8125").into(),
        address: "127.0.0.1:9".parse().ok(),
        may_move: false,
        source: None,
        gso: [GsoMode::Padded, GsoMode::Unpadded, GsoMode::Off][index % 3],
        counters: Arc::default(),
    };
    (0..count).map(node).collect()
}
