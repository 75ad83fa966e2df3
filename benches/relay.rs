//! What a metric costs in process, each part beside its plain version, in ns per metric: scanning, hashing, placing,
//! packing, and the relay end to end.
//!
//! `cargo bench` prints the time for 30 metrics of 40 bytes (one datagram); the throughput line gives metrics a second.

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use statsring::packet::{Arrival, Packet, SendOutcome, SocketSlot};
use statsring::placement::{Hashing, LiveSet, Placement, Spec, jump, key_hash, splitmix64};
use statsring::relay::{
    Flush, Malformed, OnNodeDown, Phase, Relay, RelayLimits, RouteNode, RouteTable, Rules,
};
use statsring::wire;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

const METRICS: usize = 30;
const DATAGRAMS: usize = 1_024;
/// Names in use: more than a branch predictor learns, fewer than the cache holds, as in a usual installation.
const NAMES: u64 = 10_000;

/// Datagrams of 30 metrics, 40 bytes each with the newline, names in no order.
fn datagrams() -> Vec<Vec<u8>> {
    let mut random = 0;
    (0..DATAGRAMS)
        .map(|_| {
            let mut bytes = Vec::new();
            for metric in 0..METRICS {
                random = splitmix64(random);
                let name = random % NAMES;
                let line = format!("service.region{:02}.requests.{name:06}:{metric:03}|c", name % 7);
                bytes.extend_from_slice(format!("{line:x<39}\n").as_bytes());
            }
            bytes
        })
        .collect()
}

fn table(nodes: usize, hashing: Hashing) -> Arc<RouteTable> {
    let nodes: Vec<RouteNode> = (0..nodes)
        .map(|index| RouteNode {
            name: format!("10.0.0.{index}:8125").into(),
            address: "127.0.0.1:9".parse().ok(),
            gso: true,
            counters: Arc::default(),
        })
        .collect();
    let placement = Placement::new(spec(hashing, nodes.iter().map(|node| node.name.clone())));
    Arc::new(RouteTable {
        generation: 1,
        live: LiveSet::all(nodes.len()),
        nodes: nodes.into(),
        placement,
        rules: Rules {
            flush_us: 5_000,
            packet_bytes_max: 1432,
            packet_auto: false,
            queue_bytes_max: 262_144,
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase: Phase::Run,
        observer: None,
    })
}

fn spec(hashing: Hashing, names: impl Iterator<Item = Arc<str>>) -> Spec {
    let nodes: Vec<(Arc<str>, u32)> = names.map(|name| (name, 1)).collect();
    Spec { hashing, shards: (0..nodes.len() as u16).collect(), nodes }
}

fn relay(nodes: usize, hashing: Hashing) -> Relay {
    let limits = RelayLimits {
        sends_max: 512,
        backlog_bytes_max: 1 << 20,
        datagram_bytes_max: 8192,
        cache_entries: 10_000,
    };
    let sockets: Vec<_> = (0..nodes).map(|index| Some(SocketSlot(index as u32))).collect();
    Relay::new(limits, table(nodes, hashing), &sockets)
}

/// The plain way: search, hash, jump, copy, one metric after the other.
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
    let datagrams = datagrams();
    let names: Vec<Vec<u8>> = datagrams
        .iter()
        .flat_map(|datagram| wire::lines(datagram))
        .filter_map(wire::routing_key)
        .map(<[u8]>::to_vec)
        .collect();
    let hashes: Vec<u64> = names.iter().map(|name| xxh3_64(name)).collect();
    let mut group = criterion.benchmark_group("parts");
    group.throughput(Throughput::Elements((METRICS * DATAGRAMS) as u64));
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
    let (scanner, mut spans) = (wire::Scanner::new(), wire::Spans::new());
    group.bench_function("scan", |bencher| {
        bencher.iter(|| {
            let mut bytes = 0;
            for datagram in &datagrams {
                let mut at = 0;
                while at < datagram.len() {
                    at = scanner.scan(datagram, at, &mut spans);
                    bytes += spans
                        .as_slice()
                        .iter()
                        .filter_map(|span| span.key(datagram))
                        .map(<[u8]>::len)
                        .sum::<usize>();
                }
            }
            bytes
        });
    });
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

fn end_to_end(criterion: &mut Criterion<CpuTime>) {
    let datagrams = datagrams();
    let mut group = criterion.benchmark_group("relay");
    group.throughput(Throughput::Elements((METRICS * DATAGRAMS) as u64));
    for nodes in [3, 16, 1000] {
        group.bench_with_input(BenchmarkId::new("plain", nodes), &nodes, |bencher, nodes| {
            let mut plain = Plain::new(*nodes);
            bencher.iter(|| datagrams.iter().for_each(|datagram| plain.ingest(black_box(datagram))));
        });
        group.bench_with_input(BenchmarkId::new("statsring", nodes), &nodes, |bencher, nodes| {
            let mut run = Run::new(*nodes, Hashing::Jump);
            bencher.iter(|| run.pass(&datagrams));
        });
    }
    group.finish();
}

/// A relay, and the clock and the driver around it.
struct Run {
    relay: Relay,
    out: Vec<Packet>,
    now_us: u64,
}

impl Run {
    fn new(nodes: usize, hashing: Hashing) -> Run {
        Run { relay: relay(nodes, hashing), out: Vec::with_capacity(1024), now_us: 0 }
    }

    /// Sends all datagrams through it, as the worker does it: what is full or due leaves after each batch.
    fn pass(&mut self, datagrams: &[Vec<u8>]) {
        let Run { relay, out, now_us } = self;
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
}

/// The placements of other proxies beside `jump`: finding one name's backend, and the relay end to end, whose cache makes
/// them cost the same.
fn placements(criterion: &mut Criterion<CpuTime>) {
    let datagrams = datagrams();
    let names: Vec<&[u8]> =
        datagrams.iter().flat_map(|datagram| wire::lines(datagram)).filter_map(wire::routing_key).collect();
    for nodes in [3, 16, 1000] {
        let mut group = criterion.benchmark_group(format!("placements/{nodes}"));
        group.throughput(Throughput::Elements((METRICS * DATAGRAMS) as u64));
        for hashing in Hashing::ALL {
            let live = LiveSet::all(nodes);
            let placement = table(nodes, hashing).placement.clone();
            group.bench_function(BenchmarkId::new("place", hashing.name()), |bencher| {
                let place = |name: &&[u8]| placement.destination(key_hash(name), name, &live);
                bencher.iter(|| names.iter().filter_map(place).map(|found| found.owner).sum::<usize>());
            });
            // Made once, not for each sample: what is measured is a proxy that has seen its names before.
            let mut run = Run::new(nodes, hashing);
            run.pass(&datagrams);
            group.bench_function(BenchmarkId::new("relay", hashing.name()), |bencher| {
                bencher.iter(|| run.pass(&datagrams));
            });
        }
        group.finish();
    }
}

criterion_group!(
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = parts, end_to_end, placements
);
criterion_main!(benches);
