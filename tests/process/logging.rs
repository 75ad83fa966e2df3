//! The log: a stalled reader blocks nothing, dropped lines are counted, and each line is one event.

use super::proxy::PROGRAM;
use super::*;
use serde_json::Value;
use std::process::Command;

/// Long lines for the debug log: each byte is escaped to four.
fn long_metric(number: usize) -> Vec<u8> {
    let mut line = format!("long.{number}:").into_bytes();
    line.resize(2_000, 0xfe);
    line.extend(b"|c");
    line
}

/// Stalls the log of a proxy with `-d` until lines are dropped.
fn lose_lines(proxy: &mut Proxy) {
    proxy.stall_log();
    let mut number = 0;
    wait_until("log lines are dropped", || {
        let burst: Vec<Vec<u8>> = (number..number + 200).map(long_metric).collect();
        number += burst.len();
        proxy.send(burst);
        proxy.stat("log_lines_dropped") > 0
    });
}

fn get(proxy: &Proxy, path: &str) -> String {
    let answer = proxy.ask(&format!("GET {path} HTTP/1.0\r\n\r"));
    answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no body: {answer}")).1.to_owned()
}

#[test]
fn stalled_log_reader_blocks_nothing() {
    let mut backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.send(datagrams(0..10));
    proxy.stall_log();
    // Each is logged.
    (0..3).for_each(|_| proxy.signal(Signal::SIGHUP));
    // A signal that is handled later supersedes the command.
    wait_until("a reload is answered", || proxy.ask("reload").starts_with("reloaded: "));
    assert_eq!(proxy.ask("ping"), "pong\n");
    let dead = backends[0].name();
    backends[0].kill();
    proxy.wait_for_state(&dead, "down");
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..100));
    wait_until("the other backends receive every metric", || total(&backends[1..]) == 300);
    wait_until("it is degraded", || proxy.ask("status").contains("\ndegraded: log: "));
    proxy.settle();
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn second_signal_ends_it_with_a_stalled_log() {
    let backends = three();
    let mut proxy =
        Proxy::start(config(&refs(&backends), json!({"shutdownDelay": PATIENCE.as_millis() as u64})));
    proxy.stall_log();
    proxy.signal(Signal::SIGTERM);
    wait_until("health reports down", || proxy.ask("health") == "health: down\n");
    proxy.signal(Signal::SIGTERM);
    let mut status = None;
    wait_until("it has exited", || {
        status = proxy.try_exit_status();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(128 + Signal::SIGTERM as i32));
}

#[test]
fn dropped_log_lines_are_counted_and_the_newest_kept() {
    let backends = three();
    let mut proxy = Proxy::start_with(config(&refs(&backends), json!({})), &["-d"]);
    lose_lines(&mut proxy);
    let message = "\ndegraded: log: standard error has been blocked for ";
    wait_until("it is degraded", || proxy.ask("status").contains(message));
    assert!(proxy.status("log").contains(" lines dropped, the last "));
    let metrics = get(&proxy, "/metrics");
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("statsring_log_lines_dropped_total "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() > 0, "{metrics}");
    let json: Value = serde_json::from_str(&get(&proxy, "/stats.json")).unwrap();
    assert!(json["log"]["lines_dropped"].as_u64().unwrap() > 0, "{}", json["log"]);
    assert!(json["log"]["stalled_for_s"].is_u64(), "{}", json["log"]);
    let stats = proxy.settle();
    assert_eq!((stats["metrics_sent"], stats["kernel_drops"]), (stats["metrics_received"], 0));
    // When the reader resumes, the gap is reported in place, and the last lines are the last events.
    proxy.resume_log();
    wait_until("the gap is reported", || proxy.logged(" log lines were dropped here: "));
    wait_until("the log is drained", || !proxy.ask("status").contains("\ndegraded: log: "));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
    let log = proxy.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("final counters: metrics received "), "{last}");
}

#[test]
fn restart_works_with_a_stalled_log() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.stall_log();
    proxy.restart();
    assert_eq!(proxy.first_exit_code(), 0);
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(&backends) == 300);
    proxy.signal(Signal::SIGTERM);
    proxy.wait_for_end();
}

#[test]
fn failed_start_exits_with_a_stalled_log() {
    let bad = ConfigFile::new(json!({"nodes": [], "workerz": 2}));
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg(&bad.path);
    let mut proxy = Proxy::spawn_stalled(bad, command);
    let mut status = None;
    wait_until("it has exited", || {
        status = proxy.try_exit_status();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(64));
}

/// Whether a line begins with a timestamp such as `2026-01-31T`.
fn has_time(line: &str) -> bool {
    let form = "dddd-dd-ddTdd:dd:dd.";
    line.len() > form.len()
        && form
            .chars()
            .zip(line.chars())
            .all(|(form, c)| if form == 'd' { c.is_ascii_digit() } else { c == form })
}

/// The log of a proxy after a successful and a failed reload with several lines each, and its exit.
fn reloaded(log_format: &str) -> Proxy {
    let mut backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"logFormat": log_format})));
    let good = proxy.config.json.clone();
    proxy.config.json["nodes"].as_array_mut().unwrap().pop();
    (proxy.config.json["checkFall"], proxy.config.json["flushInterval"]) = (json!(7), json!(9));
    proxy.config.write();
    assert!(proxy.ask("reload").lines().count() >= 4);
    proxy.config.json["checkRise"] = json!(-1);
    proxy.config.json["workerz"] = json!("x\ny");
    proxy.config.write();
    assert!(proxy.ask("reload").lines().count() >= 2);
    proxy.config.json = good;
    proxy.config.write();
    assert!(proxy.ask("reload").contains("added"));
    let dead = backends[0].name();
    backends[0].kill();
    proxy.wait_for_state(&dead, "down");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
    proxy
}

#[test]
fn text_log_lines_have_timestamps() {
    let proxy = reloaded("text");
    let log = proxy.log();
    for line in log.lines() {
        assert!(has_time(line), "{line:?} in {log}");
    }
    for text in ["flushInterval: 5 -> 9", "checkFall: 3 -> 7", "checkRise", "workerz"] {
        assert!(log.contains(text), "{text} in {log}");
    }
}

#[test]
fn json_logs_have_event_fields() {
    let proxy = reloaded("json");
    let log = proxy.log();
    let events: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}")))
        .collect();
    for event in &events {
        assert!(["timestamp", "level", "message"].iter().all(|key| event[key].is_string()), "{event}");
    }
    let event = |text: &str| {
        let it = |event: &&Value| event["message"].as_str().unwrap().contains(text);
        events.iter().find(it).unwrap_or_else(|| panic!("{text} in {log}"))
    };
    let ready = event("ready: ");
    assert_eq!(ready["admin"], proxy.admin.to_string());
    assert_eq!((&ready["backends"], &ready["workers"]), (&json!(3), &json!(1)));
    let down = event(" down");
    assert!(down["backend"].as_str().unwrap().starts_with("127.0.0.1:"), "{down}");
    assert_eq!((&down["state"], &down["cause"]), (&json!("down"), &json!("checks")));
    assert_eq!(event("reloaded: ")["reload"], "applied");
    assert_eq!(event("workerz")["reload"], "refused");
    assert_eq!(event("final counters: ")["metrics_received"], 0);
    assert_eq!(event("received SIGTERM; draining")["signal"], "SIGTERM");
}
