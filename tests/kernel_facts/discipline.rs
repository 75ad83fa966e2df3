//! Sends through a queueing discipline that drops: in a network namespace of the test's own, on a device whose other end
//! nobody reads, so that nothing leaves it.

use super::bed::{Bed, Log, PATIENCE, limits, no_children, packet, run};
use arc_swap::ArcSwap;
use statsring::driver::socket::{bind_listeners, connect_backend};
use statsring::driver::{DriverLimits, Engine, Wait, Waker};
use statsring::packet::{SendError, SendOutcome, SocketSlot};
use statsring::placement::{LiveSet, Placement};
use statsring::relay::{GsoMode, Malformed, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
use statsring::stats::{Counter, Counters, DropReason, WorkerShared};
use statsring::worker::{Ended, Limits, Report, WorkerSetup, spawn};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::channel;

/// Beyond the narrow device; nobody is there.
pub const BACKEND: &str = "10.99.0.2:8125";
/// Lets a few small packets through, keeps 2 KiB, drops the rest.
const TIGHT: &str = "rate 8kbit burst 2kb limit 2kb";
/// Keeps far more than the send buffer of a socket.
pub const LONG: &str = "rate 8kbit burst 2kb limit 4mb";

/// Runs `test` in a thread whose network is its own, with the backend's address behind a device that `shape` narrows.
/// Where that cannot be made, it says why and does nothing. The namespace ends with its last thread and socket.
pub fn behind(shape: &'static str, test: impl FnOnce() + Send) {
    if crate::bare_ring::is_refused() {
        return;
    }
    let name = std::thread::current().name().unwrap_or_default().to_string();
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name(name).spawn_scoped(scope, || match enter_namespace(shape) {
                Ok(()) => test(),
                Err(reason) => crate::skip::skip_unprivileged(reason),
            });
        if let Err(panic) = thread.unwrap().join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn enter_namespace(shape: &str) -> Result<(), String> {
    // SAFETY: takes no pointer; only this thread's network changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(format!("no network namespace: {}", std::io::Error::last_os_error()));
    }
    // IPv6 would talk by itself, and be counted by the discipline; without it there is nothing to switch off.
    for scope in ["all", "default"] {
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
    }
    for command in [
        "ip link set lo up",
        "ip link add narrow type veth peer name far",
        "ip address add 10.99.0.1/24 dev narrow",
        "ip link set far up",
        "ip link set narrow up",
        "ip neighbour add 10.99.0.2 lladdr 02:00:00:00:00:02 dev narrow nud permanent",
        &format!("tc qdisc add dev narrow root tbf {shape}"),
    ] {
        let output = run(command).map_err(|error| format!("`{command}`: {error}"))?;
        if !output.status.success() {
            return Err(format!("`{command}`: {}", String::from_utf8_lossy(&output.stderr).trim()));
        }
    }
    Ok(())
}

/// Packets that the discipline dropped.
fn discipline_drops() -> u64 {
    let output = run("tc -j -s qdisc show dev narrow").unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    shown[0]["drops"].as_u64().unwrap()
}

fn backend() -> SocketAddr {
    BACKEND.parse().unwrap()
}

#[test]
fn with_recverr_every_packet_that_a_discipline_drops_is_told_as_enobufs() {
    behind(TIGHT, || {
        let Some(bed) = super::bed::bed(&limits()) else { return };
        let (mut driver, _sender) = Bed::into_driver(bed);
        driver.open_backend(SocketSlot(0), backend()).unwrap();
        let mut log = Log::default();
        for _ in 0..3 {
            for _ in 0..20 {
                driver.push(packet(&[b'x'; 200], 0)).unwrap();
            }
            driver.enter(Wait::Poll).unwrap();
            driver.deliver(&mut log);
        }
        assert_eq!(log.sent.len(), 60);
        let told = |outcome| log.sent.iter().filter(|(_, one)| *one == outcome).count() as u64;
        let dropped = discipline_drops();
        assert!(dropped > 0, "nothing was dropped");
        assert_eq!(
            (told(SendOutcome::Sent), told(SendOutcome::NoBuffers(SendError::NoBuffers))),
            (60 - dropped, dropped)
        );
    });
}

#[test]
fn without_recverr_a_send_answers_success_for_what_a_discipline_drops() {
    behind(TIGHT, || {
        let silent = UdpSocket::bind("0.0.0.0:0").unwrap();
        silent.connect(backend()).unwrap();
        let refused = (0..60).filter(|_| silent.send(&[b'x'; 200]).is_err()).count();
        let unseen = discipline_drops();
        assert_eq!(refused, 0);
        assert!(unseen > 0);

        let told = connect_backend(backend(), 1 << 20).unwrap();
        let errors: Vec<_> = (0..60).filter_map(|_| told.send(&[b'x'; 200]).err()?.raw_os_error()).collect();
        assert!(errors.iter().all(|errno| *errno == libc::ENOBUFS), "{errors:?}");
        assert_eq!(errors.len() as u64, discipline_drops() - unseen);
    });
}

#[test]
fn a_full_send_buffer_is_told_as_busy_at_once() {
    behind(LONG, || {
        let limits = DriverLimits { send_buffer_bytes: 8 << 10, ..limits() };
        let Some(bed) = super::bed::bed(&limits) else { return };
        let (mut driver, _sender) = Bed::into_driver(bed);
        driver.open_backend(SocketSlot(0), backend()).unwrap();
        let mut log = Log::default();
        for _ in 0..60 {
            driver.push(packet(&[b'x'; 1_000], 0)).unwrap();
        }
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        assert_eq!(log.sent.len(), 60, "none is parked");
        let busy = log.sent.iter().filter(|(_, outcome)| *outcome == SendOutcome::Busy).count();
        let sent = log.sent.iter().filter(|(_, outcome)| *outcome == SendOutcome::Sent).count();
        assert!(sent > 0 && busy > 30, "{sent} sent, {busy} busy");
        assert_eq!(sent + busy, 60);
    });
}

/// Lets some packets of 200 bytes through at once, holds the others for about a second.
const SLOW: &str = "rate 16kbit burst 2kb limit 4mb";

#[test]
fn a_socket_has_unsent_packets_as_long_as_a_discipline_holds_some() {
    behind(SLOW, || {
        let Some(bed) = super::bed::bed(&limits()) else { return };
        let (mut driver, _sender) = Bed::into_driver(bed);
        driver.open_backend(SocketSlot(0), backend()).unwrap();
        assert!(!driver.has_unsent(SocketSlot(0)) && !driver.has_unsent(SocketSlot(1)));
        let mut log = Log::default();
        for _ in 0..15 {
            driver.push(packet(&[b'x'; 200], 0)).unwrap();
        }
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        assert!(log.sent.iter().all(|(_, outcome)| *outcome == SendOutcome::Sent), "{:?}", log.sent);
        assert!(driver.has_unsent(SocketSlot(0)));
        // The old socket's packets still go out when another one has taken its place; that one has none.
        let source = driver.open_backend(SocketSlot(0), backend()).unwrap();
        assert_eq!(source, "10.99.0.1".parse::<std::net::IpAddr>().unwrap());
        assert!(!driver.has_unsent(SocketSlot(0)));
        driver.push(packet(&[b'x'; 200], 0)).unwrap();
        driver.enter(Wait::Poll).unwrap();
        driver.deliver(&mut log);
        super::bed::wait_until("the discipline has sent them", || !driver.has_unsent(SocketSlot(0)));
        assert_eq!((log.sent.len(), discipline_drops()), (16, 0));
    });
}

/// A worker in this namespace, in front of the backend.
struct Rig {
    routes: Arc<ArcSwap<RouteTable>>,
    shared: Arc<WorkerShared>,
    waker: Arc<Waker>,
    reports: tokio::sync::mpsc::Receiver<Report>,
    sender: UdpSocket,
}

fn table(phase: Phase) -> RouteTable {
    let node = RouteNode {
        name: BACKEND.into(),
        address: Some(backend()),
        may_move: false,
        source: None,
        gso: GsoMode::Padded,
        counters: Arc::default(),
    };
    RouteTable {
        generation: 1,
        nodes: Arc::new([node]),
        live: LiveSet::all(1),
        diverted: LiveSet::nobody(),
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
        phase,
        observer: None,
    }
}

fn rig(engine: Engine, send_buffer_bytes: usize) -> Rig {
    let children = no_children();
    let mut listeners = bind_listeners(
        &["127.0.0.1:0".parse().unwrap()],
        1,
        statsring::driver::socket::ListenOptions::here(8 << 20),
    )
    .unwrap();
    drop(children);
    let routes = Arc::new(ArcSwap::from_pointee(table(Phase::Run)));
    let shared = Arc::new(WorkerShared::default());
    let waker = Arc::new(Waker::new().unwrap());
    let (reports_to, mut reports) = channel(64);
    // Its thread is born in this one's namespace.
    spawn(WorkerSetup {
        index: 0,
        listeners: listeners.workers.remove(0),
        routes: Arc::clone(&routes),
        shared: Arc::clone(&shared),
        waker: Arc::clone(&waker),
        reports: reports_to,
        rings_bytes: 0,
        limits: Limits {
            datagram_bytes_max: 1_432,
            buffers: 256,
            buffer_bytes: 1_432,
            sends_max: 64,
            sockets_max: 4,
            backlog_bytes_max: 1 << 20,
            send_buffer_bytes,
            cache_entries: 10_000,
            timestamps: false,
            gro: false,
        },
        engine,
        cpu: None,
        has_inherited: false,
    })
    .unwrap();
    assert!(matches!(reports.blocking_recv(), Some(Report::Ready { .. })));
    let sender = super::bed::sender_to(listeners.addresses[0]);
    Rig { routes, shared, waker, reports, sender }
}

impl Rig {
    /// Sends a burst; every metric of it has left the worker, one way or the other, or waits for a busy socket.
    fn burst(&self, metrics: usize, received_before: u64) -> Counters {
        for number in 0..metrics {
            let padding = "x".repeat(600);
            self.sender.send(format!("name.{number}.{padding}:1|c").as_bytes()).unwrap();
        }
        let start = Instant::now();
        loop {
            let counters = self.shared.published.read();
            assert_eq!(counters.imbalance(), 0, "{counters:?}");
            if counters.get(Counter::MetricsReceived) == received_before + metrics as u64 {
                return counters;
            }
            assert!(start.elapsed() < PATIENCE, "{counters:?}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    fn end(mut self, timeout_us: u64) -> (Ended, Counters) {
        let nodes = Arc::clone(&self.routes.load().nodes);
        self.routes.store(Arc::new(RouteTable { nodes, ..table(Phase::Drain { timeout_us }) }));
        self.waker.wake();
        let end = loop {
            if let Report::Ended { end, .. } = self.reports.blocking_recv().unwrap() {
                break end.unwrap();
            }
        };
        let counters = self.shared.published.read();
        assert_eq!((counters.imbalance(), counters.get(Counter::MetricsPending)), (0, 0), "{counters:?}");
        (end, counters)
    }
}

#[test]
fn the_workers_account_has_what_a_discipline_dropped() {
    behind(TIGHT, || {
        let (metrics, packets) = dropped_of_200(Engine::IoUring);
        // Two such metrics go into a packet, so the packets dropped are between half of the metrics and all of them.
        assert!((packets..=2 * packets).contains(&metrics), "{metrics} metrics in {packets} packets");
    });
}

#[test]
fn the_portable_workers_account_has_it_too() {
    behind(TIGHT, || {
        let (metrics, packets) = dropped_of_200(Engine::Portable);
        // sendmmsg does not tell the error of a later message, which is then tried once more.
        assert!(metrics <= 2 * packets, "{metrics} metrics in {packets} packets");
    });
}

/// How many of 200 metrics a worker counted as dropped, and how many packets the discipline did.
fn dropped_of_200(engine: Engine) -> (u64, u64) {
    let rig = rig(engine, 1 << 20);
    rig.burst(200, 0);
    let (end, counters) = rig.end(5_000_000);
    assert_eq!(end, Ended::Drained);
    let dropped = counters.dropped(DropReason::SendNoBuffers);
    assert!(dropped > 0, "{counters:?}");
    assert_eq!(counters.get(Counter::MetricsSent) + dropped, 200);
    (dropped, discipline_drops())
}

#[test]
fn the_workers_account_has_what_a_busy_socket_holds_up() {
    behind(LONG, || hold_up(Engine::IoUring));
}

#[test]
fn a_busy_socket_holds_up_the_portable_worker_likewise() {
    behind(LONG, || hold_up(Engine::Portable));
}

fn hold_up(engine: Engine) {
    let rig = rig(engine, 8 << 10);
    rig.burst(100, 0);
    rig.burst(100, 100);
    let (end, counters) = rig.end(50_000);
    assert!(matches!(end, Ended::CutShort { metrics_dropped } if metrics_dropped > 0), "{end:?}");
    assert!(counters.get(Counter::SendsWouldBlock) > 0, "{counters:?}");
    assert!(counters.dropped(DropReason::QueueFull) > 0, "{counters:?}");
    assert!(counters.dropped(DropReason::Shutdown) > 0, "{counters:?}");
    let sent = counters.get(Counter::MetricsSent);
    assert!(sent > 0);
    assert_eq!(sent + counters.dropped_total(), 200);
}
