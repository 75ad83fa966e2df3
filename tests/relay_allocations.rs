//! The relay does not allocate, whatever the outcome of sends: counted by the allocator.

use statsring::driver::sim::Random;
use statsring::packet::{Arrival, Packet, SendError, SendOutcome, SocketSlot};
use statsring::placement::{Hashing, LiveSet, Placement, Spec};
use statsring::relay::{
    Flush, GsoMode, Malformed, OnNodeDown, Phase, Relay, RelayLimits, RouteNode, RouteTable, Rules,
    Transmitted,
};
use statsring::stats::alloc::thread_allocations;
use statsring::stats::{Counter, DropReason};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// A table of these backends, and which are live.
fn table(backends: &[SocketAddr], is_live: impl Fn(usize) -> bool) -> RouteTable {
    let nodes: Vec<RouteNode> = backends
        .iter()
        .enumerate()
        .map(|(index, address)| RouteNode {
            name: format!("{address}, number {index}").into(),
            address: Some(*address),
            may_move: false,
            source: None,
            gso: GsoMode::Padded,
            counters: Arc::default(),
        })
        .collect();
    RouteTable {
        generation: 1,
        live: LiveSet::new((0..nodes.len()).map(is_live)),
        diverted: LiveSet::nobody(),
        nodes: nodes.into(),
        placement: Placement::Jump,
        rules: Rules {
            flush_us: 1_000,
            packet_bytes_max: 1_432,
            packet_auto: false,
            queue_bytes_max: 16 << 10,
            reopen_us: 0,
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase: Phase::Run,
        observer: None,
    }
}

/// A datagram of each kind, different for each `number`.
fn datagrams(number: u64) -> [Vec<u8>; 9] {
    let several: String = (0..40).map(|i| format!("name.{}.{i}:{number}|ms\r\n", number % 97)).collect();
    [
        format!("name.{}:{number}|c", number % 301).into_bytes(),
        several.clone().into_bytes(),
        b"no colon\n:1|c\nno.bar:1".to_vec(),
        Vec::new(),
        b"\n\n\r\n".to_vec(),
        format!("long.{}{}:1|g", number % 13, "x".repeat(3_000)).into_bytes(),
        several.repeat(8).into_bytes(),
        format!("_e{{5,4}}:ti:{:02}|text\n_sc|check {}|0", number % 100, number % 7).into_bytes(),
        vec![0xFF; 300],
    ]
}

/// A relay, and a driver simulated by the test, which chooses the outcomes.
struct Edge {
    relay: Relay,
    handed_over: VecDeque<Packet>,
    random: Random,
    now_us: u64,
}

const SENDS_MAX: usize = 512;

impl Edge {
    /// Transmits what is ready and completes everything. Of 100 outcomes, `odd` are failures.
    fn transmit(&mut self, flush: Flush, odd: u64, answer: impl Fn(u64) -> SendOutcome) {
        loop {
            let handed_over = &mut self.handed_over;
            let transmitted = self.relay.transmit(self.now_us, flush, |packet| {
                if handed_over.len() == SENDS_MAX {
                    return Err(packet);
                }
                handed_over.push_back(packet);
                Ok(())
            });
            while let Some(packet) = self.handed_over.pop_front() {
                let draw = self.random.below(100);
                let outcome = if draw < odd { answer(draw) } else { SendOutcome::Sent };
                self.relay.sent(packet, outcome, self.now_us);
            }
            if transmitted == Transmitted::All && self.relay.next_deadline_us() != Some(0) {
                return;
            }
        }
    }

    /// Keeps every backend busy until the queues are full, then drains them. Returns the number of busy backends.
    fn fill_all_queues(&mut self, inputs: &[Vec<u8>]) -> usize {
        for input in inputs.iter().cycle().take(20_000) {
            if !self.relay.has_room() {
                self.transmit(Flush::Due, 100, |_| SendOutcome::Busy);
            }
            self.ingest(input);
        }
        let busy_backends = self.relay.busy_backends();
        self.now_us += 1_000_000;
        self.transmit(Flush::All, 0, odd_answer);
        busy_backends
    }

    /// Every datagram has a timestamp, which the relay may use or not.
    fn ingest(&mut self, bytes: &[u8]) {
        let arrival = Arrival { bound_us: self.now_us, taken_us: self.now_us, after_idle: false };
        let stamped_us = Some(self.now_us as i64 - 7);
        self.relay.ingest_stamped(arrival, stamped_us, &bytes[..bytes.len().min(8_192)], bytes.len());
        self.now_us += 10;
    }
}

/// Cycles through all unsuccessful outcomes.
fn odd_answer(draw: u64) -> SendOutcome {
    match draw % 7 {
        0 => SendOutcome::Busy,
        1 => SendOutcome::Refused,
        2 => SendOutcome::Unreachable(SendError::HostUnreachable),
        3 => SendOutcome::NoBuffers(SendError::NoBuffers),
        4 => SendOutcome::TooLong,
        5 => SendOutcome::Denied(SendError::NotPermitted),
        _ => SendOutcome::Failed(libc::EIO),
    }
}

#[test]
fn relay_with_a_thousand_backends_does_not_allocate() {
    relay_all(false);
}

#[test]
fn relay_with_timestamps_does_not_allocate() {
    relay_all(true);
}

fn relay_all(timestamps: bool) {
    let addresses: Vec<SocketAddr> =
        (0..1_000).map(|index| SocketAddr::from(([127, 0, 0, 1], 10_000 + index))).collect();
    let sockets: Vec<Option<SocketSlot>> = (0..1_000).map(|index| Some(SocketSlot(index))).collect();
    let limits = RelayLimits {
        sends_max: SENDS_MAX,
        backlog_bytes_max: 4 << 20,
        datagram_bytes_max: 8_192,
        cache_entries: 10_000,
        timestamps,
    };
    let table = Arc::new(table(&addresses, |index| index % 10 != 3));
    let mut edge = Edge {
        relay: Relay::new(limits, table, &sockets),
        handed_over: VecDeque::with_capacity(SENDS_MAX),
        random: Random::new(7),
        now_us: 0,
    };
    let mut inputs: Vec<Vec<u8>> = (0..300).flat_map(datagrams).collect();
    inputs.extend((0..3_000).map(|number| format!("spread.{number}:1|c").into_bytes()));
    inputs.push(vec![b'x'; 65_507]);

    let before = thread_allocations();
    for odd in [0, 30, 100] {
        for (number, input) in inputs.iter().cycle().take(20_000).enumerate() {
            if !edge.relay.has_room() || number % 64 == 0 {
                edge.transmit(Flush::Due, odd, odd_answer);
            }
            edge.ingest(input);
        }
        edge.transmit(Flush::All, odd, odd_answer);
    }
    let busy_backends = edge.fill_all_queues(&inputs);
    assert_eq!(thread_allocations() - before, 0);

    let counters = edge.relay.counters();
    assert_eq!((counters.imbalance(), counters.get(Counter::MetricsPending)), (0, 0), "{counters:?}");
    assert!(busy_backends > 800, "expected more than 800 busy backends, found {busy_backends}");
    for reason in [DropReason::QueueFull, DropReason::SendRefused, DropReason::SendFailed] {
        assert!(counters.dropped(reason) > 0, "{}: {counters:?}", reason.name());
    }
}

#[test]
fn placement_does_not_allocate() {
    let addresses: Vec<SocketAddr> =
        (0..1_000).map(|index| SocketAddr::from(([127, 0, 0, 1], 10_000 + index))).collect();
    let sockets: Vec<Option<SocketSlot>> = (0..1_000).map(|index| Some(SocketSlot(index))).collect();
    // Without a cache every metric is placed anew.
    let limits = RelayLimits {
        sends_max: SENDS_MAX,
        backlog_bytes_max: 4 << 20,
        datagram_bytes_max: 8_192,
        cache_entries: 0,
        timestamps: false,
    };
    let inputs: Vec<Vec<u8>> = (0..100).flat_map(datagrams).collect();
    for hashing in Hashing::ALL {
        let table = table(&addresses, |index| index % 10 != 3);
        let spec = Spec {
            hashing,
            nodes: table.nodes.iter().map(|node| (node.name.clone(), 1)).collect(),
            shards: (0..1_000).collect(),
        };
        let placement = Placement::new(spec).with_living(&table.live);
        let mut edge = Edge {
            relay: Relay::new(limits, Arc::new(RouteTable { placement, ..table }), &sockets),
            handed_over: VecDeque::with_capacity(SENDS_MAX),
            random: Random::new(7),
            now_us: 0,
        };
        let before = thread_allocations();
        for (number, input) in inputs.iter().enumerate() {
            if !edge.relay.has_room() || number % 64 == 0 {
                edge.transmit(Flush::Due, 0, odd_answer);
            }
            edge.ingest(input);
        }
        edge.transmit(Flush::All, 0, odd_answer);
        assert_eq!(thread_allocations() - before, 0, "{}", hashing.name());
        assert!(edge.relay.counters().get(Counter::MetricsSent) > 10_000, "{}", hashing.name());
    }
}
