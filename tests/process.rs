//! The process from outside: started, fed, reloaded, abused, stopped; between stand-ins for StatsD servers.
//!
//! Everything waits for conditions, and everything stays on loopback, at ports that were free. `process_portable.rs` is this
//! file once more: under that name all of it runs on the portable engine.

#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/backends.rs, which uses the rest of it")]
mod backend;
#[path = "process/bare_ring.rs"]
mod bare_ring;
#[path = "process/descriptors.rs"]
mod descriptors;
#[path = "process/engine.rs"]
mod engine;
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

/// One datagram of three metrics for each number, so that each name occurs with each of three values.
fn datagrams(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| (0..3).map(|value| format!("{}:{value}|c\n", name(number))).collect()).collect()
}

fn total(backends: &[Backend]) -> u64 {
    backends.iter().map(Backend::total).sum()
}

/// Which backend each name was sent to; panics if one was sent to two.
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

/// Sends from a thread of its own until told to stop, a few datagrams every millisecond; how many are sent so far can
/// be read.
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
                        // Not connected: when nobody listens any more, that is no error here.
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

    /// Stops it; how many datagrams were sent.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.sent.load(Ordering::Relaxed)
    }
}

#[test]
fn every_metric_reaches_the_one_backend_that_where_names() {
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
        assert!(backend.total() > 300, "{} of 1500 metrics is not a third", backend.total());
    }
    let owners = owners(&backends);
    assert_eq!(owners.len(), 500);
    let names: Vec<String> = (0..500).map(name).collect();
    let mut arguments = vec!["where", "-f", proxy.config_path().to_str().unwrap()];
    arguments.extend(names.iter().map(String::as_str));
    let told = String::from_utf8(run(&arguments).stdout).unwrap();
    let told: HashMap<&str, &str> = told.lines().map(|line| line.split_once('\t').unwrap()).collect();
    for name in &names {
        assert_eq!(told[name.as_str()], owners[name], "{name}");
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
    wait_until("traffic flows", || proxy.stat("metrics_received") > 100);
    for _ in 0..50 {
        assert_balanced(&proxy.stats());
    }
    let sent: u64 = traffic.map(Traffic::end).into_iter().sum();
    let accounted = |stats: HashMap<String, u64>| stats["datagrams_received"] + stats["kernel_drops"];
    wait_until("every datagram is accounted for", || accounted(proxy.stats()) == sent);
    let stats = proxy.settle();
    wait_until("what was sent has arrived", || total(&backends) == stats["metrics_sent"]);
}

#[test]
fn a_reload_under_traffic_loses_nothing_and_moves_only_its_share() {
    let backends = [Backend::start(), Backend::start(), Backend::start(), Backend::start()];
    let mut proxy = Proxy::start(config(&refs(&backends[..3]), json!({})));
    proxy.send(datagrams(0..300));
    wait_until("every metric has arrived", || total(&backends) == 900);
    let before = owners(&backends);
    let traffic = Traffic::start(&proxy, "meanwhile");
    wait_until("traffic flows", || traffic.sent() > 100);
    proxy.config.json["nodes"] = nodes(&refs(&backends));
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.starts_with("reloaded: 2"), "about a quarter of the names: {answer}");
    assert!(answer.contains(&format!("nodes: {} added", backends[3].name())), "{answer}");
    let sent_then = traffic.sent();
    wait_until("traffic goes on", || traffic.sent() > sent_then + 100);
    // And back, by signal.
    proxy.config.json["nodes"] = nodes(&refs(&backends[..3]));
    proxy.config.write();
    proxy.signal(Signal::SIGHUP);
    wait_until("it says that the backend was removed", || {
        proxy.logged(&format!("nodes: {} removed", backends[3].name()))
    });
    let sent_then = traffic.sent();
    wait_until("traffic goes on", || traffic.sent() > sent_then + 100);
    let sent = traffic.end();
    let accounted = |stats: HashMap<String, u64>| stats["datagrams_received"] + stats["kernel_drops"];
    wait_until("every datagram is accounted for", || accounted(proxy.stats()) == 300 + sent);
    let stats = proxy.settle();
    assert_eq!(stats["metrics_sent"], stats["metrics_received"], "no metric was dropped: {stats:?}");
    wait_until("what was sent has arrived", || total(&backends) == stats["metrics_sent"]);
    assert!(backends[3].total() > 0, "the added backend took part");
    for backend in &backends {
        backend.forget();
    }
    proxy.send(datagrams(0..300));
    wait_until("every metric has arrived", || total(&backends) == 900);
    assert_eq!(owners(&backends), before, "after the way back every name is where it was");
}

#[test]
fn a_bad_file_changes_nothing_and_every_mistake_is_told() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let config_before = proxy.ask("config");
    proxy.config.write_text(
        r#"{"nodes": [{"host": "127.0.0.1", "port": 99999}], "checkFall": 0, "queu": 5, "malformed": "perhaps"}"#,
    );
    let answer = proxy.ask("reload");
    for mistake in ["nodes[0].port: 99999", "checkFall: 0", "queu", "malformed"] {
        assert!(answer.contains(mistake), "{mistake} is not in {answer}");
    }
    proxy.config.json["cacheSize"] = 77.into();
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("a restart is needed to change cacheSize"), "{answer}");
    std::fs::remove_file(proxy.config_path()).unwrap();
    proxy.signal(Signal::SIGHUP);
    wait_until("the missing file is told", || proxy.logged("cannot read"));
    assert_eq!(proxy.ask("config"), config_before);
    proxy.send(datagrams(0..50));
    wait_until("it forwards as before", || total(&backends) == 150);
}

#[test]
fn a_dead_backends_names_move_and_come_back() {
    let mut backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    let before = owners(&backends);
    let dead = backends[1].name();
    backends[1].kill();
    proxy.wait_for_state(&dead, "down");
    wait_until("the log has the cause", || proxy.logged(&format!("backend {dead} is down: check of")));
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived elsewhere", || total(&backends) == 600);
    for (name, owner) in owners(&backends) {
        if before[&name] == dead {
            assert_ne!(owner, dead);
        } else {
            assert_eq!(owner, before[&name], "{name} moved though its backend lives");
        }
    }
    assert!(proxy.stat("metrics_diverted") > 0);
    backends[1].restore();
    proxy.wait_for_state(&dead, "up");
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    assert_eq!(owners(&backends), before, "every name is back");
    proxy.settle();
}

#[test]
fn a_backend_whose_metrics_port_refuses_is_taken_out_though_it_says_it_is_up() {
    let mut backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({})));
    let refusing = backends[0].name();
    backends[0].kill_data();
    let traffic = Traffic::start(&proxy, "steady");
    proxy.wait_for_state(&refusing, "down");
    wait_until("the log has the cause", || proxy.logged("its metrics port refuses packets"));
    assert!(proxy.stat("backend_refused") > 0);
    backends[0].restore();
    proxy.wait_for_state(&refusing, "up");
    wait_until("it gets metrics again", || backends[0].total() > 0);
    traffic.end();
    proxy.settle();
}

#[test]
fn a_backend_without_adminport_is_taken_out_by_its_refusals_and_tried_again() {
    let mut backends = three();
    let mut config = config(&refs(&backends), json!({}));
    config["nodes"][2].as_object_mut().unwrap().remove("adminport");
    let proxy = Proxy::start(config);
    let refusing = backends[2].name();
    assert_eq!(proxy.state(&refusing), "up");
    backends[2].kill_data();
    let traffic = Traffic::start(&proxy, "steady");
    wait_until("it is taken out", || proxy.logged(&format!("backend {refusing} is down")));
    backends[2].restore();
    wait_until("it gets metrics again", || backends[2].total() > 0);
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
    wait_until("it says that no backend is up", || proxy.logged("no backend is up"));
    proxy.send(datagrams(0..20));
    wait_until("they are counted", || proxy.stat("metrics_dropped_no_backend") == 60);
    assert!(proxy.ask("where gorets").contains("no backend is up"));
    backends[2].restore();
    proxy.wait_for_state(&backends[2].name(), "up");
    proxy.send(datagrams(0..20));
    wait_until("they arrive again", || backends[2].total() == 60);
    proxy.settle();
}

#[test]
fn a_name_that_does_not_resolve_keeps_its_place_and_counts_as_down() {
    let backends = three();
    let mut config = config(&refs(&backends), json!({}));
    config["nodes"][1] = json!({"host": "statsring-test.invalid", "port": 8125, "adminport": 8126});
    let mut proxy = Proxy::start(config);
    assert_eq!(proxy.state("statsring-test.invalid:8125"), "unresolved");
    proxy.send(datagrams(0..100));
    wait_until("the others take its names", || total(&backends) == 300);
    assert_eq!(backends[1].total(), 0);
    proxy.settle();
}

#[test]
fn a_stop_under_traffic_loses_nothing_that_was_queued() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"workers": 2})));
    let traffic = Traffic::start(&proxy, "meanwhile");
    proxy.send(datagrams(0..300));
    wait_until("traffic flows", || traffic.sent() > 200);
    // In the sockets before the signal is sent, so before the fence.
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
    wait_until("all that was sent has arrived", || total(&backends) == number("sent "));
}

#[test]
fn a_delayed_stop_says_down_and_goes_on_forwarding() {
    let backends = three();
    let delay_ms = PATIENCE.as_millis() as u64;
    let config = config(&refs(&backends), json!({"shutdownDelay": delay_ms}));
    let mut proxy = Proxy::start(config);
    proxy.signal(Signal::SIGTERM);
    wait_until("health says down", || proxy.ask("health") == "health: down\n");
    proxy.send(datagrams(0..20));
    wait_until("it forwards", || total(&backends) == 60);
    // A second signal does not wait.
    proxy.signal(Signal::SIGINT);
    assert_eq!(proxy.exit_code(), 128 + Signal::SIGINT as i32);
}

#[test]
fn the_second_of_two_equal_signals_ends_it_at_once() {
    let backends = three();
    let config = config(&refs(&backends), json!({"shutdownDelay": PATIENCE.as_millis() as u64}));
    let mut proxy = Proxy::start(config);
    proxy.signal(Signal::SIGTERM);
    wait_until("it is stopping", || proxy.logged("; draining"));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 128 + Signal::SIGTERM as i32);
}

#[test]
fn an_interrupt_stops_it_in_order() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.signal(Signal::SIGINT);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn it_can_be_started_again_at_once() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    // In order, and killed, when the kernel cleans up in its own time.
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
fn a_second_instance_is_refused_and_told_who_is_there() {
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
    wait_until("the first one forwards all", || total(&backends) == 150);
}

#[test]
fn a_bad_config_and_a_missing_one_have_exit_codes_of_their_own() {
    let bad = ConfigFile::new(json!({
        "nodes": [{"host": "127.0.0.1", "port": 0}], "port": 99999, "checkRise": -1, "hashing": "astrology", "workerz": 2,
    }));
    let output = run(&["-f", bad.path.to_str().unwrap()]);
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{words}");
    for mistake in ["nodes[0].port", "port: 99999", "checkRise", "hashing", "workerz"] {
        assert!(words.contains(mistake), "{mistake} is not in {words}");
    }
    let missing = bad.path.with_file_name("missing.json");
    let output = run(&["-f", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(66));
}

#[test]
fn bad_datagrams_are_counted_and_good_ones_go_on() {
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
    wait_until("it goes on forwarding", || forwarded() == 300);
    proxy.settle();
}

#[test]
fn a_flood_of_a_million_lines_is_survived_and_accounted_for() {
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
    // What the backends' sockets had no room for is theirs; what comes now arrives.
    wait_until("the last flood is taken", || {
        let before = total(&backends);
        std::thread::sleep(Duration::from_millis(100));
        total(&backends) == before
    });
    backends.iter().for_each(Backend::forget);
    for datagram in datagrams(0..50) {
        sender.send_to(datagram.as_bytes(), proxy.address).unwrap();
    }
    wait_until("it goes on forwarding", || total(&backends) == 150);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn hostile_admin_clients_are_counted_and_delay_nobody() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    // One that says nothing, and stays.
    let silent = TcpStream::connect(proxy.admin).unwrap();
    // One that sends 10 MB without a newline: it is closed long before.
    let mut endless = TcpStream::connect(proxy.admin).unwrap();
    endless.set_write_timeout(Some(PATIENCE)).unwrap();
    let _ = (0..160).try_for_each(|_| endless.write_all(&[b'x'; 65_536]));
    wait_until("the endless line is counted", || proxy.stat("admin_lines_too_long") == 1);
    // One that speaks HTTP, with a command in its body.
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
    wait_until("it goes on forwarding", || total(&backends) == 300);
    drop(silent);
    proxy.settle();
}

#[test]
fn more_admin_connections_than_may_be_are_told_so() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let answered =
        |client: &mut TcpStream| client.write_all(b"ping\n").and_then(|()| client.read_exact(&mut [0; 5]));
    let mut held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(proxy.admin).unwrap()).collect();
    for client in &mut held {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        answered(client).unwrap();
    }
    // Each has to be answered again and again, or it would yield its place.
    let stop = AtomicBool::new(false);
    let end = std::time::Instant::now() + PATIENCE;
    let mut answer = String::new();
    std::thread::scope(|scope| {
        for clients in held.chunks_mut(8) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && std::time::Instant::now() < end {
                    // One that had to yield after all, on a busy machine, comes back.
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
        wait_until("a further one is refused", || {
            // Those that wait to be accepted are not open yet.
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
    wait_until("there is room again", || {
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
fn the_operator_can_take_the_proxy_out_and_back() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    assert_eq!(proxy.ask("health down"), "health: down\n");
    assert_eq!(proxy.ask("health"), "health: down\n");
    proxy.send(datagrams(0..10));
    wait_until("it forwards all the same", || total(&backends) == 30);
    assert_eq!(proxy.ask("health up\nhealth"), "health: up\nhealth: up\n");
}

#[test]
fn a_tap_shows_the_next_matching_metrics_with_their_backends() {
    let backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({})));
    let traffic = [Traffic::start(&proxy, "wanted"), Traffic::start(&proxy, "other")];
    let answer = proxy.ask("tap wanted 25");
    assert_eq!(answer.lines().count(), 25, "{answer}");
    for line in answer.lines() {
        let (metric, backend) = line.split_once('\t').unwrap();
        assert!(metric.starts_with("wanted."), "{line}");
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
fn a_disabled_backend_keeps_its_place_and_gets_nothing() {
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
            assert_eq!(owner, before[&name], "{name} moved though its backend is enabled");
        }
    }
}
