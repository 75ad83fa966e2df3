//! Failing backends, and backends taken out by an operator: process tests.
//!
//! All tests wait for conditions and use free loopback ports.

#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/network.rs, which uses the rest of it")]
mod backend;
#[path = "process/patience.rs"]
mod patience;
#[path = "process/proxy.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses more of it")]
mod proxy;

use backend::{Backend, Manner};
use nix::sys::signal::Signal;
use patience::wait_until;
use proxy::{Proxy, config, nodes};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

fn start(count: usize) -> Vec<Backend> {
    (0..count).map(|_| Backend::start()).collect()
}

fn proxy_of(backends: &[Backend], extra: Value) -> Proxy {
    Proxy::start(config(&backends.iter().collect::<Vec<_>>(), extra))
}

/// The current backend of each of 200 names; none of the metrics may be lost.
#[track_caller]
fn owners(proxy: &mut Proxy, backends: &[Backend]) -> HashMap<String, String> {
    backends.iter().for_each(Backend::forget);
    proxy.send((0..200).map(|number| format!("service{}.requests.{number}:1|c\n", number % 7)));
    wait_until("every metric has arrived", || backends.iter().map(Backend::total).sum::<u64>() == 200);
    let lines = backends.iter().flat_map(|backend| {
        let name = backend.name();
        backend.lines().into_keys().map(move |line| (line, name.clone()))
    });
    lines.collect()
}

/// Checks that only the names of `gone` have moved.
#[track_caller]
fn assert_only_its_names_moved(before: &HashMap<String, String>, now: &HashMap<String, String>, gone: &str) {
    assert!(before.values().any(|owner| owner == gone));
    for (name, owner) in now {
        assert_eq!(owner != &before[name], before[name] == gone, "{name} is at {owner}");
    }
}

#[test]
fn bad_check_replies_take_only_that_backend_down() {
    let backends = start(3);
    let quick = json!({"checkInterval": 500, "checkTimeout": 300, "checkFast": 100});
    let mut proxy = proxy_of(&backends, quick);
    let hostile = backends[1].name();
    let before = owners(&mut proxy, &backends);
    for (manner, cause) in [
        (Manner::Hangs, "not reported up within 300 ms"),
        (Manner::Trickles, "but not reported up within 300 ms"),
        (Manner::Resets, "connection reset by peer"),
        (Manner::Floods, "answered more than 4096 bytes"),
    ] {
        backends[1].behave(manner);
        proxy.wait_for_state(&hostile, "down");
        // The log is read through a pipe, possibly later than the state changes.
        let is_logged = |log: &str| {
            let line = log.lines().rfind(|line| line.contains(&format!("backend {hostile} is down")));
            line.is_some_and(|line| line.contains(cause))
        };
        wait_until(&format!("the cause is logged: {cause}, after {manner:?}"), || is_logged(&proxy.log()));
        assert_only_its_names_moved(&before, &owners(&mut proxy, &backends), &hostile);
        backends[1].behave(Manner::Up);
        proxy.wait_for_state(&hostile, "up");
        assert_eq!(owners(&mut proxy, &backends), before, "every name returns after {manner:?}");
    }
    for steady in [&backends[0], &backends[2]] {
        assert!(!proxy.logged(&format!("backend {} is down", steady.name())));
    }
    let stats = proxy.settle();
    assert_eq!(stats["metrics_sent"], stats["metrics_received"], "nothing was dropped: {stats:?}");
}

#[test]
fn health_check_skips_a_banner_line() {
    let backends = start(2);
    backends[1].behave(Manner::Banner);
    let quick = json!({"checkInterval": 200, "checkTimeout": 200, "checkFast": 100, "checkFall": 1});
    let proxy = proxy_of(&backends, quick);
    wait_until("5 checks were made", || backends[1].asked() >= 5);
    assert_eq!(proxy.state(&backends[1].name()), "up");
    assert!(!proxy.logged("is down"), "{}", proxy.log());
}

#[test]
fn check_interrupted_by_sigstop_is_not_a_failure() {
    let backends = start(2);
    let watched = &backends[1];
    watched.behave(Manner::Slow);
    let quick = json!({"checkInterval": 500, "checkTimeout": 400, "checkFast": 100, "checkFall": 1});
    let proxy = proxy_of(&backends, quick);
    for round in 0..6 {
        let asked = watched.asked();
        wait_until("a check has started", || watched.asked() > asked);
        proxy.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(1_200));
        proxy.signal(Signal::SIGCONT);
        let asked = watched.asked();
        wait_until("two more checks were made", || watched.asked() >= asked + 2);
        assert!(!proxy.logged("is down"), "round {round}: {}", proxy.log());
    }
    assert_eq!(proxy.state(&watched.name()), "up");
}

#[test]
fn without_backends_it_is_degraded_and_readiness_follows_the_config() {
    let mut backends = start(2);
    let quick = json!({"checkInterval": 200, "checkTimeout": 200, "checkFast": 50});
    let mut proxy = proxy_of(&backends, quick);
    let check =
        |proxy: &Proxy| proxy::run(&["check-ready", "--address", &proxy.admin.to_string()]).status.code();
    assert!(!proxy.ask("status").contains("degraded: no backend"), "{}", proxy.ask("status"));
    backends.iter_mut().for_each(Backend::kill);
    for backend in &backends {
        proxy.wait_for_state(&backend.name(), "down");
    }
    assert!(proxy.ask("status").contains("degraded: no backend is up"), "{}", proxy.ask("status"));
    assert_eq!(check(&proxy), Some(0), "ready by default");
    proxy.config.json["readyWithoutBackends"] = json!(false);
    proxy.config.write();
    proxy.ask("reload");
    assert_eq!(check(&proxy), Some(1));
    assert_eq!(proxy.ask("health"), "health: down\n");
    assert!(proxy.status("ready").contains("no backend is up"), "{}", proxy.ask("status"));
    backends.iter_mut().for_each(Backend::restore);
    wait_until("the proxy is ready again", || check(&proxy) == Some(0));
    // The cause is logged before its effect.
    let log = proxy.log();
    let line = |words: &str| log.lines().position(|line| line.contains(words)).unwrap();
    assert!(line(" is down: ") < line("placement: 1 of 2"), "{log}");
}

#[test]
fn flapping_backend_moves_no_names() {
    let backends = start(3);
    let quick = json!({"checkInterval": 100, "checkTimeout": 100, "checkFast": 50});
    let mut proxy = proxy_of(&backends, quick);
    let flapping = &backends[1];
    let (before, asked) = (owners(&mut proxy, &backends), flapping.asked());
    flapping.behave(Manner::Flaps);
    wait_until("20 checks were made", || flapping.asked() >= asked + 20);
    assert_eq!(proxy.state(&flapping.name()), "up");
    assert!(!proxy.logged("is down"), "{}", proxy.log());
    assert_eq!(owners(&mut proxy, &backends), before);
    assert_eq!(proxy.settle()["metrics_diverted"], 0);
}

#[test]
fn losses_during_an_outage_are_counted() {
    let mut backends = start(3);
    let quick = json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50});
    let mut proxy = proxy_of(&backends, quick);
    let flapping = backends[1].name();
    for _ in 0..3 {
        backends[1].kill();
        let mut number = 0;
        wait_until("it is down under traffic", || {
            proxy.send((0..10).map(|_| {
                number += 1;
                format!("outage.{number}:1|c")
            }));
            proxy.state(&flapping) == "down"
        });
        backends[1].restore();
        proxy.wait_for_state(&flapping, "up");
    }
    owners_settle(&mut proxy, &backends, &flapping);
}

/// What was sent to live backends has arrived; the loss of the other one is at most its `sent`.
#[track_caller]
fn owners_settle(proxy: &mut Proxy, backends: &[Backend], flapping: &str) {
    let stats = proxy.settle();
    let sent = |backend: &Backend| proxy.column(&backend.name(), "sent").parse::<u64>().unwrap();
    for backend in backends.iter().filter(|backend| backend.name() != flapping) {
        wait_until("everything sent to it has arrived", || backend.total() == sent(backend));
        assert_eq!(proxy.column(&backend.name(), "dropped"), "0");
    }
    assert_eq!(backends.iter().map(sent).sum::<u64>(), stats["metrics_sent"]);
    let dropped: u64 = proxy.column(flapping, "dropped").parse().unwrap();
    assert_eq!(stats["metrics_received"], stats["metrics_sent"] + dropped);
    assert_eq!(stats["metrics_dropped_send_refused"], dropped, "{stats:?}");
}

#[test]
fn drained_backend_receives_nothing_and_is_still_checked() {
    let mut backends = start(3);
    let mut proxy = proxy_of(&backends, json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50}));
    let (before, drained) = (owners(&mut proxy, &backends), backends[1].name());
    assert_eq!(proxy.ask(&format!("backend {drained} drain")), format!("backend {drained}: drain\n"));
    assert_only_its_names_moved(&before, &owners(&mut proxy, &backends), &drained);
    let shown = |proxy: &Proxy| (proxy.column(&drained, "state"), proxy.column(&drained, "health"));
    assert_eq!(shown(&proxy), ("drain".to_owned(), "up".to_owned()));
    assert!(proxy.status("backend").starts_with(&format!("{drained} drain, set by the operator ")));
    // The setting survives a reload, and health checks continue.
    proxy.config.json["flushInterval"] = 7.into();
    proxy.config.write();
    assert!(proxy.ask("reload").contains("flushInterval: 5 -> 7"));
    backends[1].kill();
    wait_until("it is down", || shown(&proxy) == ("drain".to_owned(), "down".to_owned()));
    assert_eq!(proxy.ask(&format!("backend {drained} up")), format!("backend {drained}: down\n"));
    backends[1].restore();
    proxy.wait_for_state(&drained, "up");
    assert_eq!(owners(&mut proxy, &backends), before, "every name has returned");
    // Removed from the config and added again, it is a new backend.
    proxy.ask(&format!("backend {drained} drain"));
    for list in [nodes(&[&backends[0], &backends[2]]), nodes(&backends.iter().collect::<Vec<_>>())] {
        proxy.config.json["nodes"] = list;
        proxy.config.write();
        assert!(proxy.ask("reload").starts_with("reloaded: "));
    }
    assert_eq!(proxy.state(&drained), "up");
    assert!(proxy.ask("backend 127.0.0.1:1 drain").starts_with("error: no such backend: 127.0.0.1:1;"));
    let stats = proxy.settle();
    assert_eq!(stats["metrics_sent"], stats["metrics_received"], "nothing was dropped: {stats:?}");
}

#[test]
fn forced_down_drops_where_drain_diverts() {
    let backends = start(2);
    let mut proxy = proxy_of(&backends, json!({"onNodeDown": "drop"}));
    let (before, out) = (owners(&mut proxy, &backends), backends[0].name());
    let its_names = before.values().filter(|owner| **owner == out).count() as u64;
    assert_eq!(proxy.ask(&format!("backend {out} drain")), format!("backend {out}: drain\n"));
    assert_only_its_names_moved(&before, &owners(&mut proxy, &backends), &out);
    assert_eq!(proxy.ask(&format!("backend {out} down")), format!("backend {out}: forced_down\n"));
    backends.iter().for_each(Backend::forget);
    proxy.send(before.keys());
    let stats = proxy.settle();
    assert_eq!(stats["metrics_dropped_node_down"], its_names);
    wait_until("the other metrics have arrived", || backends[1].total() == 200 - its_names);
    assert!(
        proxy.status("dropped_node_down").contains(" s ago, at 20"),
        "the time of the last drop is shown"
    );
    let answer = proxy.ask(&format!("backend {} down", backends[1].name()));
    assert!(answer.ends_with("forced_down; no backend is up: metrics are dropped and counted\n"), "{answer}");
    wait_until("it is logged", || proxy.logged("no backend is up"));
}

#[test]
fn fingerprints_compare_placements_of_a_fleet() {
    let backends = start(3);
    let one = proxy_of(&backends, json!({}));
    let mut other = proxy_of(&backends, json!({"flushInterval": 9, "workers": 2}));
    let of = |proxy: &Proxy| (proxy.status("fingerprint"), proxy.status("fingerprint_config"));
    wait_until("the fingerprints agree", || of(&one) == of(&other));
    let together = of(&one);
    let all = format!("3 of 3 backends serving, fingerprint {}", together.0);
    wait_until("it is logged", || one.logged(&all));
    // Draining a backend on one proxy only changes the fingerprint of the current placement.
    one.ask(&format!("backend {} drain", backends[2].name()));
    assert_eq!(one.status("fingerprint_config"), together.1);
    assert_ne!(one.status("fingerprint"), together.0);
    let fewer = format!("2 of 3 backends serving, fingerprint {}", one.status("fingerprint"));
    wait_until("it is logged", || one.logged(&fewer));
    one.ask(&format!("backend {} up", backends[2].name()));
    assert_eq!(of(&one), together);
    // The order is part of the placement.
    other.config.json["nodes"] = nodes(&[&backends[1], &backends[0], &backends[2]]);
    other.config.write();
    assert!(other.ask("reload").contains("order changed"));
    assert_ne!(other.status("fingerprint_config"), together.1);
    assert_ne!(other.status("fingerprint"), together.0);
}

/// The local ports of sockets connected to `port`.
fn sockets_to(port: u16) -> Vec<String> {
    let remote = format!("0100007F:{port:04X}");
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let rows = table.lines().filter_map(|row| {
        let columns: Vec<&str> = row.split_whitespace().collect();
        (columns.get(2) == Some(&remote.as_str())).then(|| columns[1].to_owned())
    });
    let mut sockets: Vec<String> = rows.collect();
    sockets.sort();
    sockets
}

#[test]
fn reload_keeps_sockets_health_and_counters_of_unchanged_backends() {
    let mut backends = start(4);
    let three =
        config(&backends[..3].iter().collect::<Vec<_>>(), json!({"checkInterval": 60_000, "workers": 2}));
    let mut proxy = Proxy::start(three);
    owners(&mut proxy, &backends);
    backends[1].kill();
    let mut number = 0;
    wait_until("it is down", || {
        number += 1;
        proxy.send((0..10).map(|name| format!("dying.{name}.{number}:1|c")));
        proxy.state(&backends[1].name()) == "down"
    });
    proxy.settle();
    // The check interval exceeds the test, so it is down only if the state is inherited.
    backends[1].restore();
    let asked = backends[1].asked();
    let kept = |proxy: &Proxy| -> Vec<_> {
        let row = |backend: &Backend| {
            ["state", "sent", "refused", "dropped"].map(|c| proxy.column(&backend.name(), c))
        };
        backends[..3].iter().map(|backend| (row(backend), sockets_to(backend.port))).collect()
    };
    let before = kept(&proxy);
    assert!(before.iter().all(|(_, sockets)| sockets.len() == 2), "one socket per worker: {before:?}");
    for list in [&backends[..], &backends[..3]] {
        proxy.config.json["nodes"] = nodes(&list.iter().collect::<Vec<_>>());
        proxy.config.json["maxPacketSize"] = (1_000 + list.len()).into();
        proxy.config.json["checkFall"] = list.len().into();
        proxy.config.write();
        let answer = proxy.ask("reload");
        assert!(answer.starts_with("reloaded: "), "{answer}");
        if backends[1].asked() == asked {
            assert_eq!(kept(&proxy), before);
        }
    }
    wait_until("the sockets of the removed backend are closed", || sockets_to(backends[3].port).is_empty());
    assert!(!sockets_to(backends[0].port).is_empty());
}
