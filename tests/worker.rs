//! One worker on the real kernel, from a sender's socket to the backends' sockets.
//!
//! `worker_portable.rs` is this file once more: under that name the worker has the portable engine.

#[path = "process/bare_ring.rs"]
mod bare_ring;
#[path = "process/seccomp.rs"]
mod seccomp;
#[path = "process/skip.rs"]
mod skip;

use arc_swap::ArcSwap;
use statsring::driver::{Engine, Waker, socket};
use statsring::placement::{LiveSet, Placement};
use statsring::relay::{GsoMode, Left, Malformed, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
use statsring::stats::{Counter, Counters, DropReason, Latency, LatencyKind, WorkerShared};
use statsring::worker::{Ended, Limits, Report, WorkerSetup, spawn};
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{Receiver, channel};

const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    routes: Arc<ArcSwap<RouteTable>>,
    shared: Arc<WorkerShared>,
    waker: Arc<Waker>,
    reports: Receiver<Report>,
    address: SocketAddr,
    backends: Vec<UdpSocket>,
    /// The listening socket once more, as another process has it at a restart.
    listener: UdpSocket,
    thread: std::thread::JoinHandle<()>,
}

fn limits() -> Limits {
    Limits {
        datagram_bytes_max: 8192,
        buffers: 256,
        buffer_bytes: 8192,
        sends_max: 64,
        sockets_max: 16,
        backlog_bytes_max: 1 << 20,
        send_buffer_bytes: 1 << 20,
        cache_entries: 10_000,
        timestamps: false,
        gro: false,
    }
}

fn table(generation: u64, backends: &[SocketAddr], phase: Phase) -> RouteTable {
    let nodes: Vec<RouteNode> = backends
        .iter()
        .map(|address| RouteNode {
            name: address.to_string().into(),
            address: Some(*address),
            may_move: false,
            source: None,
            gso: GsoMode::Padded,
            counters: Arc::default(),
        })
        .collect();
    RouteTable {
        generation,
        live: LiveSet::all(nodes.len()),
        diverted: LiveSet::nobody(),
        nodes: nodes.into(),
        placement: Placement::Jump,
        rules: Rules {
            flush_us: 5_000,
            packet_bytes_max: 1432,
            packet_auto: false,
            queue_bytes_max: 262_144,
            reopen_us: 0,
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase,
        observer: None,
    }
}

fn engine() -> Engine {
    if env!("CARGO_CRATE_NAME").ends_with("_portable") { Engine::Portable } else { Engine::IoUring }
}

/// `None` where io_uring is refused; the test is skipped.
fn rig(listen: &str) -> Option<Rig> {
    if engine() == Engine::IoUring && bare_ring::is_refused() {
        return None;
    }
    let backends: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for backend in &backends {
        backend.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    }
    let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.local_addr().unwrap()).collect();
    let mut listeners =
        socket::bind_listeners(&[listen.parse().unwrap()], 1, socket::ListenOptions::here(8 << 20)).unwrap();
    let listener = listeners.workers[0][0].try_clone().unwrap();
    let routes = Arc::new(ArcSwap::from_pointee(table(1, &addresses, Phase::Run)));
    let shared = Arc::new(WorkerShared::default());
    let waker = Arc::new(Waker::new().unwrap());
    let (sender, mut reports) = channel(64);
    let thread = spawn(WorkerSetup {
        index: 0,
        listeners: listeners.workers.remove(0),
        routes: Arc::clone(&routes),
        shared: Arc::clone(&shared),
        waker: Arc::clone(&waker),
        reports: sender,
        rings_bytes: 0,
        limits: limits(),
        engine: engine(),
        cpu: None,
        has_inherited: false,
    })
    .unwrap();
    match reports.blocking_recv().unwrap() {
        Report::Ready { info, .. } => assert_eq!(info.engine, engine().name()),
        Report::Ended { end: Err(error), .. } if engine() == Engine::IoUring => {
            bare_ring::skip_for_locked_memory(&error);
            return None;
        }
        other => panic!("{other:?}"),
    }
    Some(Rig { routes, shared, waker, reports, address: listeners.addresses[0], backends, listener, thread })
}

impl Rig {
    fn counters(&self) -> Counters {
        let counters = self.shared.published.read();
        assert_eq!(counters.imbalance(), 0, "{counters:?}");
        counters
    }

    fn wait_for(&self, what: &str, met: impl Fn(&Counters) -> bool) -> Counters {
        let start = Instant::now();
        loop {
            let counters = self.counters();
            if met(&counters) {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "timed out waiting for {what}: {counters:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn received(&self) -> Vec<Vec<String>> {
        self.backends.iter().map(lines_at).collect()
    }

    fn order(&self, change: impl FnOnce(&mut RouteTable)) {
        let now = self.routes.load();
        let mut next = RouteTable {
            generation: now.generation + 1,
            nodes: Arc::clone(&now.nodes),
            live: now.live.clone(),
            diverted: now.diverted.clone(),
            placement: now.placement.clone(),
            rules: now.rules,
            phase: now.phase,
            observer: None,
        };
        change(&mut next);
        self.routes.store(Arc::new(next));
        self.waker.wake();
    }

    fn end(self) -> (Ended, Counters) {
        self.end_by(Phase::Drain { timeout_us: 5_000_000 })
    }

    fn end_by(mut self, phase: Phase) -> (Ended, Counters) {
        self.order(|table| table.phase = phase);
        let end = loop {
            match self.reports.blocking_recv().unwrap() {
                Report::Ended { end, .. } => break end.unwrap(),
                _ => continue,
            }
        };
        self.thread.join().unwrap();
        let counters = self.shared.published.read();
        assert_eq!(counters.imbalance(), 0);
        assert_eq!(counters.get(Counter::MetricsPending), 0);
        (end, counters)
    }
}

fn lines_at(backend: &UdpSocket) -> Vec<String> {
    let mut buffer = vec![0; 65_536];
    let mut lines = Vec::new();
    while let Ok(length) = backend.recv(&mut buffer) {
        assert!(length > 0, "an empty packet");
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        lines.extend(text.split('\n').filter(|line| !line.is_empty()).map(String::from));
    }
    lines
}

fn sender_to(address: SocketAddr) -> UdpSocket {
    let any: SocketAddr =
        if address.is_ipv6() { "[::1]:0".parse().unwrap() } else { "127.0.0.1:0".parse().unwrap() };
    let sender = UdpSocket::bind(any).unwrap();
    sender.connect(address).unwrap();
    sender
}

#[test]
fn every_metric_arrives_once_at_its_backend_over_both_families() {
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let Some(rig) = rig(listen) else { return };
        let sender = sender_to(rig.address);
        let mut sent = Vec::new();
        for i in 0..3_000 {
            let line = format!("name.{}:{i}|c", i % 100);
            sender.send(line.as_bytes()).unwrap();
            sent.push(line);
            if i % 50 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        rig.wait_for("3000 sent", |counters| counters.get(Counter::MetricsSent) == 3_000);
        let received = rig.received();
        let mut owner: HashMap<String, usize> = HashMap::new();
        let mut all: Vec<String> = Vec::new();
        for (backend, lines) in received.into_iter().enumerate() {
            for line in lines {
                let name = line.split(':').next().unwrap().to_string();
                assert_eq!(*owner.entry(name).or_insert(backend), backend, "{line} at two backends");
                all.push(line);
            }
        }
        all.sort_unstable();
        sent.sort_unstable();
        assert_eq!(all, sent);
        let (end, counters) = rig.end();
        assert_eq!(end, Ended::Drained);
        assert!(counters.get(Counter::Wakeups) < 3_000, "no coalescing: {counters:?}");
    }
}

#[test]
fn what_is_queued_before_the_fence_is_relayed() {
    let Some(rig) = rig("127.0.0.1:0") else { return };
    let sender = sender_to(rig.address);
    for i in 0..5_000 {
        sender.send(format!("n{}:1|c", i % 7).as_bytes()).unwrap();
    }
    let backends: Vec<UdpSocket> = rig.backends.iter().map(|backend| backend.try_clone().unwrap()).collect();
    let drops_before = rig.shared.published.read().get(Counter::KernelDrops);
    let (end, counters) = rig.end();
    assert_eq!(end, Ended::Drained);
    let kernel_drops = counters.get(Counter::KernelDrops);
    assert!(kernel_drops >= drops_before);
    assert_eq!(counters.get(Counter::MetricsReceived) + kernel_drops, 5_000);
    let received: usize = backends.iter().map(|backend| lines_at(backend).len()).sum();
    assert_eq!(received as u64, counters.get(Counter::MetricsSent));
}

#[test]
fn odd_datagrams_are_counted_and_the_next_ones_go_on() {
    let Some(rig) = rig("127.0.0.1:0") else { return };
    let sender = sender_to(rig.address);
    for _ in 0..50 {
        sender.send(b"").unwrap();
        sender.send(b"\n\n").unwrap();
        sender.send(b"\xff\xfe\x00junk").unwrap();
        sender.send(&vec![b'x'; 65_507]).unwrap();
        sender.send(b"good:1|c").unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let counters = rig.wait_for("the good ones", |counters| counters.get(Counter::MetricsSent) == 50);
    assert_eq!(counters.get(Counter::DatagramsEmpty), 50);
    assert_eq!(counters.get(Counter::DatagramsBlank), 50);
    assert_eq!(counters.dropped(DropReason::Malformed), 50);
    assert_eq!(counters.get(Counter::DatagramsTruncated), 50);
    assert_eq!(counters.dropped(DropReason::Truncated), 50);
    assert_eq!(counters.get(Counter::BytesTruncated), 50 * (65_507 - 8_192));
    rig.end();
}

#[test]
fn a_refused_packet_is_sent_again_and_control_is_told() {
    let Some(mut rig) = rig("127.0.0.1:0") else { return };
    let sender = sender_to(rig.address);
    // gaugor's home among three is 1.
    drop(rig.backends.remove(1));
    for _ in 0..20 {
        sender.send(b"gaugor:1|g").unwrap();
        std::thread::sleep(Duration::from_millis(8));
    }
    let counters = rig.wait_for("refusals", |counters| {
        counters.get(Counter::BackendRefused) > 3 && counters.get(Counter::MetricsSent) == 20
    });
    assert_eq!(counters.dropped_total(), 0);
    assert!(matches!(rig.reports.blocking_recv(), Some(Report::SendsFail { .. })));
    rig.end();
}

#[test]
fn a_route_change_is_followed_at_once_also_when_idle() {
    let Some(rig) = rig("127.0.0.1:0") else { return };
    let sender = sender_to(rig.address);
    sender.send(b"gaugor:1|g").unwrap();
    rig.wait_for("the first", |counters| counters.get(Counter::MetricsSent) == 1);
    rig.order(|table| table.live = LiveSet::new([true, false, true]));
    std::thread::sleep(Duration::from_millis(50));
    sender.send(b"gaugor:2|g").unwrap();
    rig.wait_for("the second", |counters| counters.get(Counter::MetricsDiverted) == 1);
    rig.wait_for("the second", |counters| counters.get(Counter::MetricsSent) == 2);
    // gaugor's homes are 1, and 2 when that is down.
    let received = rig.received();
    assert_eq!(received[1], ["gaugor:1|g"]);
    assert_eq!(received[2], ["gaugor:2|g"]);
    rig.end();
}

#[test]
fn latencies_are_handed_over_on_request_by_an_idle_worker_too() {
    let Some(rig) = rig("127.0.0.1:0") else { return };
    let sender = sender_to(rig.address);
    for _ in 0..200 {
        sender.send(b"a:1|c").unwrap();
        std::thread::sleep(Duration::from_micros(500));
    }
    rig.wait_for("200", |counters| counters.get(Counter::MetricsSent) == 200);
    rig.shared.latency.request();
    rig.waker.wake();
    let start = Instant::now();
    while !rig.shared.latency.is_done() {
        assert!(start.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut latency = Latency::new();
    rig.shared.latency.collect(&mut latency);
    assert_eq!(latency.get(LatencyKind::Residence).len(), 200);
    let apart = latency.get(LatencyKind::AfterIdle).len();
    assert_eq!(latency.get(LatencyKind::Bound).len() + apart, 200);
    rig.end();
}

#[test]
fn a_socket_that_is_left_to_another_process_goes_on_there_and_nothing_is_lost_between() {
    let Some(rig) = rig("127.0.0.1:0") else { return };
    let sender = sender_to(rig.address);
    let other = rig.listener.try_clone().unwrap();
    other.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // It continues sending while the worker cancels its receive.
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let sending = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut sent = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                sender.send(format!("left.{sent}:1|c").as_bytes()).unwrap();
                sent += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        }
    });
    rig.wait_for("traffic", |counters| counters.get(Counter::MetricsReceived) > 50);
    let (end, counters) = rig.end_by(Phase::Leave { timeout_us: 5_000_000, left: Left::ALL });
    assert_eq!(end, Ended::Drained);
    std::thread::sleep(Duration::from_millis(20));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let sent: u64 = sending.join().unwrap();
    let mut buffer = [0; 64];
    let rest = std::iter::from_fn(|| other.recv(&mut buffer).ok()).count() as u64;
    assert!(rest > 0, "it was fenced: what came after went nowhere");
    assert_eq!(counters.get(Counter::DatagramsReceived) + rest, sent);
    assert_eq!(counters.get(Counter::MetricsSent), counters.get(Counter::MetricsReceived));
}

#[test]
fn a_ring_that_cannot_be_made_fails_the_tests() {
    if engine() == Engine::IoUring {
        bare_ring::assert_noticed_by(
            "a_socket_that_is_left_to_another_process_goes_on_there_and_nothing_is_lost_between",
        );
    }
}
