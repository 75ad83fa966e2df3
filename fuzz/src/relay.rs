//! Datagrams through the whole relay, with any outcome of any send, and the account checked after every step.
//!
//! The bytes are pieces, parted by FF FE. The first two bytes of the first piece are the rules (bit 6 of the second: whether
//! packets note when metrics arrived); every other piece is one step,
//! named by its first byte: `D` a datagram, `C` one that was longer, `T` and `F` transmit what is due and everything, `O`
//! outcomes, `A` time goes by, `L` other backends live, or there are
//! others. Any other piece is a datagram.
//!
//! What is held: every line leaves once, unchanged, for the backend that owns its name, or is counted under one reason; no
//! packet is empty, too long, or holds half a line; the account balances; order is kept while every send is good.

use crate::naive;
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

/// Room for a datagram.
const DATAGRAM_BYTES_MAX: usize = 300;
/// Backends: few, or more than a walk without the cache takes.
const NODES_FEW: usize = 4;
const NODES_MANY: usize = 12;

/// Any bytes are rules and steps.
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

/// What was expected of the lines received so far.
#[derive(Default)]
struct Expected {
    received: u64,
    malformed: u64,
    truncated: u64,
    no_backend: u64,
    node_down: u64,
    /// Lines that have not left, with their backends, by hash.
    waiting: HashMap<u64, u32>,
    /// The same in order, for each backend; only right while every send is good.
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

    /// A datagram that was `missing` bytes longer than what is there.
    fn datagram(&mut self, bytes: &[u8], missing: usize) {
        // As the worker does: no datagram is taken before there is room for its lines.
        while !self.relay.has_room() {
            self.transmit(Flush::Due, 8);
            self.give_all_back();
        }
        let received = &bytes[..bytes.len().min(DATAGRAM_BYTES_MAX)];
        let arrival = Arrival { bound_us: self.now_us, taken_us: self.now_us, after_idle: false };
        let is_cut = missing > 0 || received.len() < bytes.len();
        // Some datagrams have no stamp; a relay without timestamps takes no notice.
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
            assert!(due_us.is_none_or(|due_us| due_us > self.now_us), "something due was left");
        }
        for packet in self.with_driver.iter().skip(before) {
            self.check_packet(packet);
        }
    }

    fn check_packet(&self, packet: &Packet) {
        let lines: Vec<&[u8]> = lines_of(packet).collect();
        assert_eq!(lines.len(), packet.metrics as usize, "metrics of a packet");
        assert!(!lines.is_empty() && !packet.bytes().starts_with(b"\n"));
        assert!(packet.len() <= self.rules.packet_bytes_max || lines.len() == 1, "a packet is too long");
        assert_eq!(packet.socket, SocketSlot(packet.backend as u32));
        let noted = packet.arrivals.iter().flat_map(|arrivals| arrivals.iter()).map(|(_, metrics)| metrics);
        assert!(noted.sum::<u32>() <= packet.metrics, "arrivals of metrics that are not there");
    }

    /// The oldest packet that the driver has comes back.
    fn outcome(&mut self, outcome: SendOutcome) {
        let Some(packet) = self.with_driver.pop_front() else { return };
        self.all_good &= outcome == SendOutcome::Sent;
        if outcome == SendOutcome::Sent {
            for line in lines_of(&packet) {
                let hash = hash(line, packet.backend);
                let waiting = self.expected.waiting.get_mut(&hash).filter(|count| **count > 0);
                *waiting.expect("a line left that was not waiting for this backend") -= 1;
                self.sent += 1;
                if self.all_good {
                    let next = self.expected.in_order[packet.backend].pop_front();
                    assert_eq!(next, Some(hash), "a line overtook another");
                }
            }
        }
        self.relay.sent(packet, outcome, self.now_us);
    }

    fn give_all_back(&mut self) {
        while !self.with_driver.is_empty() {
            self.outcome(SendOutcome::Sent);
        }
    }

    /// As the worker does: what can leave leaves first, and the driver gives everything back.
    fn reroute(&mut self, live: u8) {
        while {
            self.transmit(Flush::All, usize::MAX);
            !self.with_driver.is_empty()
        } {
            self.give_all_back();
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

    /// Everything leaves: what never left is exactly what was dropped.
    fn end(mut self) {
        // A packet that waits is tried again after a pause; a few rounds reach every one of them.
        for _ in 0..50 {
            self.now_us += 100_000;
            self.transmit(Flush::All, usize::MAX);
            self.give_all_back();
            if self.relay.is_empty() {
                break;
            }
        }
        self.check();
        assert!(self.relay.is_empty() && self.relay.is_settled(), "something stays for ever");
        let left: u32 = self.expected.waiting.values().sum();
        let known = self.expected.malformed
            + self.expected.truncated
            + self.expected.no_backend
            + self.expected.node_down;
        assert_eq!(u64::from(left), self.relay.counters().dropped_total() - known, "lost without a count");
    }
}

/// Lines of a packet; a packet that others follow in a train is filled up with newlines.
fn lines_of(packet: &Packet) -> impl Iterator<Item = &[u8]> {
    packet.bytes().split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn hash(line: &[u8], backend: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    (line, backend).hash(&mut hasher);
    hasher.finish()
}

fn outcome(kind: u8) -> SendOutcome {
    match kind % 10 {
        1 => SendOutcome::Busy,
        2 => SendOutcome::Refused,
        3 => SendOutcome::Unreachable(SendError::HostUnreachable),
        4 => SendOutcome::NoBuffers(SendError::NoBuffers),
        5 => SendOutcome::TooLong,
        6 => SendOutcome::Denied(SendError::NotPermitted),
        7 => SendOutcome::Failed(5),
        8 => SendOutcome::GsoRefused(5),
        9 => SendOutcome::Answered(71),
        _ => SendOutcome::Sent,
    }
}

fn live_set(live: u8) -> LiveSet {
    LiveSet::new((0..nodes(live)).map(|index| lives(live, index)))
}

fn lives(live: u8, index: usize) -> bool {
    live >> (index % NODES_FEW) & 1 == 1
}

/// Of those that do not live, every second one is drained if bit 5 says so.
fn is_diverted(live: u8, index: usize) -> bool {
    live & 0x20 != 0 && !lives(live, index) && index.is_multiple_of(2)
}

/// How many backends there are: bit 4 of who lives.
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
