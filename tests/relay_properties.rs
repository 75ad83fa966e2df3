//! Properties of the pure relay with generated input, compared with a naive oracle.
//!
//! Invariants for any input and any order of completions and table changes: every line leaves once, unchanged, for the backend
//! that owns its name, or is counted under one drop reason; no packet is empty, too long, or holds a partial line; order is
//! kept; nothing waits beyond its deadline; the counters balance after every step.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use statsring::failpoint::{Mutation, activate, is_active};
use statsring::packet::{Arrival, Packet, SendError, SendOutcome, SocketSlot};
use statsring::placement::{LiveSet, Placement};
use statsring::relay::{
    Flush, GsoMode, Malformed, OnNodeDown, Phase, REFUSED_ATTEMPTS_MAX, Relay, RelayLimits, RouteNode,
    RouteTable, Rules, Transmitted,
};
use statsring::stats::{Counter, DropReason};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Receive buffer size.
const DATAGRAM_BYTES_MAX: usize = 400;

#[derive(Clone, Debug)]
enum Op {
    /// A datagram arrives; it is truncated to the buffer.
    Datagram(Vec<u8>),
    /// Time passes.
    Advance(u64),
    /// The worker transmits; the driver has room for this many packets.
    Transmit { all: bool, room: usize },
    /// The driver completes its oldest packets.
    Outcomes(Vec<SendOutcome>),
    /// Control publishes other nodes, rules, or live states.
    Table(TableSpec),
}

#[derive(Clone, Debug)]
struct TableSpec {
    /// Numbers of nodes, and whether each is live.
    nodes: Vec<(u8, bool)>,
    rules: Rules,
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        4 => (0..20u8).prop_map(|number| format!("name.{number}").into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..6),
        1 => (0..130usize).prop_map(|length| vec![b'n'; length]),
    ];
    let rest = prop_oneof![
        6 => (0..1000u32).prop_map(|value| format!(":{value}|c").into_bytes()),
        1 => Just(b":1".to_vec()),
        1 => Just(b"".to_vec()),
        1 => Just(b":1|c\r".to_vec()),
        1 => Just(b":1|g|@0.1|#tag:x|y:z".to_vec()),
    ];
    prop_oneof![
        10 => (name, rest).prop_map(|(name, rest)| [name, rest].concat()),
        1 => (1..9u8).prop_map(|number| format!("_e{{5,4}}:titl{number}|text").into_bytes()),
        1 => (1..9u8).prop_map(|number| format!("_sc|check{number}|0").into_bytes()),
    ]
}

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => proptest::collection::vec(line(), 0..20).prop_map(|lines| lines.join(&b'\n')),
        1 => proptest::collection::vec(any::<u8>(), 0..2 * DATAGRAM_BYTES_MAX),
        1 => proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'a'), Just(b':'), Just(b'|')], 0..80),
    ]
}

fn rules() -> impl Strategy<Value = Rules> {
    (0..4u64, 20..200usize, 1..5usize, any::<bool>(), any::<bool>()).prop_map(
        |(flush, packet_bytes_max, queue, forward, divert)| Rules {
            flush_us: [0, 100, 5_000, 50_000][flush as usize],
            packet_bytes_max,
            packet_auto: false,
            queue_bytes_max: queue * packet_bytes_max,
            reopen_us: 0,
            malformed: if forward { Malformed::Forward } else { Malformed::Drop },
            on_node_down: if divert { OnNodeDown::Divert } else { OnNodeDown::Drop },
        },
    )
}

fn table_spec() -> impl Strategy<Value = TableSpec> {
    let nodes = proptest::collection::btree_map(0..8u8, prop::bool::weighted(0.85), 1..6);
    (nodes, rules())
        .prop_map(|(nodes, rules)| TableSpec { nodes: nodes.into_iter().collect(), rules })
        .prop_flat_map(|spec| (Just(spec.nodes.clone()).prop_shuffle(), Just(spec)))
        .prop_map(|(nodes, spec)| TableSpec { nodes, ..spec })
}

/// Mostly successful outcomes, or a mixture of all.
/// What the fake driver reports to the relay.
fn reported(outcome: SendOutcome) -> SendOutcome {
    let is_lost = outcome == SendOutcome::Refused && is_active(Mutation::RefusedPacketLost);
    if is_lost { SendOutcome::Sent } else { outcome }
}

fn outcome(is_bad: bool) -> BoxedStrategy<SendOutcome> {
    if !is_bad {
        return Just(SendOutcome::Sent).boxed();
    }
    prop_oneof![
        6 => Just(SendOutcome::Sent),
        2 => Just(SendOutcome::Busy),
        2 => Just(SendOutcome::Refused),
        1 => Just(SendOutcome::Unreachable(SendError::HostUnreachable)),
        1 => Just(SendOutcome::Answered(libc::EPROTO)),
        1 => Just(SendOutcome::NoBuffers(SendError::NoBuffers)),
        1 => Just(SendOutcome::TooLong),
        1 => Just(SendOutcome::Denied(SendError::NotPermitted)),
        1 => Just(SendOutcome::Failed(libc::EIO)),
        1 => Just(SendOutcome::Answered(libc::EMSGSIZE)),
        1 => Just(SendOutcome::GsoRefused(libc::EIO)),
        1 => Just(SendOutcome::TooBigForPath),
    ]
    .boxed()
}

fn op(is_bad: bool) -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => datagram().prop_map(Op::Datagram),
        3 => (0..8_000u64).prop_map(Op::Advance),
        4 => (any::<bool>(), 0..30usize).prop_map(|(all, room)| Op::Transmit { all, room }),
        4 => proptest::collection::vec(outcome(is_bad), 1..20).prop_map(Op::Outcomes),
        1 => table_spec().prop_map(Op::Table),
    ]
}

/// The expected fate of every line, computed naively.
#[derive(Default)]
struct Oracle {
    /// Lines not yet sent, by text, with the backend of each.
    waiting: HashMap<Vec<u8>, Vec<String>>,
    /// Order of arrival per backend, for lines whose text is unique.
    arrived: HashMap<Vec<u8>, usize>,
    count: usize,
    received: u64,
    /// Known drops by reason.
    malformed: u64,
    truncated: u64,
    no_backend: u64,
    node_down: u64,
}

/// The naive key: up to the first colon, if a bar follows.
fn naive_key(line: &[u8]) -> Option<Vec<u8>> {
    let text = line.to_vec();
    if let Some(rest) = text.strip_prefix(b"_sc|")
        && let Some(end) = rest.iter().position(|byte| *byte == b'|').filter(|end| *end > 0)
    {
        return Some(rest[..end].to_vec());
    }
    if text.starts_with(b"_e{5,4}:") && text.get(13) == Some(&b'|') {
        return Some(text[8..13].to_vec());
    }
    let colon = text.iter().position(|byte| *byte == b':').filter(|colon| *colon > 0)?;
    text[colon..].contains(&b'|').then(|| text[..colon].to_vec())
}

/// Jump consistent hash as in its paper, and the documented rule for dead backends.
fn naive_owner(key: &[u8], live: &[bool]) -> Option<usize> {
    fn mix(value: u64) -> u64 {
        let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn jump(mut key: u64, buckets: usize) -> usize {
        let (mut b, mut j) = (-1i64, 0i64);
        while j < buckets as i64 {
            b = j;
            key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
            j = ((b + 1) as f64 * (2_147_483_648.0 / ((key >> 33) + 1) as f64)) as i64;
        }
        b as usize
    }
    if !live.contains(&true) {
        return None;
    }
    let name = xxhash_rust::xxh3::xxh3_64(key);
    let draws = std::iter::successors(Some(name), |hash| Some(mix(*hash))).take(32);
    draws.map(|hash| jump(hash, live.len())).find(|bucket| live[*bucket]).or_else(|| {
        (0..live.len()).filter(|index| live[*index]).max_by_key(|index| mix(name ^ mix(*index as u64)))
    })
}

impl Oracle {
    fn take(&mut self, received: &[u8], is_cut: bool, spec: &TableSpec) {
        let mut pieces: Vec<&[u8]> = received.split(|byte| *byte == b'\n').collect();
        if is_cut && pieces.pop().is_some_and(|cut| !cut.is_empty()) {
            self.received += 1;
            self.truncated += 1;
        }
        for piece in pieces {
            let line = piece.strip_suffix(b"\r").unwrap_or(piece);
            if !line.is_empty() {
                self.received += 1;
                self.route(line, spec);
            }
        }
    }

    fn route(&mut self, line: &[u8], spec: &TableSpec) {
        let key = match (naive_key(line), spec.rules.malformed) {
            (Some(key), _) => key,
            (None, Malformed::Forward) => line.to_vec(),
            (None, Malformed::Drop) => {
                self.malformed += 1;
                return;
            }
        };
        let live: Vec<bool> = spec.nodes.iter().map(|(_, lives)| *lives).collect();
        let Some(owner) = naive_owner(&key, &live) else {
            self.no_backend += 1;
            return;
        };
        let home = naive_owner(&key, &vec![true; live.len()]);
        let is_diverted = home.is_some_and(|home| is_diverted(spec.nodes[home]));
        if home != Some(owner) && spec.rules.on_node_down == OnNodeDown::Drop && !is_diverted {
            self.node_down += 1;
            return;
        }
        self.waiting.entry(line.to_vec()).or_default().push(node_name(spec.nodes[owner].0));
        self.count += 1;
        // Repeated text cannot be told from its first occurrence.
        self.arrived.entry(line.to_vec()).and_modify(|place| *place = 0).or_insert(self.count);
    }
}

/// Of the backends that are not live, those with even numbers are drained, not dead.
fn is_diverted((number, lives): (u8, bool)) -> bool {
    !lives && number.is_multiple_of(2)
}

fn gso_mode(number: u8) -> GsoMode {
    [GsoMode::Padded, GsoMode::Unpadded, GsoMode::Off][usize::from(number % 3)]
}

fn node_name(number: u8) -> String {
    format!("node{number}:8125")
}

fn table(spec: &TableSpec, generation: u64) -> Arc<RouteTable> {
    let nodes: Vec<RouteNode> = spec
        .nodes
        .iter()
        .map(|(number, _)| RouteNode {
            name: node_name(*number).into(),
            address: "127.0.0.1:9".parse().ok(),
            may_move: false,
            source: None,
            gso: gso_mode(*number),
            counters: Arc::default(),
        })
        .collect();
    Arc::new(RouteTable {
        generation,
        nodes: nodes.into(),
        live: LiveSet::new(spec.nodes.iter().map(|(_, lives)| *lives)),
        diverted: LiveSet::new(spec.nodes.iter().map(|node| is_diverted(*node))),
        placement: Placement::Jump,
        rules: spec.rules,
        phase: Phase::Run,
        observer: None,
    })
}

fn sockets(spec: &TableSpec) -> Vec<Option<SocketSlot>> {
    spec.nodes.iter().map(|(number, _)| Some(SocketSlot(u32::from(*number)))).collect()
}

/// The relay, a driver made of a queue, and the oracle.
struct World {
    relay: Relay,
    spec: TableSpec,
    generation: u64,
    now_us: u64,
    with_driver: VecDeque<Packet>,
    oracle: Oracle,
    /// Lines accepted by each backend, in order.
    sent: HashMap<String, Vec<Vec<u8>>>,
    /// Whether packets may have been deferred or repeated, so that order is not guaranteed.
    is_repeated: bool,
    is_busy_seen: bool,
}

impl World {
    fn new(spec: TableSpec) -> World {
        let limits = RelayLimits {
            sends_max: 8,
            backlog_bytes_max: 1_500,
            datagram_bytes_max: DATAGRAM_BYTES_MAX,
            cache_entries: 10_000,
            timestamps: false,
        };
        World {
            relay: Relay::new(limits, table(&spec, 1), &sockets(&spec)),
            spec,
            generation: 1,
            now_us: 1,
            with_driver: VecDeque::new(),
            oracle: Oracle::default(),
            sent: HashMap::new(),
            is_repeated: false,
            is_busy_seen: false,
        }
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        match op {
            Op::Datagram(bytes) => self.datagram(&bytes)?,
            Op::Advance(us) => self.now_us += us,
            Op::Transmit { all, room } => self.transmit(if all { Flush::All } else { Flush::Due }, room)?,
            Op::Outcomes(outcomes) => self.outcomes(&outcomes)?,
            Op::Table(spec) => self.reroute(spec)?,
        }
        self.check()
    }

    fn datagram(&mut self, bytes: &[u8]) -> Result<(), TestCaseError> {
        // Like the worker: receive only if there is room for its lines.
        while !self.relay.has_room() {
            self.transmit(Flush::Due, 8)?;
            self.outcomes(&[SendOutcome::Sent; 8])?;
        }
        let received = &bytes[..bytes.len().min(DATAGRAM_BYTES_MAX)];
        let arrival = Arrival { bound_us: self.now_us, taken_us: self.now_us, after_idle: false };
        self.relay.ingest(arrival, received, bytes.len());
        self.oracle.take(received, received.len() < bytes.len(), &self.spec);
        Ok(())
    }

    fn transmit(&mut self, flush: Flush, room: usize) -> Result<(), TestCaseError> {
        let mut left = room;
        let mut taken = Vec::new();
        let transmitted = self.relay.transmit(self.now_us, flush, |packet| {
            if left == 0 {
                return Err(packet);
            }
            left -= 1;
            taken.push(packet);
            Ok(())
        });
        for packet in &taken {
            self.check_packet(packet)?;
        }
        self.with_driver.extend(taken);
        if transmitted == Transmitted::All {
            let due_us = self.relay.next_deadline_us();
            prop_assert!(
                due_us.is_none_or(|due_us| due_us > self.now_us),
                "{due_us:?} is past at {}",
                self.now_us
            );
            if flush == Flush::All && self.relay.busy_backends() == 0 {
                prop_assert_eq!(self.relay.next_deadline_us(), None);
            }
        } else {
            prop_assert_eq!(left, 0);
        }
        Ok(())
    }

    fn check_packet(&self, packet: &Packet) -> Result<(), TestCaseError> {
        let padding = packet.bytes().iter().rev().take_while(|byte| **byte == b'\n').count();
        // Packets of a GSO batch are padded with newlines to the segment size.
        prop_assert!(padding == 0 || packet.len() == self.spec.rules.packet_bytes_max || self.generation > 1);
        prop_assert!(padding == 0 || self.relay.table().nodes[packet.backend()].gso == GsoMode::Padded);
        let text = &packet.bytes()[..packet.len() - padding];
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        prop_assert!(!packet.is_empty() && lines.iter().all(|line| !line.is_empty()));
        prop_assert_eq!(lines.len(), packet.metrics() as usize);
        let limit = self.spec.rules.packet_bytes_max;
        // A packet from before a change of the limit may have the old length.
        prop_assert!(packet.len() <= limit || lines.len() == 1 || self.generation > 1);
        let name = &*self.relay.table().nodes[packet.backend()].name;
        prop_assert_eq!(SocketSlot(name.as_bytes()[4].wrapping_sub(b'0').into()), packet.socket());
        Ok(())
    }

    fn outcomes(&mut self, outcomes: &[SendOutcome]) -> Result<(), TestCaseError> {
        for outcome in outcomes {
            let Some(packet) = self.with_driver.pop_front() else { return Ok(()) };
            self.is_repeated |= matches!(
                outcome,
                SendOutcome::Busy
                    | SendOutcome::Refused
                    | SendOutcome::Unreachable(_)
                    | SendOutcome::Answered(_)
                    | SendOutcome::GsoRefused(_)
                    | SendOutcome::TooBigForPath
            );
            self.is_busy_seen |= *outcome == SendOutcome::Busy;
            prop_assert!(packet.attempts() <= REFUSED_ATTEMPTS_MAX);
            if *outcome == SendOutcome::Sent {
                let name = self.relay.table().nodes[packet.backend()].name.to_string();
                for line in packet.bytes().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    self.leave(line, &name)?;
                }
            }
            self.relay.sent(packet, reported(*outcome), self.now_us);
        }
        Ok(())
    }

    /// A backend accepted a line: it must have been queued for it.
    fn leave(&mut self, line: &[u8], name: &str) -> Result<(), TestCaseError> {
        let shown = String::from_utf8_lossy(line).into_owned();
        let waiting = self.oracle.waiting.get_mut(line);
        let place = waiting.as_ref().and_then(|names| names.iter().position(|owner| owner == name));
        match (waiting, place) {
            (Some(names), Some(place)) => {
                names.remove(place);
            }
            _ => prop_assert!(false, "{shown:?} was sent to {name}, but was not queued for it"),
        }
        self.sent.entry(name.into()).or_default().push(line.to_vec());
        Ok(())
    }

    /// Like the worker: flush first, and the driver returns all packets.
    fn reroute(&mut self, spec: TableSpec) -> Result<(), TestCaseError> {
        self.transmit(Flush::All, usize::MAX)?;
        while !self.with_driver.is_empty() {
            self.outcomes(&[SendOutcome::Sent])?;
        }
        prop_assert!(self.relay.is_settled());
        self.generation += 1;
        self.relay.reroute(table(&spec, self.generation), &sockets(&spec), self.now_us);
        self.spec = spec;
        Ok(())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let counters = self.relay.counters();
        prop_assert_eq!(counters.imbalance(), 0);
        prop_assert_eq!(self.relay.count_pending(), counters.get(Counter::MetricsPending));
        prop_assert_eq!(counters.get(Counter::MetricsReceived), self.oracle.received);
        prop_assert_eq!(counters.dropped(DropReason::Malformed), self.oracle.malformed);
        prop_assert_eq!(counters.dropped(DropReason::Truncated), self.oracle.truncated);
        prop_assert_eq!(counters.dropped(DropReason::NoBackend), self.oracle.no_backend);
        prop_assert_eq!(counters.dropped(DropReason::NodeDown), self.oracle.node_down);
        if !self.is_busy_seen {
            prop_assert_eq!(counters.dropped(DropReason::QueueFull), 0);
            prop_assert_eq!(counters.dropped(DropReason::NodeRemoved), 0);
        }
        let sent: usize = self.sent.values().map(Vec::len).sum();
        prop_assert_eq!(counters.get(Counter::MetricsSent), sent as u64);
        Ok(())
    }

    /// Drains everything: what was not sent must equal what was dropped.
    fn end(mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            self.now_us += 100_000;
            self.transmit(Flush::All, usize::MAX)?;
            let outcomes = vec![SendOutcome::Sent; self.with_driver.len()];
            self.outcomes(&outcomes)?;
            self.check()?;
        }
        prop_assert!(self.relay.is_empty() && self.relay.is_settled());
        let left: usize = self.oracle.waiting.values().map(Vec::len).sum();
        let known =
            self.oracle.malformed + self.oracle.truncated + self.oracle.no_backend + self.oracle.node_down;
        prop_assert_eq!(left as u64, self.relay.counters().dropped_total() - known);
        if !self.is_repeated {
            self.check_order()?;
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), TestCaseError> {
        for (name, lines) in &self.sent {
            let places: Vec<usize> =
                lines.iter().map(|line| self.oracle.arrived[line]).filter(|place| *place > 0).collect();
            prop_assert!(places.is_sorted(), "lines to {name} were reordered");
        }
        Ok(())
    }
}

fn run(spec: TableSpec, ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut world = World::new(spec);
    for op in ops {
        world.apply(op)?;
    }
    world.end()
}

#[test]
fn each_mutation_of_the_relay_is_detected() {
    let mutations = [
        Mutation::BusyPacketLost,
        Mutation::RefusedPacketLost,
        Mutation::DropUncounted,
        Mutation::DeadlineIgnored,
    ];
    for mutation in mutations {
        let config = ProptestConfig {
            cases: 1_500,
            max_shrink_iters: 0,
            failure_persistence: None,
            ..Default::default()
        };
        let mut runner = TestRunner::new(config);
        activate(Some(mutation));
        let input = (table_spec(), proptest::collection::vec(op(true), 1..60));
        let found = runner.run(&input, |(spec, ops)| run(spec, ops));
        activate(None);
        assert!(found.is_err(), "{mutation:?} was not detected");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn successful_sends_keep_all_lines_in_order(spec in table_spec(), ops in proptest::collection::vec(op(false), 1..60)) {
        run(spec, ops)?;
    }

    #[test]
    fn failed_sends_count_every_loss(spec in table_spec(), ops in proptest::collection::vec(op(true), 1..60)) {
        run(spec, ops)?;
    }

    #[test]
    fn one_name_has_one_backend(spec in table_spec(), name in "[a-z.]{1,12}", values in proptest::collection::vec(0..1000u32, 2..40)) {
        let mut world = World::new(spec);
        for value in values {
            world.datagram(format!("{name}:{value}|c").as_bytes())?;
        }
        world.transmit(Flush::All, usize::MAX)?;
        let backends: std::collections::HashSet<usize> = world.with_driver.iter().map(|packet| packet.backend()).collect();
        prop_assert!(backends.len() <= 1);
        world.end()?;
    }
}
