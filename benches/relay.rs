//! The in-process cost of a metric, each part next to a naive version, in ns per metric: scanning, hashing, placement,
//! packing, and the relay end to end; the relay by metrics per datagram, names and nodes; and the gain of each optimization.
//!
//! `cargo bench` prints the time for all metrics of a round; the throughput line gives metrics a second. Metrics have 40
//! bytes. `scripts/cost-curves.sh` uses these figures.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use statsring::packet::{Arrival, Packet, SendOutcome, SocketSlot};
use statsring::placement::{Hashing, LiveSet, Placement, Spec, jump, key_hash, splitmix64};
use statsring::relay::{
    Flush, GsoMode, Malformed, OnNodeDown, Phase, Relay, RelayLimits, RouteNode, RouteTable, Rules,
};
use statsring::wire::{self, Scanner};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Least metrics of one round: 1,024 datagrams of 30.
const METRICS: usize = 30 * 1_024;
/// Most metrics of one round. They are drawn from all names, and exceed any cache.
const METRICS_MAX: usize = 1 << 20;

/// The relay's input and parameters.
#[derive(Clone, Copy)]
struct Case {
    metrics_per_datagram: usize,
    names: u64,
    nodes: usize,
    hashing: Hashing,
    cache_entries: usize,
    scanner: Option<Scanner>,
}

/// The default. Names: more than a branch predictor learns, fewer than the cache holds, as in a typical installation.
const USUAL: Case = Case {
    metrics_per_datagram: 30,
    names: 10_000,
    nodes: 3,
    hashing: Hashing::Jump,
    cache_entries: 10_000,
    scanner: None,
};

/// Datagrams of metrics of 40 bytes with the newline, names in random order.
fn datagrams(case: &Case) -> Vec<Vec<u8>> {
    let metrics = (2 * case.names as usize).clamp(METRICS, METRICS_MAX);
    let mut random = 0;
    (0..metrics / case.metrics_per_datagram)
        .map(|_| {
            let mut bytes = Vec::new();
            for metric in 0..case.metrics_per_datagram {
                random = splitmix64(random);
                let name = random % case.names;
                let line = format!("service.region{:02}.requests.{name:06}:{metric:03}|c", name % 7);
                bytes.extend_from_slice(format!("{line:x<39}\n").as_bytes());
            }
            bytes
        })
        .collect()
}

/// Metrics of a round.
fn elements(datagrams: &[Vec<u8>]) -> Throughput {
    Throughput::Elements(datagrams.iter().map(|datagram| datagram.len() as u64 / 40).sum())
}

fn spec(hashing: Hashing, names: impl Iterator<Item = Arc<str>>) -> Spec {
    let nodes: Vec<(Arc<str>, u32)> = names.map(|name| (name, 1)).collect();
    Spec { hashing, shards: (0..nodes.len() as u16).collect(), nodes }
}

fn table(nodes: usize, hashing: Hashing) -> Arc<RouteTable> {
    let nodes: Vec<RouteNode> = (0..nodes)
        .map(|index| RouteNode {
            name: format!("10.0.0.{index}:8125").into(),
            address: "127.0.0.1:9".parse().ok(),
            may_move: false,
            source: None,
            gso: GsoMode::Padded,
            counters: Arc::default(),
        })
        .collect();
    let placement = Placement::new(spec(hashing, nodes.iter().map(|node| node.name.clone())));
    Arc::new(RouteTable {
        generation: 1,
        live: LiveSet::all(nodes.len()),
        diverted: LiveSet::nobody(),
        nodes: nodes.into(),
        placement,
        rules: Rules {
            flush_us: 5_000,
            packet_bytes_max: 1432,
            packet_auto: false,
            queue_bytes_max: 262_144,
            reopen_us: 0,
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase: Phase::Run,
        observer: None,
    })
}

fn relay(case: &Case) -> Relay {
    let limits = RelayLimits {
        sends_max: 512,
        backlog_bytes_max: 1 << 20,
        datagram_bytes_max: 8192,
        cache_entries: case.cache_entries,
        timestamps: false,
    };
    let sockets: Vec<_> = (0..case.nodes).map(|index| Some(SocketSlot(index as u32))).collect();
    let mut relay = Relay::new(limits, table(case.nodes, case.hashing), &sockets);
    if let Some(scanner) = case.scanner {
        relay.scan_by(scanner);
    }
    relay
}

/// The naive version: search, hash, jump, copy, one metric at a time.
struct Plain {
    nodes: usize,
    packets: Vec<Vec<u8>>,
    full: usize,
}

impl Plain {
    fn new(nodes: usize) -> Plain {
        Plain { nodes, packets: vec![Vec::with_capacity(1432); nodes], full: 0 }
    }

    fn ingest(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let line = &rest[..end];
            rest = &rest[end + 1..];
            let Some(colon) = memchr::memchr(b':', line) else { continue };
            let packet = &mut self.packets[jump(xxh3_64(&line[..colon]), self.nodes)];
            if packet.len() + 1 + line.len() > 1432 {
                self.full += 1;
                packet.clear();
            }
            if !packet.is_empty() {
                packet.push(b'\n');
            }
            packet.extend_from_slice(line);
        }
    }
}

/// CPU time of this thread, so that other programs on the machine do not count.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        cpu_time()
    }

    fn end(&self, start: Duration) -> Duration {
        cpu_time().saturating_sub(start)
    }

    fn add(&self, one: &Duration, other: &Duration) -> Duration {
        *one + *other
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        WallTime.to_f64(value)
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

fn parts(criterion: &mut Criterion<CpuTime>) {
    let datagrams = datagrams(&USUAL);
    let names: Vec<Vec<u8>> = datagrams
        .iter()
        .flat_map(|datagram| wire::lines(datagram))
        .filter_map(wire::routing_key)
        .map(<[u8]>::to_vec)
        .collect();
    let hashes: Vec<u64> = names.iter().map(|name| xxh3_64(name)).collect();
    let mut group = criterion.benchmark_group("parts");
    group.throughput(elements(&datagrams));
    group.bench_function("scan plain", |bencher| {
        bencher.iter(|| {
            datagrams
                .iter()
                .flat_map(|datagram| wire::lines(datagram))
                .filter_map(wire::routing_key)
                .map(<[u8]>::len)
                .sum::<usize>()
        });
    });
    for scanner in Scanner::all() {
        let mut marks = wire::LineIndex::new();
        group.bench_with_input(BenchmarkId::new("scan", scanner.name()), &scanner, |bencher, scanner| {
            bencher.iter(|| {
                datagrams.iter().map(|datagram| key_bytes(scanner, datagram, &mut marks)).sum::<usize>()
            });
        });
    }
    group.bench_function("hash", |bencher| {
        bencher.iter(|| names.iter().map(|name| xxh3_64(name)).fold(0, u64::wrapping_add));
    });
    for nodes in [3, 16, 1000] {
        group.bench_with_input(BenchmarkId::new("jump", nodes), &nodes, |bencher, nodes| {
            bencher.iter(|| hashes.iter().map(|hash| jump(*hash, *nodes)).sum::<usize>());
        });
    }
    group.finish();
}

/// Bytes of all keys of a datagram.
fn key_bytes(scanner: &Scanner, datagram: &[u8], marks: &mut wire::LineIndex) -> usize {
    let mut bytes = 0;
    scanner.each_line(datagram, marks, |_: &[u8], key: Option<&[u8]>| bytes += key.map_or(0, <[u8]>::len));
    bytes
}

/// Takes all datagrams like the worker: full and due packets leave after each batch.
fn carry(relay: &mut Relay, datagrams: &[Vec<u8>], out: &mut Vec<Packet>, now_us: &mut u64) {
    for batch in datagrams.chunks(64) {
        for datagram in batch {
            let arrival = Arrival { bound_us: *now_us, taken_us: *now_us, after_idle: false };
            relay.ingest(arrival, black_box(datagram), datagram.len());
        }
        *now_us += 1_000;
        relay.transmit(*now_us, Flush::Due, |packet| {
            out.push(packet);
            Ok(())
        });
        for packet in out.drain(..) {
            relay.sent(packet, SendOutcome::Sent, *now_us);
        }
    }
}

type Group<'a> = BenchmarkGroup<'a, CpuTime>;

fn bench_relay(group: &mut Group<'_>, id: BenchmarkId, case: &Case) {
    let datagrams = datagrams(case);
    group.throughput(elements(&datagrams));
    group.bench_function(id, |bencher| {
        let mut relay = relay(case);
        let mut out: Vec<Packet> = Vec::with_capacity(1024);
        let mut now_us = 0;
        bencher.iter(|| carry(&mut relay, &datagrams, &mut out, &mut now_us));
    });
}

fn end_to_end(criterion: &mut Criterion<CpuTime>) {
    let plain_datagrams = datagrams(&USUAL);
    let mut group = criterion.benchmark_group("relay");
    for nodes in [1, 2, 3, 16, 1000] {
        group.throughput(elements(&plain_datagrams));
        group.bench_with_input(BenchmarkId::new("plain", nodes), &nodes, |bencher, nodes| {
            let mut plain = Plain::new(*nodes);
            bencher.iter(|| plain_datagrams.iter().for_each(|datagram| plain.ingest(black_box(datagram))));
        });
        bench_relay(&mut group, BenchmarkId::new("statsring", nodes), &Case { nodes, ..USUAL });
    }
    group.finish();
}

/// The relay with one parameter increasing at a time.
fn curves(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("curve metrics");
    for metrics_per_datagram in [1, 2, 5, 10, 20, 30, 50] {
        let case = Case { metrics_per_datagram, ..USUAL };
        bench_relay(&mut group, BenchmarkId::from_parameter(metrics_per_datagram), &case);
    }
    group.finish();
    let mut group = criterion.benchmark_group("curve names");
    for names in (1..=7).map(|power| 10u64.pow(power)) {
        bench_relay(&mut group, BenchmarkId::from_parameter(names), &Case { names, ..USUAL });
    }
    group.finish();
    let mut group = criterion.benchmark_group("curve nodes");
    for nodes in [1, 3, 10, 30, 100, 300, 1_000] {
        bench_relay(&mut group, BenchmarkId::from_parameter(nodes), &Case { nodes, ..USUAL });
    }
    group.finish();
}

/// The relay with each optimization on and off.
fn levers(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("levers");
    for nodes in [3, 1_000] {
        for cache_entries in [10_000, 0] {
            let id = BenchmarkId::new(format!("cacheSize {cache_entries}"), nodes);
            bench_relay(&mut group, id, &Case { nodes, cache_entries, ..USUAL });
        }
    }
    for scanner in Scanner::all() {
        let id = BenchmarkId::new("scanner", scanner.name());
        bench_relay(&mut group, id, &Case { scanner: Some(scanner), ..USUAL });
    }
    group.finish();
}

/// The other proxies' placements compared with `jump`: finding one name's backend, and the relay end to end, whose cache
/// makes their cost equal.
fn placements(criterion: &mut Criterion<CpuTime>) {
    let datagrams = datagrams(&USUAL);
    let names: Vec<&[u8]> =
        datagrams.iter().flat_map(|datagram| wire::lines(datagram)).filter_map(wire::routing_key).collect();
    for nodes in [3, 16, 1000] {
        let mut group = criterion.benchmark_group(format!("placements/{nodes}"));
        group.throughput(elements(&datagrams));
        for hashing in Hashing::ALL {
            let live = LiveSet::all(nodes);
            let placement = table(nodes, hashing).placement.clone();
            group.bench_function(BenchmarkId::new("place", hashing.name()), |bencher| {
                let place = |name: &&[u8]| placement.destination(key_hash(name), name, &live);
                bencher.iter(|| names.iter().filter_map(place).map(|found| found.owner).sum::<usize>());
            });
            // Created once, not for each sample: this measures a proxy that knows its names already.
            let mut relay = relay(&Case { nodes, hashing, ..USUAL });
            let mut out: Vec<Packet> = Vec::with_capacity(1024);
            let mut now_us = 0;
            carry(&mut relay, &datagrams, &mut out, &mut now_us);
            group.bench_function(BenchmarkId::new("relay", hashing.name()), |bencher| {
                bencher.iter(|| carry(&mut relay, &datagrams, &mut out, &mut now_us));
            });
        }
        group.finish();
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = parts, end_to_end, curves, levers, placements
);
criterion_main!(benches);
