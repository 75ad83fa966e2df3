//! HTTP on the admin port and `check-ready`, as used by monitoring, load balancers and containers; and clients that use up the
//! admin connections.

use crate::patience::{PATIENCE, wait_until};
use crate::proxy::{PROGRAM, Proxy, config, run};
use crate::{datagrams, refs, three, total};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Sends a request; returns status and body.
fn http(address: SocketAddr, request: &str) -> (u16, String) {
    let mut client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    (head["HTTP/1.1 ".len()..][..3].parse().unwrap(), body.to_owned())
}

fn get(proxy: &Proxy, path: &str) -> (u16, String) {
    http(proxy.admin, &format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", proxy.admin))
}

/// The sum of the series of `/metrics` with this name whose labels contain this text.
fn sample(text: &str, name: &str, label: &str) -> f64 {
    let of_name = |line: &&str| line.split(['{', ' ']).next() == Some(name) && line.contains(label);
    text.lines().filter(of_name).map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[test]
fn relayed_metrics_are_in_metrics_and_stats_json() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"workers": 2})));
    proxy.send(datagrams(0..100));
    proxy.send(["junk"]);
    wait_until("every metric has arrived", || total(&backends) == 300);
    proxy.settle();
    let (status, text) = get(&proxy, "/metrics");
    assert_eq!(status, 200);
    assert_eq!(sample(&text, "statsring_metrics_received_total", ""), 301.0);
    assert_eq!(sample(&text, "statsring_metrics_sent_total", ""), 300.0);
    assert_eq!(sample(&text, "statsring_metrics_dropped_total", "reason=\"malformed\""), 1.0);
    assert_eq!(sample(&text, "statsring_metrics_unaccounted", ""), 0.0);
    for backend in &backends {
        let label = format!("backend=\"{}\"", backend.name());
        assert_eq!(sample(&text, "statsring_backend_metrics_sent_total", &label), backend.total() as f64);
        assert_eq!(sample(&text, "statsring_backend_up", &label), 1.0);
    }
    assert_eq!(
        sample(&text, "statsring_residence_seconds_count", ""),
        sample(&text, "statsring_latency_seconds_count", "")
    );
    assert!(
        sample(&text, "process_cpu_seconds_total", "") > 0.0 && sample(&text, "process_open_fds", "") > 5.0
    );
    let (status, text) = get(&proxy, "/stats.json");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &json["stats"]["metrics_sent"]), (200, &json!(300)));
    assert_eq!(json["backends"].as_array().unwrap().len(), 3);
    assert_eq!(json["config"]["workers"], json!(2));
    // By this host's name, if it is a valid Host.
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    if own.trim().bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {}:1\r\nConnection: close\r\n\r\n", own.trim());
        assert_eq!(http(proxy.admin, &request).0, 200);
    }
    // A foreign page, and a request to change something.
    assert_eq!(
        http(proxy.admin, "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").0,
        403
    );
    assert_eq!(http(proxy.admin, "OPTIONS / HTTP/1.0\r\n\r\n").0, 200, "HAProxy's default check");
    let by_name = |admin, name: &str| {
        http(admin, &format!("GET /healthz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"))
    };
    let name = "statsring.monitoring.svc:8126";
    let (status, answer) = by_name(proxy.admin, name);
    assert!(status == 403 && answer.contains("managementNames") && answer.contains(name), "{answer}");
    proxy.config.json["managementNames"] = json!(["Statsring.monitoring.svc."]);
    proxy.config.write();
    assert!(proxy.ask("reload").contains("managementNames"));
    assert_eq!(by_name(proxy.admin, name).0, 200);
    assert_eq!(by_name(proxy.admin, "other.example").0, 403);
    proxy.config.json["managementNames"] = json!(["*"]);
    proxy.config.write();
    proxy.ask("reload");
    assert_eq!(by_name(proxy.admin, "other.example").0, 200);
    assert_eq!(http(proxy.admin, "PUT /health HTTP/1.1\r\nHost: localhost\r\n\r\nhealth down\n").0, 405);
    assert_eq!(proxy.ask("health"), "health: up\n");
    assert_eq!(proxy.stat("admin_http_errors"), 4);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

/// Runs `check-ready`; returns exit code and output.
fn check_ready(arguments: &[&str]) -> (i32, String) {
    let output = run(&[&["check-ready"], arguments].concat());
    let words = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), words)
}

#[test]
fn check_ready_checks_the_running_proxy_not_its_file() {
    let backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({})));
    let file = proxy.config_path().to_str().unwrap().to_owned();
    let check = || check_ready(&["-f", file.as_str(), "--timeout", "60000"]);
    let ready = (0, "ready: all workers are receiving\n".to_owned());
    assert_eq!(check(), ready);
    proxy.config.write_text("{ \"nodes\": [ oops");
    assert_eq!(check(), ready);
    let mut moved = proxy.config.json.clone();
    moved["managementPort"] = json!(1);
    proxy.config.write_text(&moved.to_string());
    assert_eq!(check(), ready);
    std::fs::remove_file(&file).unwrap();
    assert_eq!(check(), ready);
    let (folder, name) = (proxy.config_path().parent().unwrap(), proxy.config_path().file_name().unwrap());
    let relative = std::process::Command::new(PROGRAM)
        .args(["check-ready", "--timeout", "60000", "-f"])
        .arg(name)
        .current_dir(folder)
        .output();
    assert_eq!(relative.unwrap().status.code(), Some(0), "a relative path");
    drop(proxy);
    assert_eq!(check().0, 66, "no process runs, and there is no file");
}

#[test]
fn readyz_and_check_ready_follow_health_and_stop() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"shutdownDelay": 60_000})));
    let file = proxy.config_path().to_str().unwrap().to_owned();
    let by_file = ["-f", file.as_str(), "--timeout", "60000"];
    assert_eq!(get(&proxy, "/readyz").0, 200);
    assert_eq!(check_ready(&by_file), (0, "ready: all workers are receiving\n".to_owned()));
    assert_eq!(
        check_ready(&["--address", &format!("localhost:{}", proxy.admin.port()), "--timeout", "60000"]).0,
        0
    );
    proxy.ask("health down");
    assert_eq!((get(&proxy, "/readyz").0, get(&proxy, "/healthz").0), (503, 200));
    let (code, words) = check_ready(&by_file);
    assert!(code == 1 && words.starts_with("not ready: health was set to down"), "{words}");
    proxy.ask("health up");
    proxy.signal(Signal::SIGTERM);
    wait_until("it reports that it is stopping", || {
        get(&proxy, "/readyz") == (503, "not ready: stopping\n".to_owned())
    });
    assert_eq!(check_ready(&by_file).0, 1);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 128 + 15);
    let (code, words) = check_ready(&by_file);
    assert!(code == 1 && words.starts_with("not ready: 127.0.0.1:") && words.contains("refused"), "{words}");
}

#[test]
fn idle_admin_clients_do_not_lock_out_an_operator() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let mut held: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(proxy.admin).unwrap()).collect();
    // A partial command and an endless one: neither gets a reply.
    held[1].write_all(b"health do").unwrap();
    held[2].write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    let ask = || {
        let mut client = TcpStream::connect(proxy.admin).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = client.write_all(b"ping\nquit\n");
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer
    };
    wait_until("an operator is answered", || ask() == "pong\n");
    for _ in 0..10 {
        wait_until("the operator is answered again", || ask() == "pong\n");
    }
    assert_eq!(proxy.stat("admin_idle_closed"), 0, "idle connections were closed by their timeout");
    assert!(proxy.stat("admin_connections_yielded") >= 1);
    assert_eq!(proxy.ask("health"), "health: up\n");
    drop(held);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

/// Number of open files of the process.
fn open_files(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count()
}

#[test]
fn tap_of_a_disconnected_client_is_closed() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    assert_eq!(proxy.ask("ping"), "pong\n");
    wait_until("the previous connection is closed", || {
        let before = open_files(&proxy);
        std::thread::sleep(Duration::from_millis(100));
        open_files(&proxy) == before
    });
    let before = open_files(&proxy);
    let begin = std::time::Instant::now();
    for number in 0..20 {
        let mut client = TcpStream::connect(proxy.admin).unwrap();
        client.write_all(b"tap nothing.like.this 1000\n").unwrap();
        match number % 3 {
            // Closes like a killed program.
            0 => {}
            // Half-closes, then closes.
            1 => client.shutdown(Shutdown::Write).unwrap(),
            // Has pipelined so much that the proxy does not read from it.
            _ => {
                let _ = client.set_write_timeout(Some(Duration::from_secs(1)));
                let _ = client.write_all(&[b'\n'; 200_000]);
            }
        }
        // Each tap has started before its client disconnects.
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_until("all taps are closed", || open_files(&proxy) <= before);
    assert!(begin.elapsed() < Duration::from_secs(25), "they ended by their timeout: {:?}", begin.elapsed());
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn memstats_packet_pool_follows_a_reload() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let pool_bytes = |proxy: &Proxy| sample(&get(proxy, "/metrics").1, "statsring_packet_pool_bytes", "");
    let before = pool_bytes(&proxy);
    proxy.config.json["maxPacketSize"] = json!(8_000);
    proxy.config.write();
    assert!(proxy.ask("reload").contains("maxPacketSize: 1432 -> 8000"));
    assert!(pool_bytes(&proxy) > before, "{before}");
}
