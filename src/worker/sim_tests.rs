//! Workers on the fake kernel, by examples; randomized tests are in `tests/simulation`.

use super::{Ended, Limits, ReopenReason, Report, Step, Worker, WorkerLinks};
use crate::driver::sim::{Fault, SimHandle, SimKernel, SimSetup};
use crate::packet::{SendError, SocketSlot};
use crate::placement::{LiveSet, Placement};
use crate::relay::{GsoMode, Malformed, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
use crate::stats::{Counter, DropReason, WorkerShared};
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use tokio::sync::mpsc::{Receiver, channel};

fn table(phase: Phase) -> RouteTable {
    let node = RouteNode {
        name: "a:1".into(),
        address: "10.0.0.1:8125".parse().ok(),
        may_move: false,
        source: None,
        gso: GsoMode::Padded,
        counters: Arc::default(),
    };
    RouteTable {
        generation: 1,
        nodes: vec![node].into(),
        live: LiveSet::all(1),
        diverted: LiveSet::nobody(),
        placement: Placement::Jump,
        rules: Rules {
            flush_us: 5_000,
            packet_bytes_max: 1_432,
            packet_auto: false,
            queue_bytes_max: 1 << 16,
            reopen_us: 0,
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase,
        observer: None,
    }
}

/// A worker whose first table has this phase, on a kernel that gives it no socket for its backend as often as this, in ten
/// thousand tries, until that is disabled.
fn worker(phase: Phase, open_failed: u32) -> (Worker<SimKernel>, SimHandle, Receiver<Report>) {
    let routes = Arc::new(ArcSwap::from_pointee(table(phase)));
    worker_on(routes, open_failed)
}

/// The same by these tables.
fn worker_on(
    routes: Arc<ArcSwap<RouteTable>>,
    open_failed: u32,
) -> (Worker<SimKernel>, SimHandle, Receiver<Report>) {
    worker_with_room(routes, open_failed, 64)
}

/// The same, with room for so many reports.
fn worker_with_room(
    routes: Arc<ArcSwap<RouteTable>>,
    open_failed: u32,
    room: usize,
) -> (Worker<SimKernel>, SimHandle, Receiver<Report>) {
    let mut setup = SimSetup::roomy(1);
    setup.faults.set(Fault::OpenFailed, open_failed);
    let limits = Limits {
        datagram_bytes_max: setup.payload_bytes_max,
        buffers: setup.buffers,
        buffer_bytes: setup.payload_bytes_max,
        sends_max: setup.sends_max,
        sockets_max: 4,
        backlog_bytes_max: 20_000,
        send_buffer_bytes: 1 << 20,
        cache_entries: 0,
        timestamps: false,
        gro: false,
    };
    let (driver, handle) = SimKernel::driver(&setup);
    let (sender, reports) = channel(room);
    let links =
        WorkerLinks { index: 0, routes, shared: Arc::new(WorkerShared::default()), reports: sender, limits };
    (Worker::new(driver, links), handle, reports)
}

/// Steps until the fake clock shows `until_us`, with a metric every 100 ms.
fn run(worker: &mut Worker<SimKernel>, handle: &SimHandle, until_us: u64) {
    let from_us = handle.now_us();
    for at_us in (from_us..until_us).step_by(100_000) {
        handle.datagram_at(at_us, 0, b"x:1|c".as_slice());
    }
    handle.set_horizon(until_us);
    while handle.now_us() < until_us {
        worker.step().unwrap();
    }
}

#[test]
fn a_socket_that_could_not_be_made_is_tried_again_without_a_new_table() {
    let (mut worker, handle, mut reports) = worker(Phase::Run, 10_000);
    let start_us = handle.now_us();
    run(&mut worker, &handle, start_us + 3_500_000);
    assert_eq!(worker.relay().counters().get(Counter::MetricsSent), 0);
    handle.stop_faults();
    run(&mut worker, &handle, start_us + 5_000_000);
    let counters = worker.relay().counters();
    assert!(counters.get(Counter::MetricsSent) >= 9, "{}", counters.identity());
    assert!(counters.dropped(DropReason::SendFailed) <= 41, "{}", counters.identity());
    let errors = worker.relay().table().nodes[0].counters.errors();
    let dropped: Vec<_> = errors.iter().map(|error| (error.metrics_dropped, error.without_socket)).collect();
    assert_eq!(
        dropped,
        [(counters.dropped(DropReason::SendFailed), counters.dropped(DropReason::SendFailed))]
    );
    let told: Vec<Report> = std::iter::from_fn(|| reports.try_recv().ok()).collect();
    let count = |wanted: fn(&Report) -> bool| told.iter().filter(|report| wanted(report)).count();
    assert_eq!(count(|report| matches!(report, Report::SocketFailed { .. })), 1, "once, not every second");
    assert_eq!(count(|report| matches!(report, Report::SocketMade { .. })), 1);
}

#[test]
fn an_idle_worker_wakes_for_a_missing_socket_and_then_no_more() {
    let (mut worker, handle, _reports) = worker(Phase::Run, 10_000);
    for _ in 0..20 {
        worker.step().unwrap();
        assert!(!handle.is_stuck());
    }
    handle.stop_faults();
    while !handle.is_stuck() {
        worker.step().unwrap();
    }
    assert_eq!(handle.backend_sockets().len(), 1);
}

#[test]
fn a_worker_that_is_born_when_the_end_was_ordered_relays_what_is_queued_and_ends() {
    let (mut worker, handle, _reports) = worker(Phase::Drain { timeout_us: 1_000_000 }, 0);
    handle.datagram_at(handle.now_us(), 0, b"x:1|c".as_slice());
    let ended = (0..200).find_map(|_| match worker.step().unwrap() {
        Step::Ended(ended) => Some(ended),
        Step::Running => None,
    });
    assert_eq!(ended, Some(Ended::Drained));
    assert!(worker.driver().is_idle() && handle.is_queue_empty());
    assert_eq!(worker.relay().counters().get(Counter::MetricsPending), 0);
}

/// Lets it sleep until nothing is to come; then it has no timer.
fn settle(worker: &mut Worker<SimKernel>, handle: &SimHandle) {
    for _ in 0..100 {
        worker.step().unwrap();
        if handle.is_stuck() {
            return;
        }
    }
    panic!("it does not come to rest");
}

/// The tables of a worker whose sockets are replaced after so long.
fn routes(reopen_us: u64) -> Arc<ArcSwap<RouteTable>> {
    let mut first = table(Phase::Run);
    first.rules.reopen_us = reopen_us;
    Arc::new(ArcSwap::from_pointee(first))
}

/// Publishes the last table with a change.
fn publish(routes: &ArcSwap<RouteTable>, handle: &SimHandle, change: impl FnOnce(&mut RouteTable)) {
    let last = routes.load_full();
    let mut next = RouteTable { nodes: Arc::clone(&last.nodes), rules: last.rules, ..table(Phase::Run) };
    next.generation = last.generation + 1;
    next.live = last.live.clone();
    change(&mut next);
    routes.store(Arc::new(next));
    handle.wake();
}

fn reasons(reports: &mut Receiver<Report>) -> Vec<ReopenReason> {
    let told = std::iter::from_fn(|| reports.try_recv().ok());
    told.filter_map(|report| match report {
        Report::SocketReopened { reason, .. } => Some(reason),
        _ => None,
    })
    .collect()
}

#[test]
fn an_old_socket_wakes_nobody_and_is_replaced_before_anything_is_sent_by_it() {
    let (mut worker, handle, mut reports) = worker_on(routes(1_000_000), 0);
    settle(&mut worker, &handle);
    assert_eq!(handle.backend_sockets()[0].1, 1);
    let at_us = handle.now_us() + 30_000_000;
    handle.datagram_at(at_us, 0, b"x:1|c".as_slice());
    settle(&mut worker, &handle);
    assert_eq!(handle.backend_sockets()[0].1, 2);
    assert_eq!(reasons(&mut reports), [ReopenReason::Interval]);
    handle.with_accepted(|accepted| {
        assert_eq!(accepted.len(), 1);
        assert!(accepted[0].opened_us >= at_us);
    });
    assert_eq!(worker.relay().counters().get(Counter::SocketsReopened), 1);
    assert_eq!(worker.relay().table().nodes[0].counters.sockets_reopened.load(Relaxed), 1);
}

#[test]
fn a_backend_that_is_up_again_gets_a_new_socket_and_one_that_stays_up_none() {
    let routes = routes(0);
    let (mut worker, handle, mut reports) = worker_on(Arc::clone(&routes), 0);
    settle(&mut worker, &handle);
    let mut serials = Vec::new();
    for is_live in [true, false, false, true, true] {
        publish(&routes, &handle, |table| table.live = LiveSet::new([is_live]));
        settle(&mut worker, &handle);
        serials.push(handle.backend_sockets()[0].1);
    }
    assert_eq!(serials, [1, 1, 1, 2, 2]);
    assert_eq!(reasons(&mut reports), [ReopenReason::Up]);
}

#[test]
fn a_socket_whose_source_address_would_be_another_now_is_replaced() {
    let routes = routes(0);
    let (mut worker, handle, mut reports) = worker_on(Arc::clone(&routes), 0);
    settle(&mut worker, &handle);
    let set_source = |source| {
        publish(&routes, &handle, |table| {
            table.nodes = [RouteNode { source, ..table.nodes[0].clone() }].into();
        });
    };
    set_source(Some(handle.source()));
    settle(&mut worker, &handle);
    set_source(None);
    settle(&mut worker, &handle);
    assert_eq!(reasons(&mut reports), []);
    handle.change_source();
    set_source(Some(handle.source()));
    settle(&mut worker, &handle);
    assert_eq!(
        (reasons(&mut reports), handle.backend_sockets()[0].1),
        (vec![ReopenReason::SourceChanged], 2)
    );
    set_source(Some(handle.source()));
    settle(&mut worker, &handle);
    assert_eq!(reasons(&mut reports), []);
}

#[test]
fn the_metric_whose_send_fails_for_want_of_a_source_address_goes_by_a_new_socket() {
    let (mut worker, handle, mut reports) = worker_on(routes(0), 0);
    settle(&mut worker, &handle);
    handle.change_source();
    handle.datagram_at(handle.now_us(), 0, b"x:1|c".as_slice());
    settle(&mut worker, &handle);
    let counters = worker.relay().counters();
    assert_eq!((counters.get(Counter::MetricsSent), counters.dropped_total()), (1, 0));
    assert_eq!(reasons(&mut reports), [ReopenReason::SendFailed]);
}

#[test]
fn where_no_new_socket_can_be_made_the_old_one_stays_and_the_errno_is_reported_once() {
    let (mut worker, handle, mut reports) = worker_on(routes(1_000_000), 0);
    settle(&mut worker, &handle);
    handle.set_fault(Fault::OpenFailed, 10_000);
    let start_us = handle.now_us();
    run(&mut worker, &handle, start_us + 5_000_000);
    assert_eq!(handle.backend_sockets()[0].1, 1);
    let told: Vec<Report> = std::iter::from_fn(|| reports.try_recv().ok()).collect();
    let failures = told.iter().filter(|report| matches!(report, Report::ReopenFailed { .. }));
    assert_eq!(failures.count(), 1);
    handle.stop_faults();
    run(&mut worker, &handle, start_us + 6_500_000);
    assert!(reasons(&mut reports).contains(&ReopenReason::Interval));
    let counters = worker.relay().counters();
    assert_eq!(counters.get(Counter::MetricsSent), counters.get(Counter::MetricsReceived));
}

/// Steps until the fake clock shows `until_us`; nothing arrives.
fn idle(worker: &mut Worker<SimKernel>, handle: &SimHandle, until_us: u64) {
    handle.set_horizon(until_us);
    while handle.now_us() < until_us {
        worker.step().unwrap();
    }
}

#[test]
fn an_answer_that_comes_after_the_last_send_is_found_within_a_second_and_then_it_sleeps() {
    for (slot, is_known) in [(0, true), (3, false)] {
        let (mut worker, handle, mut reports) = worker(Phase::Run, 0);
        run(&mut worker, &handle, handle.now_us() + 200_000);
        let at_us = handle.now_us();
        // A host that does not answer ARP is reported three seconds after the packet.
        idle(&mut worker, &handle, at_us + 3_000_000);
        handle.answer(SocketSlot(slot), libc::EHOSTUNREACH, true);
        idle(&mut worker, &handle, at_us + 4_100_000);
        let counters = Arc::clone(&worker.relay().table().nodes[0].counters);
        let told = counters.error(SendError::NoNeighbor).map(|error| (error.reports, error.undelivered));
        assert_eq!(told, is_known.then_some((1, 1)));
        let is_reported = std::iter::from_fn(|| reports.try_recv().ok())
            .any(|report| matches!(report, Report::SendsFail { node, .. } if &*node == "a:1"));
        assert_eq!(is_reported, is_known);
        // The account keeps them as sent, and after a while there is nothing left to look for.
        assert_eq!(worker.relay().counters().get(Counter::MetricsSent), 2);
        let before = worker.relay().counters().get(Counter::Wakeups);
        idle(&mut worker, &handle, at_us + 60_000_000);
        let wakeups = worker.relay().counters().get(Counter::Wakeups) - before;
        assert!(wakeups <= 5, "{wakeups} wake-ups of an idle worker");
    }
}

#[test]
fn an_error_whose_report_found_no_room_does_not_silence_the_later_ones() {
    let (mut worker, handle, mut reports) = worker_with_room(routes(0), 0, 1);
    // That it is ready takes all of the room.
    settle(&mut worker, &handle);
    let mut fail = |worker: &mut Worker<SimKernel>| {
        handle.datagram_at(handle.now_us(), 0, b"x:1|c".as_slice());
        settle(worker, &handle);
        handle.answer(SocketSlot(0), libc::EHOSTUNREACH, true);
        handle.datagram_at(handle.now_us(), 0, b"x:1|c".as_slice());
        settle(worker, &handle);
        std::iter::from_fn(|| reports.try_recv().ok())
            .filter(|report| matches!(report, Report::SendsFail { .. }))
            .count()
    };
    assert_eq!(fail(&mut worker), 0);
    assert_eq!(fail(&mut worker), 1);
}

#[test]
fn a_missing_socket_is_not_tried_again_for_each_table_of_the_same_backends() {
    let routes = routes(0);
    let (mut worker, handle, _reports) = worker_on(Arc::clone(&routes), 10_000);
    let counters = Arc::clone(&worker.relay().table().nodes[0].counters);
    idle(&mut worker, &handle, handle.now_us() + 1_000);
    let before = counters.error_counts().total();
    for _ in 0..50 {
        publish(&routes, &handle, |_| {});
        idle(&mut worker, &handle, handle.now_us() + 1_000);
    }
    assert_eq!(worker.relay().table().generation, 51);
    let tries = counters.error_counts().total() - before;
    assert!(tries <= 1, "{tries} tries within 50 ms");
    // A backend that is up again gets a new socket at once.
    publish(&routes, &handle, |table| table.live = LiveSet::new([false]));
    idle(&mut worker, &handle, handle.now_us() + 1_000);
    handle.stop_faults();
    publish(&routes, &handle, |table| table.live = LiveSet::new([true]));
    idle(&mut worker, &handle, handle.now_us() + 1_000);
    assert_eq!(handle.backend_sockets().len(), 1);
}

/// Steps until the fake clock shows `until_us`, with some kilobytes of metrics every 100 ms: several packets at once.
fn run_bursts(worker: &mut Worker<SimKernel>, handle: &SimHandle, until_us: u64) {
    for at_us in (handle.now_us()..until_us).step_by(100_000) {
        for _ in 0..16 {
            handle.datagram_at(at_us, 0, format!("x:1|c|#{}\n", "t".repeat(40)).repeat(10).into_bytes());
        }
    }
    handle.set_horizon(until_us);
    while handle.now_us() < until_us {
        worker.step().unwrap();
    }
}

/// The reports about paths and GSO, in order.
fn path_reports(reports: &mut Receiver<Report>) -> Vec<String> {
    std::iter::from_fn(|| reports.try_recv().ok())
        .filter_map(|report| match report {
            Report::FragmentationBegan { .. } => Some("began".to_owned()),
            Report::FragmentationEnded { .. } => Some("ended".to_owned()),
            Report::PacketsResized { packet_bytes, .. } => Some(packet_bytes.to_string()),
            Report::GsoRefused { retry_s, .. } => Some(format!("refused, again after {retry_s} s")),
            _ => None,
        })
        .collect()
}

fn with_packets(packet_auto: bool) -> Arc<ArcSwap<RouteTable>> {
    let mut first = table(Phase::Run);
    first.rules.packet_auto = packet_auto;
    Arc::new(ArcSwap::from_pointee(first))
}

#[test]
fn packets_above_the_path_mtu_are_counted_and_reported_until_they_fit() {
    let (mut worker, handle, mut reports) = worker_on(with_packets(false), 0);
    let count = |worker: &Worker<SimKernel>, counter| worker.relay().counters().get(counter);
    let start_us = handle.now_us();
    run_bursts(&mut worker, &handle, start_us + 3_000_000);
    assert!(count(&worker, Counter::DatagramsGso) > 100);
    handle.set_path(SocketSlot(0), 1_372);
    run_bursts(&mut worker, &handle, start_us + 6_000_000);
    handle.set_path(SocketSlot(0), 872);
    run_bursts(&mut worker, &handle, start_us + 9_000_000);
    let fragmented = handle.with_accepted(|all| all.iter().filter(|packet| packet.is_fragmented).count());
    assert!(fragmented > 100);
    assert_eq!(count(&worker, Counter::PacketsFragmented), fragmented as u64, "known at the first batch");
    assert_eq!(path_reports(&mut reports), ["began"]);
    handle.set_path(SocketSlot(0), 1_472);
    run_bursts(&mut worker, &handle, start_us + 11_000_000);
    let (gso, counted) = (count(&worker, Counter::DatagramsGso), count(&worker, Counter::PacketsFragmented));
    run_bursts(&mut worker, &handle, start_us + 13_000_000);
    assert_eq!(path_reports(&mut reports), ["ended"]);
    assert!(count(&worker, Counter::DatagramsGso) > gso + 50);
    assert_eq!(count(&worker, Counter::PacketsFragmented), counted);
    assert_eq!(worker.relay().table().nodes[0].counters.gso_refused.load(Relaxed), 0);
}

#[test]
fn with_auto_packets_follow_the_path_mtu_in_both_directions() {
    let (mut worker, handle, mut reports) = worker_on(with_packets(true), 0);
    let start_us = handle.now_us();
    for (number, path) in [1_432, 1_372, 872, 1_432].into_iter().enumerate() {
        handle.set_path(SocketSlot(0), path);
        let gso = worker.relay().counters().get(Counter::DatagramsGso);
        run_bursts(&mut worker, &handle, start_us + 3_000_000 * (number as u64 + 1));
        assert!(worker.relay().counters().get(Counter::DatagramsGso) > gso + 50);
        let longest =
            handle.with_accepted(|all| all[all.len() - 6..].iter().map(|packet| packet.bytes.len()).max());
        assert_eq!(longest, Some(path));
    }
    assert_eq!(path_reports(&mut reports), ["1372", "872", "1432"]);
    assert!(worker.relay().counters().get(Counter::PacketsFragmented) < 20);
}

#[test]
fn a_path_that_an_icmp_error_reports_as_smaller_is_followed_before_the_next_packet() {
    let (mut worker, handle, _reports) = worker_on(with_packets(true), 0);
    let start_us = handle.now_us();
    run_bursts(&mut worker, &handle, start_us + 500_000);
    handle.set_path(SocketSlot(0), 872);
    handle.answer(SocketSlot(0), libc::EMSGSIZE, false);
    // The look of a second's end finds it before anything is sent.
    run(&mut worker, &handle, start_us + 1_700_000);
    run_bursts(&mut worker, &handle, start_us + 2_000_000);
    assert_eq!(worker.relay().counters().get(Counter::PacketsFragmented), 0);
    assert!(handle.with_accepted(|all| all.iter().all(|packet| !packet.is_fragmented)));
}

#[test]
fn refused_gso_is_tried_again_after_five_minutes_and_reported_once() {
    let (mut worker, handle, mut reports) = worker_on(with_packets(false), 0);
    handle.set_fault(Fault::GsoRefused, 10_000);
    let start_us = handle.now_us();
    let refused =
        |worker: &Worker<SimKernel>| worker.relay().table().nodes[0].counters.gso_refused.load(Relaxed);
    run_bursts(&mut worker, &handle, start_us + 2_000_000);
    assert_eq!(refused(&worker), 1);
    run_bursts(&mut worker, &handle, start_us + 299_000_000);
    assert_eq!(refused(&worker), 1);
    run_bursts(&mut worker, &handle, start_us + 310_000_000);
    assert_eq!(refused(&worker), 2);
    handle.set_fault(Fault::GsoRefused, 0);
    run_bursts(&mut worker, &handle, start_us + 620_000_000);
    assert!(worker.relay().counters().get(Counter::DatagramsGso) > 50);
    let node = &worker.relay().table().nodes[0].counters;
    assert_eq!((refused(&worker), node.gso_errno.load(Relaxed)), (2, 0));
    assert_eq!(path_reports(&mut reports), ["refused, again after 300 s"]);
}
