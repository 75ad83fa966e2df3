//! Defects, hostile clients, and as few rights as can be: what of them is seen from outside.

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

/// The user that owns nothing.
const NOBODY: u32 = 65_534;
/// The first of some others: the kernel counts a ring's memory for a while after its end, and for its user.
const OTHERS: u32 = 64_900;
/// What systemd and Debian give a user.
const MEMLOCK_USUAL: u64 = 8 << 20;
/// What old containers give.
const MEMLOCK_SMALL: u64 = 64 << 10;

/// Starts a copy of the program, by a command that `prepare` changes.
fn start(program: &Path, config: Value, prepare: impl Fn(&mut Command)) -> Proxy {
    Proxy::start_by(config, |path| {
        let mut command = Command::new(program);
        command.arg("-f").arg(path);
        prepare(&mut command);
        command
    })
}

/// Starts a proxy that panics on a thread of this kind.
fn planted(thread: &str, backends: &[Backend; 3]) -> Proxy {
    start(Path::new(PROGRAM), config(&refs(backends), json!({})), |command| {
        command.env("STATSRING_PLANTED_PANIC", thread);
    })
}

#[test]
fn a_panic_of_any_thread_ends_the_process_with_a_message() {
    let backends = three();
    for (thread, name) in [("worker", "worker-0"), ("control", "main"), ("helper", "reload")] {
        let mut proxy = planted(thread, &backends);
        assert_eq!(proxy.ask("ping"), "pong\n");
        match thread {
            "worker" => proxy.send_burst(&["a:1|c".to_owned()]),
            command => {
                let command = if command == "control" { "health down\n" } else { "reload\n" };
                let mut client = TcpStream::connect(proxy.admin).unwrap();
                client.write_all(command.as_bytes()).unwrap();
                // The end of the process ends the connection, with or without a reset.
                let _ = client.read_to_end(&mut Vec::new());
            }
        }
        assert_eq!(proxy.exit_code(), 70, "{thread}: {}", proxy.log());
        let message = format!("statsring: internal error (a bug): thread {name} panicked at ");
        assert!(proxy.logged(&message), "{thread}: {}", proxy.log());
    }
}

#[test]
fn a_panic_ends_the_process_though_nobody_reads_its_log() {
    let backends = three();
    let mut proxy = planted("worker", &backends);
    proxy.stall_log();
    // It is logged, so that the log is being written when the panic comes.
    assert!(proxy.ask("reload").starts_with("reloaded: "));
    proxy.send_burst(&["a:1|c".to_owned()]);
    let mut status = None;
    wait_until("it has ended", || {
        status = proxy.try_exit_status();
        status.is_some()
    });
    assert_eq!(status.unwrap().code(), Some(70));
}

/// A hostile client; what it sent before it fell silent, if anything.
fn hostile(proxy: &Proxy, number: usize) -> Option<TcpStream> {
    let mut client = TcpStream::connect(proxy.admin).ok()?;
    let _ = client.set_write_timeout(Some(PATIENCE));
    let _ = match number % 5 {
        // Holds the connection and says nothing.
        0 => Ok(()),
        // Says half a word now and then.
        1 => client.write_all(b"st"),
        // Asks, and never reads.
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
fn a_thousand_hostile_admin_clients_take_bounded_memory_and_no_metric() {
    // Each client is a descriptor of this process.
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
            // The admin port is taken, so the backends tell that they arrive.
            let before = total(&backends);
            proxy.send_burst(&datagrams(0..10));
            wait_until("metrics go on", || total(&backends) == before + 30);
        }
    }
    assert!(clients.len() > 900, "only {} connections were made", clients.len());
    let grown_kib = resident_kib(&proxy).saturating_sub(before_kib);
    // 64 are served: each with a read buffer, what it sent ahead, and a reply under way.
    assert!(grown_kib < 8 << 10, "{grown_kib} KiB more for hostile clients");
    drop(clients);
    wait_until("there is room again", || {
        let Ok(mut client) = TcpStream::connect(proxy.admin) else { return false };
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = client.write_all(b"ping\nquit\n");
        let mut answer = String::new();
        let _ = client.read_to_string(&mut answer);
        answer == "pong\n"
    });
    assert_eq!(proxy.ask("health"), "health: up\n", "a web page's request changed something");
    let stats = proxy.settle();
    assert_eq!((stats["metrics_sent"], stats["kernel_drops"]), (300 + 50 * 30, 0));
    assert!(stats["admin_connections_refused"] > 0);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

/// A copy of the program where every user may run it; removed in the end.
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

/// As a user without any right, and with so much locked memory.
fn unprivileged(command: &mut Command, user: u32, memlock_bytes: u64) {
    if std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        command.uid(user).gid(user);
    }
    let limit = move || Ok(setrlimit(Resource::RLIMIT_MEMLOCK, memlock_bytes, memlock_bytes)?);
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(limit) };
}

#[test]
fn it_runs_as_a_user_without_any_right_from_the_start() {
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
    // Reload too: sockets are registered with a ring that is restricted.
    proxy.config.json["nodes"].as_array_mut().unwrap().pop();
    proxy.config.write();
    assert!(proxy.ask("reload").contains(" removed"));
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(&backends) == 600);
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
}

/// The figure that stands before these words.
fn figure_before(text: &str, words: &str) -> u64 {
    let before = text.split(words).next().unwrap();
    before
        .rsplit(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap_or_else(|_| panic!("no figure before {words:?}: {text}"))
}

#[test]
fn too_little_locked_memory_is_told_with_the_figure_that_is_enough() {
    if is_portable() {
        // It locks none: with none it runs.
        let program = Copy::new("unlocked");
        let started = start(&program.0, config(&refs(&three()), json!({})), |command| {
            unprivileged(command, OTHERS, 0);
        });
        assert_eq!(started.status("engine"), "portable");
        return;
    }
    if Path::new("/proc/self").metadata().is_ok_and(|me| me.uid() != 0) {
        return skip_unprivileged("another user's limit counts what this user's other programs have locked");
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
        let enough = figure_before(&text, " bytes of locked memory");
        // Left to the program, the portable engine takes over, and the figure is told too.
        let mut auto = config.clone();
        auto["engine"] = json!("auto");
        let mut fallen_back = start(&program.0, auto, |command| unprivileged(command, user, MEMLOCK_SMALL));
        assert_eq!(fallen_back.status("engine"), "portable");
        assert_eq!(figure_before(&fallen_back.status("degraded"), " bytes of locked memory"), enough);
        fallen_back.signal(Signal::SIGTERM);
        assert_eq!(fallen_back.exit_code(), 0);
        // So much is enough: with less the start would fail.
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

/// A kernel that does not know IORING_REGISTER_RESTRICTIONS.
fn refuse_restrictions(command: &mut Command) {
    const RESTRICTIONS: u32 = 11;
    seccomp::refuse_register(command, RESTRICTIONS, libc::EINVAL);
}

#[test]
fn a_kernel_without_restrictions_is_told_once_and_served() {
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
