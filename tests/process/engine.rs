//! The portable engine, where io_uring is refused or disabled, and restarts between the engines.

use super::proxy::{PROGRAM, is_portable};
use super::*;
use std::process::Command;

/// Starts a proxy for which these system calls fail with `errno`.
fn start_refused(
    config: serde_json::Value,
    (first, last): (libc::c_long, libc::c_long),
    errno: i32,
) -> Proxy {
    Proxy::start_by(config, |path| {
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(path);
        seccomp::refuse(&mut command, first, last, errno);
        command
    })
}

/// io_uring_setup, _enter and _register.
const ALL: (libc::c_long, libc::c_long) = (libc::SYS_io_uring_setup, libc::SYS_io_uring_register);

#[test]
fn refused_io_uring_falls_back_to_the_portable_engine() {
    if is_portable() {
        return;
    }
    let only = |call: libc::c_long| (call, call);
    let cases = [
        (ALL, libc::EPERM, "docker/seccomp.json"),
        (ALL, libc::ENOSYS, "has no io_uring, or a seccomp profile hides it"),
        (only(libc::SYS_io_uring_setup), libc::EINVAL, "Use Linux 6.1 or later"),
        // A ring can be created, but is unusable.
        (only(libc::SYS_io_uring_enter), libc::EPERM, "docker/seccomp.json"),
        (only(libc::SYS_io_uring_register), libc::EPERM, "docker/seccomp.json"),
    ];
    for (calls, errno, remedy) in cases {
        let backends = three();
        let config = config(&refs(&backends), json!({"workers": 2}));
        let mut proxy = start_refused(config, calls, errno);
        assert_eq!(proxy.status("engine"), "portable");
        let degraded = proxy.status("degraded");
        assert!(degraded.starts_with("engine: using the portable engine"), "{degraded}");
        assert!(degraded.contains(remedy), "{degraded}");
        assert_eq!(proxy.log().matches("using the portable engine").count(), 1, "{}", proxy.log());
        proxy.send(datagrams(0..100));
        wait_until("every metric has arrived", || total(&backends) == 300);
        if errno == libc::EPERM && calls == ALL {
            // The next process has the same profile.
            proxy.restart();
            assert_eq!(proxy.status("engine"), "portable");
            proxy.send(datagrams(0..100));
            wait_until("every metric has arrived", || total(&backends) == 600);
            continue;
        }
        proxy.signal(Signal::SIGTERM);
        assert_eq!(proxy.exit_code(), 0);
    }
}

#[test]
fn failed_worker_ends_the_process_with_final_counters() {
    let (port, admin_port) = proxy::free_ports();
    let backends = three();
    let mut config = config(&refs(&backends), json!({"engine": "portable"}));
    (config["port"], config["managementPort"]) = (port.into(), admin_port.into());
    let file = ConfigFile::new(config);
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg(&file.path);
    seccomp::refuse(&mut command, libc::SYS_recvmmsg, libc::SYS_recvmmsg, libc::EPERM);
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{text}");
    assert!(text.contains("worker 0 failed") && text.contains("final counters: "), "{text}");
    assert!(!text.contains("did not end"), "{text}");
}

#[test]
fn engine_io_uring_fails_with_reason_where_refused() {
    if is_portable() {
        return;
    }
    let (port, admin_port) = proxy::free_ports();
    let backends = three();
    let mut config = config(&refs(&backends), json!({"engine": "io_uring"}));
    (config["port"], config["managementPort"]) = (port.into(), admin_port.into());
    let file = ConfigFile::new(config);
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg(&file.path);
    seccomp::refuse(&mut command, ALL.0, ALL.1, libc::EPERM);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{text}");
    assert!(text.contains("docker/seccomp.json") && text.contains("\"engine\": \"auto\""), "{text}");
}

#[test]
fn restart_between_engines_loses_nothing() {
    if is_portable() || bare_ring::is_refused() {
        return;
    }
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"workers": 2})));
    if proxy.status("engine") != "io_uring" {
        return bare_ring::skip_for_locked_memory(&proxy.status("degraded"));
    }
    let traffic: Vec<Traffic> = (0..4).map(|_| Traffic::start(&proxy, "flow")).collect();
    wait_until("traffic has started", || proxy.stat("metrics_received") > 500);
    for engine in ["portable", "io_uring", "portable", "portable"] {
        proxy.config.json["engine"] = engine.into();
        proxy.config.write();
        let answer = proxy.ask("reload");
        let is_new = proxy.status("engine") != engine;
        assert!(!is_new || answer.contains("a restart is needed to change engine"), "{answer}");
        proxy.restart();
        assert_eq!(proxy.status("engine"), engine);
        wait_until("traffic continues", || proxy.stat("metrics_received") > 500);
    }
    let sent: u64 = traffic.into_iter().map(Traffic::end).sum();
    let accounted = || total(&backends) + handover::dropped(&proxy);
    wait_until("every metric has arrived or was counted as dropped", || accounted() >= sent);
    proxy.settle();
    assert_eq!(accounted(), sent);
}

#[test]
fn io_uring_is_chosen_where_allowed() {
    if is_portable() || bare_ring::is_refused() {
        return;
    }
    let proxy = Proxy::start(config(&refs(&three()), json!({})));
    if proxy.status("engine") != "io_uring" {
        bare_ring::skip_for_locked_memory(&proxy.status("degraded"));
    }
}

#[test]
fn ring_setup_failure_fails_the_tests() {
    if !is_portable() {
        bare_ring::assert_noticed_by("engine::io_uring_is_chosen_where_allowed");
    }
}

#[test]
fn worker_is_asked_for_latencies_while_datagrams_gather_for_a_second() {
    let backends = three();
    let proxy = Proxy::start(config(&refs(&backends), json!({"flushInterval": 1_000})));
    let is_over = Arc::new(AtomicBool::new(false));
    let sending = std::thread::spawn({
        let (is_over, address) = (Arc::clone(&is_over), proxy.address);
        move || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !is_over.load(Ordering::Relaxed) {
                socket.send_to(b"steady:1|c", address).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    // After a silence the sleeps double from a few ms to flushInterval, in two seconds; a question would end one.
    std::thread::sleep(Duration::from_secs(4));
    let latency = proxy.ask("latency");
    assert!(!latency.contains("latency_residence\t0\t"), "the worker did not answer in time: {latency}");
    is_over.store(true, Ordering::Relaxed);
    sending.join().unwrap();
}
