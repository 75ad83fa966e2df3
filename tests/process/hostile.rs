//! Panics, hostile clients, and minimal privileges.

use crate::backend::Backend;
use crate::patience::{PATIENCE, wait_until};
use crate::proxy::{ConfigFile, PROGRAM, Proxy, config, is_portable};
use crate::seccomp;
use crate::skip::skip_unprivileged;
use crate::{datagrams, refs, three, total};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The user `nobody`.
const NOBODY: u32 = 65_534;
/// The first of several other UIDs: the kernel charges a closed ring's memory to its user for a while.
const OTHERS: u32 = 64_900;
/// The default of systemd and Debian.
const MEMLOCK_USUAL: u64 = 8 << 20;
/// The limit of old containers.
const MEMLOCK_SMALL: u64 = 64 << 10;

/// Starts a copy of the program by a command modified by `prepare`.
fn start(program: &Path, config: Value, prepare: impl Fn(&mut Command)) -> Proxy {
    Proxy::start_by(config, |path| {
        let mut command = Command::new(program);
        command.arg("-f").arg(path);
        prepare(&mut command);
        command
    })
}

/// Starts a proxy with an injected panic in this kind of thread.
fn start_with_panic(thread: &str, backends: &[Backend; 3]) -> Proxy {
    start(Path::new(PROGRAM), config(&refs(backends), json!({})), |command| {
        command.env("STATSRING_FAILPOINT_PANIC", thread);
    })
}

#[test]
fn panic_in_any_thread_ends_the_process_with_a_message() {
    let backends = three();
    for (thread, name) in [("worker", "worker-0"), ("control", "main"), ("helper", "reload")] {
        let mut proxy = start_with_panic(thread, &backends);
        assert_eq!(proxy.ask("ping"), "pong\n");
        match thread {
            "worker" => proxy.send_burst(&["a:1|c".to_owned()]),
            command => {
                let command = if command == "control" { "health down\n" } else { "reload\n" };
                let mut client = TcpStream::connect(proxy.admin).unwrap();
                client.write_all(command.as_bytes()).unwrap();
                // The connection ends with the process, with or without a reset.
                let _ = client.read_to_end(&mut Vec::new());
            }
        }
        assert_eq!(proxy.exit_code(), 70, "{thread}: {}", proxy.log());
        let message = format!("statsring: internal error (a bug): thread {name} panicked at ");
        assert!(proxy.logged(&message), "{thread}: {}", proxy.log());
    }
}

#[test]
fn panic_ends_the_process_with_a_stalled_log() {
    let backends = three();
    let mut proxy = start_with_panic("worker", &backends);
    proxy.stall_log();
    // Debug messages, so that the log is being written at the panic.
    assert!(proxy.ask("reload").starts_with("reloaded: "));
    proxy.send_burst(&["a:1|c".to_owned()]);
    let mut status = None;
    wait_until("it has exited", || {
        status = proxy.try_exit_status();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(70));
}

/// A hostile client; the connection, if it is still open.
fn hostile(proxy: &Proxy, number: usize) -> Option<TcpStream> {
    let mut client = TcpStream::connect(proxy.admin).ok()?;
    let _ = client.set_write_timeout(Some(PATIENCE));
    let _ = match number % 5 {
        // Holds the connection silently.
        0 => Ok(()),
        // Sends part of a command.
        1 => client.write_all(b"st"),
        // Never reads replies.
        2 => client.write_all(&b"stats\nmemstats\nlatency hgrm\n".repeat(100)),
        // Garbage.
        3 => client.write_all(&[number as u8; 3_000]),
        _ => client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nhealth down\nreload\n"),
    };
    Some(client)
}

fn resident_kib(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn thousand_hostile_admin_clients_use_bounded_memory() {
    // Each client needs a descriptor in this process.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(4_096.min(hard)), hard).unwrap();
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(&backends) == 300);
    let before_kib = resident_kib(&proxy);
    let mut clients = Vec::new();
    for number in 0..1_000 {
        clients.extend(hostile(&proxy, number));
        if number % 20 == 0 {
            // The admin port is full, so arrivals are checked at the backends.
            let before = total(&backends);
            proxy.send_burst(&datagrams(0..10));
            wait_until("metrics still arrive", || total(&backends) == before + 30);
        }
    }
    assert!(clients.len() > 900, "expected more than 900 connections, found {}", clients.len());
    let grown_kib = resident_kib(&proxy).saturating_sub(before_kib);
    // 64 connections are served, each with a read buffer, pipelined input, and a pending reply.
    assert!(grown_kib < 8 << 10, "memory grew by {grown_kib} KiB");
    drop(clients);
    wait_until("a connection is available again", || {
        let Ok(mut client) = TcpStream::connect(proxy.admin) else { return false };
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = client.write_all(b"ping\nquit\n");
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer == "pong\n"
    });
    assert_eq!(proxy.ask("health"), "health: up\n", "an HTTP request changed the health");
    let stats = proxy.settle();
    assert_eq!((stats["metrics_sent"], stats["kernel_drops"]), (300 + 50 * 30, 0));
    assert!(stats["admin_connections_refused"] > 0);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

/// A temporary copy of the program that every user may execute.
struct Copy(PathBuf);

impl Copy {
    fn new(name: &str) -> Copy {
        let path = std::env::temp_dir().join(format!("statsring-{name}-{}", std::process::id()));
        crate::proxy::copy_program(Path::new(PROGRAM), &path);
        Copy(path)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs as this unprivileged user with this limit of locked memory.
fn unprivileged(command: &mut Command, user: u32, memlock_bytes: u64) {
    if std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        command.uid(user).gid(user);
    }
    let limit = move || Ok(setrlimit(Resource::RLIMIT_MEMLOCK, memlock_bytes, memlock_bytes)?);
    // SAFETY: between fork and exec it makes one system call and does not allocate.
    unsafe { command.pre_exec(limit) };
}

#[test]
fn it_runs_unprivileged() {
    let program = Copy::new("nobody");
    let backends = three();
    let mut proxy = start(&program.0, config(&refs(&backends), json!({})), |command| {
        unprivileged(command, NOBODY, MEMLOCK_USUAL)
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let effective = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert_eq!(effective.trim_start_matches("CapEff:").trim(), "0000000000000000");
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(&backends) == 300);
    let rings = if proxy.status("engine") == "io_uring" {
        "restricted to receive, send, read and cancel "
    } else {
        "n/a"
    };
    assert!(proxy.status("rings").starts_with(rings));
    // A reload registers sockets with the restricted ring.
    proxy.config.json["nodes"].as_array_mut().unwrap().pop();
    proxy.config.write();
    assert!(proxy.ask("reload").contains(" removed"));
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(&backends) == 600);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

/// The number before these words.
fn number_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().unwrap();
    before
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("expected a number before {words:?}: {text}"))
}

#[test]
fn locked_memory_error_states_the_required_amount() {
    if is_portable() {
        // The portable engine locks no memory.
        let program = Copy::new("unlocked");
        let started = start(&program.0, config(&refs(&three()), json!({})), |command| {
            unprivileged(command, OTHERS, 0);
        });
        assert_eq!(started.status("engine"), "portable");
        return;
    }
    if Path::new("/proc/self").metadata().is_ok_and(|me| me.uid() != 0) {
        return skip_unprivileged("the limit includes memory locked by other programs of this user");
    }
    let program = Copy::new("memlock");
    let backends = three();
    for workers in [1u32, 3] {
        let (user, other) = (OTHERS + 2 * workers, OTHERS + 2 * workers + 1);
        let mut config = config(&refs(&backends), json!({"workers": workers, "engine": "io_uring"}));
        let ports = crate::proxy::free_ports();
        (config["port"], config["managementPort"]) = (ports.0.into(), ports.1.into());
        let file = ConfigFile::new(config.clone());
        let mut command = Command::new(&program.0);
        command.arg("-f").arg(&file.path);
        unprivileged(&mut command, user, MEMLOCK_SMALL);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(69), "{text}");
        let enough = number_before(&text, " bytes of locked memory");
        // With engine auto, the portable engine is used, and the amount is reported as well.
        let mut auto = config.clone();
        auto["engine"] = json!("auto");
        let mut fallen_back = start(&program.0, auto, |command| unprivileged(command, user, MEMLOCK_SMALL));
        assert_eq!(fallen_back.status("engine"), "portable");
        assert_eq!(number_before(&fallen_back.status("degraded"), " bytes of locked memory"), enough);
        fallen_back.signal(Signal::SIGTERM);
        assert_eq!(fallen_back.exit_code(), 0);
        // This amount is sufficient: with less the start would fail.
        let mut proxy = start(&program.0, config, |command| {
            unprivileged(command, other, enough);
        });
        let before = total(&backends);
        proxy.send(datagrams(0..10));
        wait_until("every metric has arrived", || total(&backends) == before + 30);
        proxy.signal(Signal::SIGTERM);
        assert_eq!(proxy.exit_code(), 0);
    }
}

/// Simulates a kernel without IORING_REGISTER_RESTRICTIONS.
fn refuse_restrictions(command: &mut Command) {
    const RESTRICTIONS: u32 = 11;
    seccomp::refuse_register(command, RESTRICTIONS, libc::EINVAL);
}

#[test]
fn missing_ring_restrictions_are_reported_once() {
    if is_portable() {
        return;
    }
    let backends = three();
    let config = config(&refs(&backends), json!({"workers": 2}));
    let mut proxy = start(Path::new(PROGRAM), config, refuse_restrictions);
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(&backends) == 300);
    let status = proxy.ask("status");
    assert!(status.contains("\nrings: not restricted: Invalid argument"), "{status}");
    assert_eq!(status.matches("\ndegraded: the workers' rings are not restricted").count(), 1, "{status}");
    assert_eq!(proxy.log().matches("rings are not restricted").count(), 1, "{}", proxy.log());
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}
