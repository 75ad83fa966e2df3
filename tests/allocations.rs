//! A worker does not allocate after its start: counted by the allocator for the worker's thread.
//!
//! Rare events may allocate (a new route table, a report to control); they occur once during warm-up.

#[path = "process/bare_ring.rs"]
mod bare_ring;
#[path = "process/seccomp.rs"]
mod seccomp;
#[path = "process/skip.rs"]
mod skip;

use arc_swap::ArcSwap;
use statsring::driver::kernel::Kernel;
use statsring::driver::{Driver, DriverError, DriverLimits, Waker, portable, prefix_bytes, socket, uring};
use statsring::placement::{LiveSet, Placement};
use statsring::relay::{GsoMode, Malformed, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
use statsring::stats::alloc::thread_allocations;
use statsring::stats::{Counter, DropReason, WorkerShared};
use statsring::worker::{Limits, Report, Step, Worker, WorkerLinks};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, channel};

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

/// A worker stepped in the test's thread, and threads that send to it.
struct Rig<K: Kernel> {
    worker: Worker<K>,
    routes: Arc<ArcSwap<RouteTable>>,
    waker: Arc<Waker>,
    address: SocketAddr,
    datagrams_sent: u64,
    reports: Receiver<Report>,
    _backends: Vec<UdpSocket>,
}

const DATAGRAM_BYTES_MAX: usize = 4_096;

/// Four backends: two receive, one is dead with its names diverted, one refuses. `None` if the locked memory limit is reached;
/// the test is skipped then.
fn rig<K: Kernel>(
    timestamps: bool,
    open: impl FnOnce(Vec<UdpSocket>, Arc<Waker>, &DriverLimits) -> Result<Driver<K>, DriverError>,
) -> Option<Rig<K>> {
    let backends: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let gone: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<SocketAddr> =
        backends.iter().chain(&gone).map(|socket| socket.local_addr().unwrap()).collect();
    drop(gone);
    let mut listeners =
        socket::bind_listeners(&["127.0.0.1:0".parse().unwrap()], 1, socket::ListenOptions::here(8 << 20))
            .unwrap();
    let limits = Limits {
        datagram_bytes_max: DATAGRAM_BYTES_MAX,
        buffers: 256,
        buffer_bytes: DATAGRAM_BYTES_MAX + prefix_bytes(timestamps, false),
        sends_max: 64,
        sockets_max: 16,
        backlog_bytes_max: 1 << 20,
        send_buffer_bytes: 1 << 20,
        cache_entries: 10_000,
        timestamps,
        gro: false,
    };
    let waker = Arc::new(Waker::new().unwrap());
    let driver = match open(listeners.workers.remove(0), Arc::clone(&waker), &limits.driver()) {
        Ok(driver) => driver,
        Err(error) => {
            bare_ring::skip_for_locked_memory(&error);
            return None;
        }
    };
    let routes = Arc::new(ArcSwap::from_pointee(table(&addresses, |index| index != 2)));
    let (sender, reports) = channel(64);
    let links = WorkerLinks {
        index: 0,
        routes: Arc::clone(&routes),
        shared: Arc::new(WorkerShared::default()),
        reports: sender,
        limits,
    };
    Some(Rig {
        worker: Worker::new(driver, links),
        routes,
        waker,
        address: listeners.addresses[0],
        datagrams_sent: 0,
        reports,
        _backends: backends,
    })
}

impl<K: Kernel> Rig<K> {
    fn count(&self, counter: Counter) -> u64 {
        self.worker.relay().counters().get(counter)
    }

    /// Steps until everything sent by a thread in `rounds` is received or known to be lost. Returns the number of allocations
    /// of this thread.
    fn relay_rounds(&mut self, rounds: u64) -> u64 {
        let first = self.datagrams_sent / 9;
        self.datagrams_sent += 9 * rounds;
        let is_over = AtomicBool::new(false);
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(self.address).unwrap();
        let waker = Arc::clone(&self.waker);
        std::thread::scope(|scope| {
            scope.spawn(|| send_rounds(&sender, first..first + rounds, &waker, &is_over));
            let before = thread_allocations();
            while self.count(Counter::DatagramsReceived) + self.count(Counter::KernelDrops)
                < self.datagrams_sent
            {
                assert_eq!(self.worker.step().unwrap(), Step::Running);
            }
            let allocated = thread_allocations() - before;
            is_over.store(true, Ordering::Release);
            allocated
        })
    }

    /// Requests the end and steps to it. Returns the number of allocations after the request was handled.
    fn end(&mut self) -> u64 {
        let now = self.routes.load();
        self.routes.store(Arc::new(RouteTable {
            generation: now.generation + 1,
            nodes: Arc::clone(&now.nodes),
            live: now.live.clone(),
            placement: now.placement.clone(),
            diverted: LiveSet::nobody(),
            phase: Phase::Drain { timeout_us: 5_000_000 },
            observer: None,
            ..**now
        }));
        self.waker.wake();
        assert_eq!(self.worker.step().unwrap(), Step::Running);
        let before = thread_allocations();
        while self.worker.step().unwrap() == Step::Running {}
        thread_allocations() - before
    }
}

/// Sends datagrams of every kind, with pauses so that most fit; then wakes the worker until it has seen them all, since it
/// might otherwise sleep without noticing that the last ones were dropped.
fn send_rounds(sender: &UdpSocket, rounds: std::ops::Range<u64>, waker: &Waker, is_over: &AtomicBool) {
    for number in rounds {
        for datagram in datagrams(number) {
            sender.send(&datagram).unwrap();
        }
        if number % 10 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    while !is_over.load(Ordering::Acquire) {
        waker.wake();
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn io_uring_worker_does_not_allocate_after_start() {
    if bare_ring::is_refused() {
        return;
    }
    let Some(rig) = rig(false, uring::open) else { return };
    relay_all(rig);
}

#[test]
fn portable_worker_does_not_allocate_after_start() {
    relay_all(rig(false, portable::open).unwrap());
}

#[test]
fn workers_with_timestamps_do_not_allocate() {
    relay_all(rig(true, portable::open).unwrap());
    if bare_ring::is_refused() {
        return;
    }
    if let Some(rig) = rig(true, uring::open) {
        relay_all(rig);
    }
}

/// Relays datagrams of all kinds, idles, and drains, without an allocation.
fn relay_all<K: Kernel>(mut rig: Rig<K>) {
    rig.relay_rounds(200);
    while rig.reports.try_recv().is_ok() {}

    let sent_before = rig.count(Counter::MetricsSent);
    let allocated = rig.relay_rounds(4_000);
    assert_eq!(allocated, 0, "allocations while relaying 36,000 datagrams");

    let counters = rig.worker.relay().counters();
    assert_eq!(counters.imbalance(), 0);
    assert!(counters.get(Counter::MetricsSent) > sent_before + 100_000, "{counters:?}");
    for counter in [
        Counter::DatagramsEmpty,
        Counter::DatagramsBlank,
        Counter::DatagramsTruncated,
        Counter::MetricsDiverted,
        Counter::BackendRefused,
        Counter::CoalescedWaits,
    ] {
        assert!(counters.get(counter) > 10, "{}: {counters:?}", counter.name());
    }
    for reason in [DropReason::Malformed, DropReason::Truncated] {
        assert!(counters.dropped(reason) > 10, "{}: {counters:?}", reason.name());
    }

    let allocated: u64 = (0..100)
        .map(|_| {
            rig.waker.wake();
            let before = thread_allocations();
            rig.worker.step().unwrap();
            thread_allocations() - before
        })
        .sum();
    assert_eq!(allocated, 0, "allocations of an idle worker when woken");
    assert_eq!(rig.end(), 0, "allocations while draining");
}

#[test]
fn ring_setup_failure_fails_the_tests() {
    bare_ring::assert_noticed_by("io_uring_worker_does_not_allocate_after_start");
    bare_ring::assert_noticed_by("workers_with_timestamps_do_not_allocate");
}
