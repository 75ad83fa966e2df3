//! The process as a black box: start, traffic, reload, misuse, stop; with simulated StatsD servers.
//!
//! All tests wait for conditions and use free loopback ports. `process_portable.rs` is a link to this file: under that name the
//! tests use the portable engine.

#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/backends.rs, which uses the rest of it")]
mod backend;
#[path = "process/bare_ring.rs"]
mod bare_ring;
#[path = "process/descriptors.rs"]
mod descriptors;
#[path = "process/engine.rs"]
mod engine;
#[path = "process/gro.rs"]
mod gro;
#[path = "process/handover.rs"]
mod handover;
#[path = "process/hostile.rs"]
mod hostile;
#[path = "process/http.rs"]
mod http;
#[path = "process/logging.rs"]
mod logging;
#[path = "process/patience.rs"]
mod patience;
#[path = "process/proxy.rs"]
#[allow(dead_code, reason = "shared with tests/backends.rs, which uses the rest of it")]
mod proxy;
#[path = "process/proxy_js.rs"]
mod proxy_js;
#[path = "process/seccomp.rs"]
mod seccomp;
#[path = "process/service.rs"]
mod service;
#[path = "process/shortage.rs"]
mod shortage;
#[path = "process/skip.rs"]
mod skip;
#[path = "process/spread.rs"]
mod spread;
#[path = "process/timestamps.rs"]
mod timestamps;
#[path = "process/wire.rs"]
mod wire;

use backend::Backend;
use nix::sys::signal::Signal;
use patience::{PATIENCE, wait_until};
use proxy::{ConfigFile, Proxy, assert_balanced, config, nodes, run};
use serde_json::json;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn three() -> [Backend; 3] {
    [Backend::start(), Backend::start(), Backend::start()]
}

fn refs(backends: &[Backend]) -> Vec<&Backend> {
    backends.iter().collect()
}

fn name(number: usize) -> String {
    format!("service{}.requests.{number}", number % 7)
}

/// One datagram of three metrics for each number, so that each name occurs with three values.
fn datagrams(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| (0..3).map(|value| format!("{}:{value}|c\n", name(number))).collect()).collect()
}

fn total(backends: &[Backend]) -> u64 {
    backends.iter().map(Backend::total).sum()
}

/// The backend of each name; panics if a name was sent to two.
fn owners(backends: &[Backend]) -> HashMap<String, String> {
    let mut owners = HashMap::new();
    for backend in backends {
        for line in backend.lines().into_keys() {
            let name = line.split(':').next().unwrap().to_owned();
            let before = owners.insert(name.clone(), backend.name());
            assert!(before.is_none_or(|before| before == backend.name()), "{name} went to two backends");
        }
    }
    owners
}

/// Sends a few datagrams every millisecond from a thread, and counts them.
struct Traffic {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Traffic {
    fn start(proxy: &Proxy, prefix: &'static str) -> Traffic {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let address = proxy.address;
        let thread = std::thread::spawn({
            let (stop, sent) = (stop.clone(), sent.clone());
            move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..2 {
                        let number = sent.fetch_add(1, Ordering::Relaxed);
                        // Not connected: a closed port is not an error here.
                        let _ = socket.send_to(format!("{prefix}.{number}:1|c").as_bytes(), address);
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Traffic { stop, sent, thread }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops; returns the number of datagrams sent.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

#[test]
fn every_metric_reaches_the_backend_printed_by_where() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"workers": 2})));
    assert_eq!(proxy.ask("ping"), "pong\n");
    assert_eq!(proxy.ask("health"), "health: up\n");
    proxy.send(datagrams(0..500));
    wait_until("every metric has arrived", || total(&backends) == 1_500);
    let stats = proxy.settle();
    assert_eq!((stats["metrics_received"], stats["metrics_sent"]), (1_500, 1_500));
    for backend in &backends {
        assert!(backend.lines().values().all(|times| *times == 1), "a metric arrived twice");
        assert!(backend.total() > 300, "expected about a third of 1500 metrics, found {}", backend.total());
    }
    let owners = owners(&backends);
    assert_eq!(owners.len(), 500);
    let names: Vec<String> = (0..500).map(name).collect();
    let mut arguments = vec!["where", "-f", proxy.config_path().to_str().unwrap()];
    arguments.extend(names.iter().map(String::as_str));
    let printed = String::from_utf8(run(&arguments).stdout).unwrap();
    let printed: HashMap<&str, &str> = printed.lines().map(|line| line.split_once('\t').unwrap()).collect();
    for name in &names {
        assert_eq!(printed[name.as_str()], owners[name], "{name}");
    }
    assert_eq!(proxy.ask("where gorets").trim_end(), format!("gorets\t{}", whole_where(&proxy, "gorets")));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
    assert!(proxy.logged("metrics received 1500, sent 1500, dropped 0, pending 0"), "{}", proxy.log());
}

fn whole_where(proxy: &Proxy, name: &str) -> String {
    let output = run(&["where", "-f", proxy.config_path().to_str().unwrap(), name]);
    String::from_utf8(output.stdout).unwrap().trim_end().split('\t').nth(1).unwrap().to_owned()
}

#[test]
fn stats_balance_under_load() {
    let backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({"workers": 2})));
    let traffic = [Traffic::start(&proxy, "one"), Traffic::start(&proxy, "two")];
    wait_until("traffic has started", || proxy.stat("metrics_received") > 100);
    for _ in 0..50 {
        assert_balanced(&proxy.stats());
    }
    let sent: u64 = traffic.map(Traffic::end).into_iter().sum();
    let accounted = |stats: HashMap<String, u64>| stats["datagrams_received"] + stats["kernel_drops"];
    wait_until("every datagram is accounted for", || accounted(proxy.stats()) == sent);
    let stats = proxy.settle();
    wait_until("everything sent has arrived", || total(&backends) == stats["metrics_sent"]);
}

#[test]
fn reload_under_traffic_loses_nothing_and_moves_few_names() {
    let backends = [Backend::start(), Backend::start(), Backend::start(), Backend::start()];
    let mut proxy = Proxy::start(config(&refs(&backends[..3]), json!({})));
    proxy.send(datagrams(0..300));
    wait_until("every metric has arrived", || total(&backends) == 900);
    let before = owners(&backends);
    let traffic = Traffic::start(&proxy, "meanwhile");
    wait_until("traffic has started", || traffic.sent() > 100);
    proxy.config.json["nodes"] = nodes(&refs(&backends));
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.starts_with("reloaded: 2"), "about a quarter of the names: {answer}");
    assert!(answer.contains(&format!("nodes: {} added", backends[3].name())), "{answer}");
    let sent_then = traffic.sent();
    wait_until("traffic continues", || traffic.sent() > sent_then + 100);
    // And back, by signal.
    proxy.config.json["nodes"] = nodes(&refs(&backends[..3]));
    proxy.config.write();
    proxy.signal(Signal::SIGHUP);
    wait_until("the removal is logged", || proxy.logged(&format!("nodes: {} removed", backends[3].name())));
    let sent_then = traffic.sent();
    wait_until("traffic continues", || traffic.sent() > sent_then + 100);
    let sent = traffic.end();
    let accounted = |stats: HashMap<String, u64>| stats["datagrams_received"] + stats["kernel_drops"];
    wait_until("every datagram is accounted for", || accounted(proxy.stats()) == 300 + sent);
    let stats = proxy.settle();
    assert_eq!(stats["metrics_sent"], stats["metrics_received"], "metrics were dropped: {stats:?}");
    wait_until("everything sent has arrived", || total(&backends) == stats["metrics_sent"]);
    assert!(backends[3].total() > 0, "the added backend received metrics");
    for backend in &backends {
        backend.forget();
    }
    proxy.send(datagrams(0..300));
    wait_until("every metric has arrived", || total(&backends) == 900);
    assert_eq!(owners(&backends), before, "every name has returned");
}

#[test]
fn invalid_config_changes_nothing_and_all_errors_are_reported() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let config_before = proxy.ask("config");
    proxy.config.write_text(
        r#"{"nodes": [{"host": "127.0.0.1", "port": 99999}], "checkFall": 0, "queu": 5, "malformed": "perhaps"}"#,
    );
    let answer = proxy.ask("reload");
    for mistake in ["nodes[0].port: 99999", "checkFall: 0", "queu", "malformed"] {
        assert!(answer.contains(mistake), "{mistake} is missing in {answer}");
    }
    proxy.config.json["cacheSize"] = 77.into();
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("a restart is needed to change cacheSize"), "{answer}");
    std::fs::remove_file(proxy.config_path()).unwrap();
    proxy.signal(Signal::SIGHUP);
    wait_until("the missing file is logged", || proxy.logged("cannot read"));
    assert_eq!(proxy.ask("config"), config_before);
    proxy.send(datagrams(0..50));
    wait_until("it still forwards", || total(&backends) == 150);
}

#[test]
fn names_of_a_dead_backend_move_and_return() {
    let mut backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    let before = owners(&backends);
    let dead = backends[1].name();
    backends[1].kill();
    proxy.wait_for_state(&dead, "down");
    wait_until("the cause is logged", || proxy.logged(&format!("backend {dead} is down: check of")));
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived at another backend", || total(&backends) == 600);
    for (name, owner) in owners(&backends) {
        if before[&name] == dead {
            assert_ne!(owner, dead);
        } else {
            assert_eq!(owner, before[&name], "{name} moved although its backend is live");
        }
    }
    assert!(proxy.stat("metrics_diverted") > 0);
    backends[1].restore();
    proxy.wait_for_state(&dead, "up");
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    assert_eq!(owners(&backends), before, "every name has returned");
    proxy.settle();
}

#[test]
fn refusing_metrics_port_takes_a_healthy_backend_down() {
    let mut backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({})));
    let refusing = backends[0].name();
    backends[0].kill_data();
    let traffic = Traffic::start(&proxy, "steady");
    proxy.wait_for_state(&refusing, "down");
    wait_until("the cause is logged", || proxy.logged("its metrics port refuses packets"));
    assert!(proxy.stat("backend_refused") > 0);
    backends[0].restore();
    proxy.wait_for_state(&refusing, "up");
    wait_until("it receives metrics again", || backends[0].total() > 0);
    traffic.end();
    proxy.settle();
}

#[test]
fn refusing_backend_without_adminport_is_down_and_retried() {
    let mut backends = three();
    let mut config = config(&refs(&backends), json!({}));
    config["nodes"][2].as_object_mut().unwrap().remove("adminport");
    let proxy = Proxy::start(config);
    let refusing = backends[2].name();
    assert_eq!(proxy.state(&refusing), "up");
    backends[2].kill_data();
    let traffic = Traffic::start(&proxy, "steady");
    wait_until("it is down", || proxy.logged(&format!("backend {refusing} is down")));
    backends[2].restore();
    wait_until("it receives metrics again", || backends[2].total() > 0);
    traffic.end();
    proxy.settle();
}

#[test]
fn without_any_backend_metrics_are_dropped_and_counted() {
    let mut backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    for backend in &mut backends {
        backend.kill();
    }
    wait_until("it is logged that no backend is up", || proxy.logged("no backend is up"));
    proxy.send(datagrams(0..20));
    wait_until("the drops are counted", || proxy.stat("metrics_dropped_no_backend") == 60);
    assert!(proxy.ask("where gorets").contains("no backend is up"));
    backends[2].restore();
    proxy.wait_for_state(&backends[2].name(), "up");
    proxy.send(datagrams(0..20));
    wait_until("metrics arrive again", || backends[2].total() == 60);
    proxy.settle();
}

#[test]
fn unresolvable_backend_keeps_its_position_and_is_down() {
    let backends = three();
    let mut config = config(&refs(&backends), json!({}));
    config["nodes"][1] = json!({"host": "statsring-test.invalid", "port": 8125, "adminport": 8126});
    let mut proxy = Proxy::start(config);
    assert_eq!(proxy.state("statsring-test.invalid:8125"), "unresolved");
    proxy.send(datagrams(0..100));
    wait_until("the other backends receive its names", || total(&backends) == 300);
    assert_eq!(backends[1].total(), 0);
    proxy.settle();
}

#[test]
fn stop_under_traffic_loses_nothing_queued() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"workers": 2})));
    let traffic = Traffic::start(&proxy, "meanwhile");
    proxy.send(datagrams(0..300));
    wait_until("traffic has started", || traffic.sent() > 200);
    // In the sockets before the signal, so before the fence.
    let last_words: Vec<String> = (0..60).map(|number| format!("last.words.{number}:1|c")).collect();
    proxy.send_burst(&last_words);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0, "{}", proxy.log());
    traffic.end();
    let arrived = || backends.iter().flat_map(|backend| backend.lines().into_keys()).collect::<Vec<_>>();
    wait_until("every metric of the burst has arrived", || {
        arrived().iter().filter(|line| line.starts_with("last.words")).count() == last_words.len()
    });
    let steady = arrived().iter().filter(|line| line.starts_with("service")).count();
    assert_eq!(steady, 900);
    let account = proxy.log().lines().find(|line| line.contains("final counters: ")).unwrap().to_owned();
    let number = |word: &str| -> u64 {
        let (_, rest) = account.split_once(word).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    assert_eq!(number("metrics received "), number("sent "), "{account}");
    assert_eq!(number("pending "), 0, "{account}");
    wait_until("everything sent has arrived", || total(&backends) == number("sent "));
}

#[test]
fn shutdown_delay_reports_down_and_keeps_forwarding() {
    let backends = three();
    let delay_ms = PATIENCE.as_millis() as u64;
    let config = config(&refs(&backends), json!({"shutdownDelay": delay_ms}));
    let mut proxy = Proxy::start(config);
    proxy.signal(Signal::SIGTERM);
    wait_until("health reports down", || proxy.ask("health") == "health: down\n");
    proxy.send(datagrams(0..20));
    wait_until("it forwards", || total(&backends) == 60);
    // A second signal skips the delay.
    proxy.signal(Signal::SIGINT);
    assert_eq!(proxy.exit_code(), 128 + Signal::SIGINT as i32);
}

#[test]
fn second_signal_ends_it_at_once() {
    let backends = three();
    let config = config(&refs(&backends), json!({"shutdownDelay": PATIENCE.as_millis() as u64}));
    let mut proxy = Proxy::start(config);
    proxy.signal(Signal::SIGTERM);
    wait_until("it is draining", || proxy.logged("; draining"));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 128 + Signal::SIGTERM as i32);
}

#[test]
fn sigint_drains_and_exits() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.signal(Signal::SIGINT);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn restart_after_exit_or_kill_works_at_once() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    // After a clean exit, and after a kill, when the kernel closes the sockets.
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        proxy.send(datagrams(0..10));
        proxy.signal(signal);
        proxy.wait_for_end();
        proxy = proxy.start_again();
    }
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..10));
    wait_until("it forwards", || total(&backends) == 30);
}

#[test]
fn second_instance_is_refused_with_the_pid_of_the_first() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let second = run(&["-f", proxy.config_path().to_str().unwrap()]);
    let words = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(71), "{words}");
    assert!(words.contains(&proxy.address.to_string()), "{words}");
    assert!(words.contains(&format!("process {}", proxy.pid())), "{words}");
    // Another data port, the same admin port.
    let mut other = proxy.config.json.clone();
    other["port"] = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().into();
    let other = ConfigFile::new(other);
    let second = run(&["-f", other.path.to_str().unwrap()]);
    let words = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(71), "{words}");
    assert!(words.contains(&proxy.admin.to_string()) && words.contains("managementPort"), "{words}");
    proxy.send(datagrams(0..50));
    wait_until("the first instance forwards everything", || total(&backends) == 150);
}

#[test]
fn invalid_and_missing_configs_have_their_exit_codes() {
    let bad = ConfigFile::new(json!({
        "nodes": [{"host": "127.0.0.1", "port": 0}], "port": 99999, "checkRise": -1, "hashing": "astrology", "workerz": 2,
    }));
    let output = run(&["-f", bad.path.to_str().unwrap()]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{words}");
    for mistake in ["nodes[0].port", "port: 99999", "checkRise", "hashing", "workerz"] {
        assert!(words.contains(mistake), "{mistake} is missing in {words}");
    }
    let missing = bad.path.with_file_name("missing.json");
    let output = run(&["-f", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(66));
}

#[test]
fn malformed_datagrams_are_counted_and_others_relayed() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let junk: Vec<u8> = (0..2_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    proxy.send([b"".as_slice(), b"\n\n\n", b"no colon", b"no.bar:1", b":1|c", &junk, &[b'x'; 65_507]]);
    let mut long: Vec<u8> = b"whole.line:1|c\n".to_vec();
    long.resize(65_507, b'y');
    proxy.send([long]);
    let stats = proxy.stats();
    assert_eq!(stats["datagrams_empty"], 1);
    assert_eq!(stats["datagrams_blank"], 1);
    assert_eq!(stats["datagrams_truncated"], 2);
    assert!(stats["bytes_truncated"] > 100_000);
    assert!(stats["metrics_dropped_malformed"] >= 3);
    assert!(stats["metrics_dropped_truncated"] >= 1);
    wait_until("the whole line of the long datagram is relayed", || {
        backends.iter().any(|backend| backend.lines().contains_key("whole.line:1|c"))
    });
    wait_until("the log names the key to change", || proxy.logged("maxDatagramSize"));
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..100));
    let forwarded =
        || backends.iter().flat_map(Backend::lines).filter(|(line, _)| line.starts_with("service")).count();
    wait_until("it still forwards", || forwarded() == 300);
    proxy.settle();
}

#[test]
fn flood_of_a_million_lines_is_accounted_for() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let datagram: Vec<u8> = b"f:1|c\n".repeat(1_000);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..1_000 {
        sender.send_to(&datagram, proxy.address).unwrap();
    }
    wait_until("every datagram is received or counted as dropped", || {
        let stats = proxy.stats();
        assert_balanced(&stats);
        stats["datagrams_received"] + stats["kernel_drops"] == 1_000
    });
    let stats = proxy.settle();
    assert_eq!(stats["metrics_received"], 1_000 * stats["datagrams_received"]);
    assert_eq!(stats["worker_0_socket_0_kernel_drops"], stats["kernel_drops"]);
    if stats["kernel_drops"] > 0 {
        let words = proxy.status("kernel_drops");
        assert!(words.starts_with(&format!("{} datagrams (", stats["kernel_drops"])), "{words}");
        assert!(words.contains(&format!("of worker 0 at {}), the last ", proxy.address)), "{words}");
    }
    // The backends' sockets may have dropped some; wait until the buffers are empty.
    wait_until("the flood has been received", || {
        let before = total(&backends);
        std::thread::sleep(Duration::from_millis(100));
        total(&backends) == before
    });
    backends.iter().for_each(Backend::forget);
    for datagram in datagrams(0..50) {
        sender.send_to(datagram.as_bytes(), proxy.address).unwrap();
    }
    wait_until("it still forwards", || total(&backends) == 150);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn hostile_admin_clients_are_counted_and_delay_no_others() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    // A silent client.
    let silent = TcpStream::connect(proxy.admin).unwrap();
    // A client that sends 10 MB without a newline is disconnected early.
    let mut endless = TcpStream::connect(proxy.admin).unwrap();
    endless.set_write_timeout(Some(PATIENCE)).unwrap();
    let _ = (0..160).try_for_each(|_| endless.write_all(&[b'x'; 65_536]));
    wait_until("the endless line is counted", || proxy.stat("admin_lines_too_long") == 1);
    // An HTTP client with a command in its body.
    let mut web = TcpStream::connect(proxy.admin).unwrap();
    web.set_read_timeout(Some(PATIENCE)).unwrap();
    web.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n\r\nhealth down\n").unwrap();
    let mut answer = Vec::new();
    let _ = web.read_to_end(&mut answer);
    assert!(String::from_utf8_lossy(&answer).contains("405"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(proxy.ask("health"), "health: up\n");
    assert_eq!(proxy.stat("admin_http_errors"), 1);
    assert_eq!(proxy.ask("make coffee"), "unknown command; help lists the commands\n");
    proxy.send(datagrams(0..100));
    wait_until("it still forwards", || total(&backends) == 300);
    drop(silent);
    proxy.settle();
}

#[test]
fn excess_admin_connections_get_an_error() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let answered =
        |client: &mut TcpStream| client.write_all(b"ping\n").and_then(|()| client.read_exact(&mut [0; 5]));
    let mut held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(proxy.admin).unwrap()).collect();
    for client in &mut held {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        answered(client).unwrap();
    }
    // Each must repeat its command, or its connection is evicted.
    let stop = AtomicBool::new(false);
    let end = std::time::Instant::now() + PATIENCE;
    let mut answer = String::new();
    std::thread::scope(|scope| {
        for clients in held.chunks_mut(8) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < end {
                    // On a busy machine an evicted client reconnects.
                    for client in &mut *clients {
                        if answered(client).is_err()
                            && let Ok(again) = TcpStream::connect(proxy.admin)
                        {
                            again.set_read_timeout(Some(PATIENCE)).unwrap();
                            *client = again;
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
            });
        }
        wait_until("another connection is refused", || {
            // Connections in the accept backlog are not open yet.
            let mut one_more = TcpStream::connect(proxy.admin).unwrap();
            one_more.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            answer.clear();
            let _ = one_more.read_to_string(&mut answer);
            !answer.is_empty()
        });
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(answer, "error: too many connections\n");
    drop(held);
    wait_until("a connection is available again", || {
        let mut stream = TcpStream::connect(proxy.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"ping\nquit\n");
        answer.clear();
        let _ = stream.read_to_string(&mut answer);
        answer == "pong\n"
    });
    assert!(proxy.stat("admin_connections_refused") >= 1);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn health_down_and_up_by_command() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    assert_eq!(proxy.ask("health down"), "health: down\n");
    assert_eq!(proxy.ask("health"), "health: down\n");
    proxy.send(datagrams(0..10));
    wait_until("it still forwards", || total(&backends) == 30);
    assert_eq!(proxy.ask("health up\nhealth"), "health: up\nhealth: up\n");
}

#[test]
fn tap_shows_matching_metrics_with_backends() {
    let backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({})));
    let traffic = [Traffic::start(&proxy, "tapped"), Traffic::start(&proxy, "other")];
    let answer = proxy.ask("tap tapped 25");
    assert_eq!(answer.lines().count(), 25, "{answer}");
    for line in answer.lines() {
        let (metric, backend) = line.split_once('\t').unwrap();
        assert!(metric.starts_with("tapped."), "{line}");
        let name = metric.split(':').next().unwrap();
        assert_eq!(proxy.ask(&format!("where {name}")).trim_end(), format!("{name}\t{backend}"));
    }
    for traffic in traffic {
        traffic.end();
    }
    proxy.settle();
}

#[test]
fn the_debug_log_shows_metrics_and_counts_those_beyond_a_thousand_a_second() {
    let backends = three();
    let mut proxy = Proxy::start_with(config(&refs(&backends), json!({})), &["-d"]);
    proxy.send(["gorets:1|c"]);
    wait_until("the metric is logged with its backend", || proxy.logged("gorets:1|c -> 127.0.0.1:"));
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    wait_until("the rest is counted", || {
        sender.send_to(&b"noise:1|c\n".repeat(700), proxy.address).unwrap();
        proxy.logged("more metrics not shown")
    });
    proxy.settle();
}

#[test]
fn disabled_backend_keeps_its_position_and_receives_nothing() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    let before = owners(&backends);
    proxy.config.json["nodes"][0]["disabled"] = true.into();
    proxy.config.write();
    assert!(proxy.ask("reload").contains("disabled"));
    assert_eq!(proxy.state(&backends[0].name()), "disabled");
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    for (name, owner) in owners(&backends) {
        assert_ne!(owner, backends[0].name());
        if before[&name] != backends[0].name() {
            assert_eq!(owner, before[&name], "{name} moved although its backend is enabled");
        }
    }
}
