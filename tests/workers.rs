//! Several workers: distribution, CPU affinity, order, latency, and idle wake-ups.

#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses all of it")]
mod backend;
#[path = "process/patience.rs"]
mod patience;
#[path = "process/proxy.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses all of it")]
mod proxy;

use backend::Backend;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use patience::{PATIENCE, wait_until};
use proxy::{Proxy, config};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A config with a plain socket as backend, whose lines can be read in order.
fn config_of(sink: &UdpSocket, extra: Value) -> Value {
    let mut config = config(&[], extra);
    config["nodes"] = json!([{"host": "127.0.0.1", "port": sink.local_addr().unwrap().port()}]);
    config
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The lines of the next packet.
fn lines(sink: &UdpSocket) -> Vec<String> {
    let mut packet = [0; 2_048];
    let length = sink.recv(&mut packet).unwrap();
    String::from_utf8_lossy(&packet[..length]).lines().map(str::to_owned).collect()
}

/// Datagrams received by each worker.
fn datagrams_by_worker(stats: &HashMap<String, u64>) -> Vec<u64> {
    (0..stats["workers"]).map(|worker| stats[&format!("worker_{worker}_datagrams_received")]).collect()
}

#[test]
fn a_busy_sender_is_shared_if_wanted_and_every_metric_still_reaches_its_backend_once() {
    let backends = [Backend::start(), Backend::start(), Backend::start()];
    let all = [&backends[0], &backends[1], &backends[2]];
    let extra = json!({"workers": 2, "spread": "datagram"});
    let mut proxy = Proxy::start(config(&all, extra));
    proxy.send((0..600).map(|number| format!("shared.{number}:1|c")));
    let stats = proxy.settle();
    let by_worker = datagrams_by_worker(&stats);
    assert!(by_worker.iter().all(|count| *count > 120), "expected at least a fifth each: {by_worker:?}");
    assert_eq!(by_worker.iter().sum::<u64>(), 600);
    wait_until("every metric has arrived", || backends.iter().map(Backend::total).sum::<u64>() == 600);
    for backend in &backends {
        assert!(backend.lines().values().all(|times| *times == 1), "a metric arrived twice");
    }
    let status = proxy.ask("status");
    assert!(status.contains("\nspread: datagram\n"), "{status}");
    for lever in [
        "gso: ",
        "gro: off",
        "packet_size: 1432 bytes",
        "cache: up to 16384 names in 32768 entries",
        "coalescing: up to 5 ms; ",
        "scanner: ",
    ] {
        assert!(status.contains(&format!("\n{lever}")), "{lever}: {status}");
    }
    for counter in ["kernel_drops", "wakeups", "coalesced_waits", "cpu_us"] {
        let sum: u64 = (0..2).map(|worker| stats[&format!("worker_{worker}_{counter}")]).sum();
        assert!(stats.get(counter).is_none_or(|total| sum == *total), "{counter}: {stats:?}");
    }
}

#[test]
fn by_default_a_sender_has_one_worker_and_keeps_its_order() {
    let sink = socket();
    let mut proxy = Proxy::start(config_of(&sink, json!({"workers": 2})));
    proxy.send((0..600).map(|number| format!("gauge:{number}|g")));
    let stats = proxy.settle();
    let mut by_worker = datagrams_by_worker(&stats);
    by_worker.sort_unstable();
    assert_eq!(by_worker, [0, 600]);
    assert_eq!(stats["worker_skew"], 2);
    let mut received = Vec::new();
    while received.len() < 600 {
        received.extend(lines(&sink));
    }
    let sent: Vec<String> = (0..600).map(|number| format!("gauge:{number}|g")).collect();
    assert_eq!(received, sent);
}

#[test]
fn a_stop_of_workers_that_share_a_sender_loses_nothing() {
    let sink = socket();
    let extra = json!({"workers": 2, "spread": "datagram"});
    let mut proxy = Proxy::start(config_of(&sink, extra));
    let sender = socket();
    sender.connect(proxy.address).unwrap();
    let mut accepted = 0u64;
    let start = Instant::now();
    let refused = loop {
        match sender.send(b"until.the.end:1|c") {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        if accepted == 2_000 {
            proxy.signal(Signal::SIGTERM);
        }
        // As many as fit into every receive buffer arrive in 10 ms.
        std::thread::sleep(Duration::from_micros(100));
        assert!(start.elapsed() < PATIENCE, "the port was never closed");
    };
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(proxy.exit_code(), 0);
    // The refusal reports the previous datagram.
    let account = format!("metrics received {}, sent {0}, dropped 0, pending 0", accepted - 1);
    assert!(proxy.logged(&account), "{account}: {}", proxy.log());
    assert!(proxy.logged("dropped by the kernel 0"), "{}", proxy.log());
}

/// The process's threads: directories in /proc, and names.
fn threads(proxy: &Proxy) -> Vec<(PathBuf, String)> {
    let folders = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
    folders
        .map(|folder| folder.unwrap().path())
        .map(|folder| (folder.clone(), fs::read_to_string(folder.join("comm")).unwrap().trim().to_owned()))
        .collect()
}

/// A value of `/proc/PID/task/TID/status`.
fn status_of(thread: &Path, key: &str) -> String {
    let status = fs::read_to_string(thread.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
    line.unwrap_or_else(|| panic!("{key} is missing in {status}")).trim().to_owned()
}

#[test]
fn each_worker_keeps_to_its_cpu_and_the_other_threads_to_none() {
    let mine = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let allowed: Vec<usize> = (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap()).collect();
    let cpus: Vec<usize> = allowed.iter().rev().take(2).copied().collect();
    let sink = socket();
    let extra = json!({"workers": cpus.len(), "pinWorkers": cpus});
    let mut proxy = Proxy::start(config_of(&sink, extra));
    let everywhere = status_of(&PathBuf::from("/proc/thread-self"), "Cpus_allowed_list");
    let mut pinned = 0;
    for (thread, name) in threads(&proxy) {
        let expected = match name.strip_prefix("worker-") {
            Some(index) => cpus[index.parse::<usize>().unwrap()].to_string(),
            None => everywhere.clone(),
        };
        assert_eq!(status_of(&thread, "Cpus_allowed_list"), expected, "{name}");
        pinned += usize::from(name.starts_with("worker-"));
    }
    assert_eq!(pinned, cpus.len());
    let words: Vec<String> =
        cpus.iter().enumerate().map(|(worker, cpu)| format!("worker {worker} on CPU {cpu}")).collect();
    let status = proxy.ask("status");
    assert!(status.contains(&format!("\npinned: {}\n", words.join(", "))), "{status}");
    proxy.send(["pinned:1|c"]);
    assert_eq!(lines(&sink), ["pinned:1|c"]);
    // Another CPU needs a restart, as the reply states.
    proxy.config.json["pinWorkers"] = false.into();
    proxy.config.write();
    assert!(proxy.ask("reload").contains("a restart is needed to change pinWorkers"));
}

#[test]
fn with_no_flush_interval_a_lone_metric_leaves_at_once() {
    let sink = socket();
    let proxy = Proxy::start(config_of(&sink, json!({"flushInterval": 0})));
    let sender = socket();
    // The median of many, in several attempts, because a busy machine delays some. Coalescing would delay all.
    let median = || {
        let mut times: Vec<Duration> = (0..51)
            .map(|number| {
                std::thread::sleep(Duration::from_millis(2));
                let start = Instant::now();
                sender.send_to(format!("lone.{number}:1|c").as_bytes(), proxy.address).unwrap();
                assert_eq!(lines(&sink), [format!("lone.{number}:1|c")]);
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[25]
    };
    let medians: Vec<Duration> = (0..5).map(|_| median()).collect();
    assert!(medians.iter().min().is_some_and(|best| *best < Duration::from_millis(3)), "{medians:?}");
    let stats = proxy.settle();
    assert_eq!((stats["coalesced_waits"], stats["datagrams_sent"]), (0, 255));
}

#[test]
fn an_idle_process_sleeps() {
    let backends = [Backend::start(), Backend::start(), Backend::start()];
    for flush_ms in [0, 5] {
        let extra = json!({"flushInterval": flush_ms, "workers": 2, "checkInterval": 10_000});
        let mut proxy = Proxy::start(config(&[&backends[0], &backends[1], &backends[2]], extra));
        proxy.send(["before.the.silence:1|c"]);
        proxy.settle();
        // The checks at start, and the end of the traffic.
        std::thread::sleep(Duration::from_secs(1));
        let switches = || -> u64 {
            let threads = threads(&proxy).into_iter();
            threads
                .map(|(thread, _)| status_of(&thread, "voluntary_ctxt_switches").parse::<u64>().unwrap())
                .sum()
        };
        let before = switches();
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs(5));
        let woke = switches() - before;
        let most = 3 * (start.elapsed().as_secs() + 1);
        assert!(woke <= most, "it woke {woke} times in {:?}, flushInterval {flush_ms}", start.elapsed());
    }
}
