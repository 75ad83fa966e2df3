//! A fixed workload for counting instructions: the relay end to end, with the portable scanner.
//!
//! Usage: instructions SCENARIO ROUNDS. Prints the number of metrics per round. `scripts/instructions.sh` counts the
//! instructions for two numbers of rounds; the difference excludes the startup.

use statsring::packet::{Arrival, Packet, SendOutcome, SocketSlot};
use statsring::placement::{LiveSet, Placement, splitmix64};
use statsring::relay::{
    Flush, GsoMode, Malformed, OnNodeDown, Phase, Relay, RelayLimits, RouteNode, RouteTable, Rules,
};
use statsring::wire::Scanner;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

/// Distinct names: the default size of the cache.
const NAMES: u64 = 10_000;
/// Metrics per round, in all scenarios.
const METRICS: usize = 30_000;
/// Datagrams per wake-up.
const BATCH: usize = 64;

/// A workload.
#[derive(Clone, Copy)]
struct Scenario {
    name: &'static str,
    nodes: usize,
    metrics_per_datagram: usize,
    cache_entries: usize,
    gso: GsoMode,
}

const SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: "3_nodes",
        nodes: 3,
        metrics_per_datagram: 30,
        cache_entries: 10_000,
        gso: GsoMode::Padded,
    },
    Scenario {
        name: "3_nodes_single",
        nodes: 3,
        metrics_per_datagram: 1,
        cache_entries: 10_000,
        gso: GsoMode::Padded,
    },
    Scenario {
        name: "3_nodes_no_cache",
        nodes: 3,
        metrics_per_datagram: 30,
        cache_entries: 0,
        gso: GsoMode::Padded,
    },
    Scenario {
        name: "3_nodes_unpadded",
        nodes: 3,
        metrics_per_datagram: 30,
        cache_entries: 10_000,
        gso: GsoMode::Unpadded,
    },
    Scenario {
        name: "1000_nodes",
        nodes: 1_000,
        metrics_per_datagram: 30,
        cache_entries: 10_000,
        gso: GsoMode::Padded,
    },
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (name, rounds) = (arguments.next().unwrap_or_default(), arguments.next().unwrap_or_default());
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    match (scenario, rounds.parse::<u64>()) {
        (Some(scenario), Ok(rounds)) => {
            run(scenario, rounds);
            println!("{METRICS}");
            ExitCode::SUCCESS
        }
        _ => {
            for scenario in SCENARIOS {
                eprintln!("usage: instructions {} ROUNDS", scenario.name);
            }
            ExitCode::from(64)
        }
    }
}

fn run(scenario: &Scenario, rounds: u64) {
    let datagrams = datagrams(scenario.metrics_per_datagram);
    let mut relay = relay(scenario);
    let mut out: Vec<Packet> = Vec::with_capacity(4_096);
    let mut now_us = 0;
    for _ in 0..rounds {
        for batch in datagrams.chunks(BATCH) {
            for datagram in batch {
                let arrival = Arrival { bound_us: now_us, taken_us: now_us, after_idle: false };
                relay.ingest(arrival, black_box(datagram), datagram.len());
            }
            now_us += 1_000;
            relay.transmit(now_us, Flush::Due, |packet| {
                out.push(packet);
                Ok(())
            });
            for packet in out.drain(..) {
                relay.sent(black_box(packet), SendOutcome::Sent, now_us);
            }
        }
    }
}

/// Datagrams of metrics of 40 bytes each, newline included, with names in random order.
fn datagrams(metrics_per_datagram: usize) -> Vec<Vec<u8>> {
    let mut random = 0;
    let mut line = |metric: usize| {
        random = splitmix64(random);
        let name = random % NAMES;
        let line = format!("service.region{:02}.requests.{name:06}:{:03}|c", name % 7, metric % 1_000);
        format!("{line:x<39}\n").into_bytes()
    };
    let starts = (0..METRICS).step_by(metrics_per_datagram);
    starts.map(|start| (start..start + metrics_per_datagram).flat_map(&mut line).collect()).collect()
}

fn relay(scenario: &Scenario) -> Relay {
    let node = |index: usize| RouteNode {
        name: format!("10.0.0.{index}:8125").into(),
        address: "127.0.0.1:9".parse().ok(),
        may_move: false,
        source: None,
        gso: scenario.gso,
        counters: Arc::default(),
    };
    let table = RouteTable {
        generation: 1,
        nodes: (0..scenario.nodes).map(node).collect(),
        live: LiveSet::all(scenario.nodes),
        diverted: LiveSet::nobody(),
        placement: Placement::Jump,
        rules: Rules {
            flush_us: 5_000,
            packet_bytes_max: 1_432,
            packet_auto: false,
            queue_bytes_max: 262_144,
            reopen_us: 0,
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase: Phase::Run,
        observer: None,
    };
    let limits = RelayLimits {
        sends_max: 512,
        backlog_bytes_max: 4 << 20,
        datagram_bytes_max: 8_192,
        cache_entries: scenario.cache_entries,
        timestamps: false,
    };
    let sockets: Vec<_> = (0..scenario.nodes).map(|index| Some(SocketSlot(index as u32))).collect();
    let mut relay = Relay::new(limits, Arc::new(table), &sockets);
    relay.scan_by(Scanner::portable());
    relay
}
