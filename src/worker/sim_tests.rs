//! Workers on the fake kernel, by examples; what chance brings stands in `tests/simulation`.

use super::{Ended, Limits, Report, Step, Worker, WorkerLinks};
use crate::driver::sim::{Fault, SimDriver, SimHandle, SimSetup};
use crate::placement::{LiveSet, Placement};
use crate::relay::{Malformed, OnNodeDown, Phase, RouteNode, RouteTable, Rules};
use crate::stats::{Counter, DropReason, WorkerShared};
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::mpsc::{Receiver, channel};

fn table(phase: Phase) -> RouteTable {
    let node = RouteNode {
        name: "a:1".into(),
        address: "10.0.0.1:8125".parse().ok(),
        may_move: false,
        gso: true,
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
            malformed: Malformed::Drop,
            on_node_down: OnNodeDown::Divert,
        },
        phase,
        observer: None,
    }
}

/// A worker whose first table has this phase, on a kernel that gives it no socket for its backend as often as this, in ten
/// thousand tries, until it is told to stop that.
fn worker(phase: Phase, open_failed: u32) -> (Worker<SimDriver>, SimHandle, Receiver<Report>) {
    let mut setup = SimSetup::roomy(1);
    setup.faults.set(Fault::OpenFailed, open_failed);
    let limits = Limits {
        datagram_bytes_max: setup.payload_bytes_max,
        buffers: setup.buffers,
        buffer_bytes: setup.payload_bytes_max + setup.prefix_bytes,
        sends_max: setup.sends_max,
        sockets_max: 4,
        backlog_bytes_max: 20_000,
        send_buffer_bytes: 1 << 20,
        cache_entries: 0,
        timestamps: false,
    };
    let (driver, handle) = SimDriver::new(&setup);
    let (sender, reports) = channel(64);
    let links = WorkerLinks {
        index: 0,
        routes: Arc::new(ArcSwap::from_pointee(table(phase))),
        shared: Arc::new(WorkerShared::default()),
        reports: sender,
        limits,
    };
    (Worker::new(driver, links), handle, reports)
}

/// Steps until the fake clock shows `until_us`, with a metric every 100 ms.
fn run(worker: &mut Worker<SimDriver>, handle: &SimHandle, until_us: u64) {
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
    assert!(handle.is_quiet());
    assert_eq!(worker.relay().counters().get(Counter::MetricsPending), 0);
}
