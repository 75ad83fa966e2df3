//! Shortage of descriptors: the requested limit suffices, and an operation that fails for lack of a descriptor does not affect
//! a backend's state.

use super::descriptors::{give_back, take_all};
use super::proxy::PROGRAM;
use super::*;
use nix::sys::resource::{Resource, setrlimit};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Fewer open files than any config needs, but enough to bind the sockets.
const TOO_FEW: u64 = 24;
/// Clients that hold their admin connection.
const IDLE_CLIENTS: usize = 40;
/// More than the maximum of connections.
const TOO_MANY_CLIENTS: usize = 90;

/// Limits the open files of a process to be started.
fn limit(command: &mut Command, files: u64) {
    let limit = move || Ok(setrlimit(Resource::RLIMIT_NOFILE, files, files)?);
    // SAFETY: between fork and exec it makes one system call and does not allocate.
    unsafe { command.pre_exec(limit) };
}

/// The numbers in the message about open files: maximum, and minimum to start.
fn limits(message: &str) -> (u64, u64) {
    let after = |words: &str| -> u64 {
        let rest = message.split_once(words).unwrap_or_else(|| panic!("{words:?} is missing in {message}")).1;
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (after("open files: "), after("at least "))
}

/// The number of open files requested with this config.
fn asked(config: &serde_json::Value) -> (u64, u64) {
    let mut config = config.clone();
    let (port, admin_port) = proxy::free_ports();
    (config["port"], config["managementPort"]) = (port.into(), admin_port.into());
    let config = ConfigFile::new(config);
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg(&config.path);
    limit(&mut command, TOO_FEW);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(71), "{text}");
    limits(&text)
}

/// Descriptors that count towards a limit of `files`: inherited ones may have larger numbers.
fn open_files(pid: i32, files: u64) -> usize {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let numbers = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    numbers.filter(|number| *number < files).count()
}

/// Records the maximum number of open files of a process until dropped.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Watch {
    fn start(pid: i32, files: u64) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut most = 0;
                while !stop.load(Ordering::Relaxed) {
                    most = most.max(open_files(pid, files));
                    std::thread::sleep(Duration::from_millis(1));
                }
                most
            }
        });
        Watch { stop, thread }
    }

    fn most(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Clients that hold their connections; every second one has sent a command.
fn idle_clients(proxy: &Proxy, count: usize) -> Vec<TcpStream> {
    let client = |number: usize| {
        let mut client = TcpStream::connect(proxy.admin).unwrap();
        if number.is_multiple_of(2) {
            let _ = client.write_all(b"ping\n");
        }
        client
    };
    (0..count).map(client).collect()
}

/// Waits for this many further checks of each backend.
fn wait_for_checks(backends: &[Backend], more: u64) {
    let before: Vec<u64> = backends.iter().map(Backend::asked).collect();
    wait_until("every backend is checked", || {
        backends.iter().zip(&before).all(|(backend, before)| backend.asked() >= before + more)
    });
}

/// Everything that needs descriptors at once: idle clients, checks, a reload that replaces all backends, a restart.
fn check_with(files: u64, config: serde_json::Value, backends: &[Backend], others: &[Backend]) {
    backends.iter().chain(others).for_each(Backend::forget);
    let mut proxy = Proxy::start_by(config, |path| {
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(path);
        limit(&mut command, files);
        command
    });
    let watch = Watch::start(proxy.pid(), files);
    let clients = idle_clients(&proxy, TOO_MANY_CLIENTS);
    wait_for_checks(backends, 8);
    backends.iter().for_each(|backend| proxy.wait_for_state(&backend.name(), "up"));
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(backends) == 300);
    proxy.config.json["nodes"] = nodes(&refs(others));
    proxy.config.write();
    assert!(proxy.ask("reload").starts_with("reloaded: "), "{}", proxy.log());
    wait_for_checks(others, 8);
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(others) == 300);
    let stats = proxy.settle();
    assert_eq!((stats["metrics_sent"], stats["metrics_received"]), (600, 600));
    let shortages: Vec<_> =
        stats.iter().filter(|(name, count)| name.starts_with("shortages_") && **count > 0).collect();
    assert!(shortages.is_empty(), "{shortages:?}\n{}", proxy.log());
    proxy.restart();
    assert_eq!(proxy.first_exit_code(), 0);
    let most = watch.most();
    assert!(most as u64 <= files, "{most} files were open, but only {files} requested");
    drop(clients);
    proxy.send(datagrams(0..100));
    wait_until("every metric has arrived", || total(others) == 600);
    let log = proxy.log();
    assert!(!log.contains(" is down") && !log.contains("oo many open files"), "{log}");
    eprintln!("{most} of {files}");
}

fn quick_checks(backends: &[Backend]) -> serde_json::Value {
    config(&refs(backends), json!({"checkInterval": 1000, "checkTimeout": 1000, "checkFall": 5}))
}

#[test]
fn requested_open_files_are_sufficient() {
    let (backends, others) = (three(), three());
    let config = quick_checks(&backends);
    let (all, least) = asked(&config);
    assert!(least < all, "{least} {all}");
    check_with(all, config.clone(), &backends, &others);
    check_with(least, config, &backends, &others);
}

#[test]
fn no_free_descriptor_takes_no_live_backend_down() {
    let mut backends = three();
    let mut proxy = Proxy::start(quick_checks(&backends));
    wait_for_checks(&backends, 1);
    let before = take_all(proxy.pid());
    // An operator gets a connection all the same, and sees the shortage.
    wait_until("it is degraded", || {
        proxy.ask("status").contains("\ndegraded: health checks: EMFILE: Too many open files; ")
    });
    wait_for_checks(&backends, 3);
    backends.iter().for_each(|backend| proxy.wait_for_state(&backend.name(), "up"));
    proxy.send(datagrams(0..50));
    wait_until("every metric has arrived", || total(&backends) == 150);
    let stats = proxy.stats();
    assert!(stats["shortages_check"] > 0 && stats["shortages_accept"] > 0, "{stats:?}");
    // Checks continue with reserved descriptors: a dead backend is detected.
    let dead = backends[0].name();
    backends[0].kill();
    proxy.wait_for_state(&dead, "down");
    give_back(proxy.pid(), before);
    backends[0].restore();
    proxy.wait_for_state(&dead, "up");
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0);
    let log = proxy.log();
    let down: Vec<&str> = log.lines().filter(|line| line.contains(" is down")).collect();
    assert!(down.len() == 1 && down[0].contains("connection refused"), "{log}");
    for once in ["health checks: EMFILE: ", "the admin port: EMFILE: "] {
        assert_eq!(log.matches(once).count(), 1, "{log}");
    }
}

#[test]
fn no_free_descriptor_evicts_idle_clients_for_an_operator() {
    let backends = three();
    let proxy = Proxy::start(quick_checks(&backends));
    let _clients = idle_clients(&proxy, IDLE_CLIENTS);
    wait_until("they are connected", || proxy.stat("admin_connections") > IDLE_CLIENTS as u64);
    take_all(proxy.pid());
    for _ in 0..3 {
        assert_eq!(proxy.ask("ping"), "pong\n");
    }
    let stats = proxy.stats();
    assert!(stats["shortages_accept"] > 0 && stats["admin_connections_yielded"] > 0, "{stats:?}");
    wait_for_checks(&backends, 2);
    assert!(!proxy.logged(" is down"), "{}", proxy.log());
}

#[test]
fn lookup_without_descriptor_is_not_reported_as_unresolvable() {
    let mut backend = Backend::start();
    let mut config = config(&[&backend], json!({}));
    config["nodes"][0]["host"] = "localhost".into();
    let mut proxy = Proxy::start(config);
    let name = format!("localhost:{}", backend.port);
    proxy.wait_for_state(&name, "up");
    let before = take_all(proxy.pid());
    // It is looked up again when its backend goes down.
    backend.kill();
    wait_until("the lookup failed for lack of a descriptor", || proxy.logged("name lookups: EMFILE: "));
    give_back(proxy.pid(), before);
    backend.restore();
    proxy.wait_for_state(&name, "up");
    assert!(proxy.stat("shortages_lookup") > 0);
    assert!(!proxy.logged("does not resolve"), "{}", proxy.log());
    proxy.send(["a:1|c"]);
    wait_until("its metric arrives", || backend.total() == 1);
}

#[test]
fn reload_and_restart_without_descriptor_report_the_shortage() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let mut operator = TcpStream::connect(proxy.admin).unwrap();
    operator.set_read_timeout(Some(PATIENCE)).unwrap();
    operator.write_all(b"ping\n").unwrap();
    operator.read_exact(&mut [0; 5]).unwrap();
    let before = take_all(proxy.pid());
    proxy.signal(Signal::SIGHUP);
    proxy.signal(Signal::SIGUSR2);
    let short = "Too many open files (os error 24): raise the limit on open files";
    wait_until("both have failed", || {
        let log = proxy.log();
        log.lines()
            .any(|line| line.contains("reload: refused, nothing was changed: ") && line.contains(short))
            && log.lines().any(|line| line.contains("restart: failed, ") && line.contains(short))
    });
    give_back(proxy.pid(), before);
    assert!(proxy.ask("reload").starts_with("reloaded: "));
    proxy.restart();
    proxy.send(datagrams(0..10));
    wait_until("every metric has arrived", || total(&backends) == 30);
}
