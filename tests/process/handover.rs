//! Restarts without loss (SIGUSR2), successful and failed.

use super::proxy::{self, PROGRAM};
use super::*;
use crate::skip::skip_unprivileged;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Restarts under load in this short test; `scripts/restart-test.sh` is the long one.
const RESTARTS: usize = 5;

/// Drops of all old processes in the log and of the current one, by the kernel or by the proxy.
pub fn dropped(proxy: &Proxy) -> u64 {
    let number = |text: &str, word: &str| -> u64 {
        let (_, rest) = text.split_once(word).unwrap_or_else(|| panic!("{word:?} is missing in {text}"));
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    let log = proxy.log();
    let accounts = log.lines().filter(|line| line.contains("final counters: "));
    let before: u64 = accounts.map(|line| number(line, "dropped ") + number(line, "by the kernel ")).sum();
    let stats = proxy.stats();
    let now =
        stats.iter().filter(|(name, _)| name.starts_with("metrics_dropped_") || *name == "kernel_drops");
    before + now.map(|(_, count)| count).sum::<u64>()
}

#[test]
fn restarts_under_load_lose_duplicate_and_move_nothing() {
    let ports: Vec<u16> = (0..3).map(|_| proxy::free_ports().0).collect();
    let nodes: serde_json::Value =
        ports.iter().map(|port| json!({"host": "127.0.0.1", "port": port})).collect();
    let config = config(&[], json!({"nodes": nodes, "workers": 2}));
    let mut proxy = Proxy::start(config);
    // A small receive buffer overflows during a stall of this machine.
    let granted = proxy.ask("status");
    let granted = granted.lines().find_map(|line| line.strip_prefix("receive_buffer: ")).unwrap().to_owned();
    let granted: u64 = granted.split(' ').next().unwrap().parse().unwrap();
    let rate = if granted >= 4 << 20 { "20000" } else { "1000" };
    let sinks: Vec<String> = ports.iter().map(u16::to_string).collect();
    let load = Command::new(PROGRAM)
        .args(["load", "--to", &proxy.address.to_string(), "--sink", &sinks.join(",")])
        .args(["--rate", rate, "--flows", "4", "--names", "5000", "--seconds", "600", "--json", "--quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the load has started", || proxy.stat("metrics_received") > 500);
    for _ in 0..RESTARTS {
        proxy.restart();
        wait_until("the load continues", || proxy.stat("metrics_received") > 500);
    }
    let load_pid = nix::unistd::Pid::from_raw(load.id() as i32);
    nix::sys::signal::kill(load_pid, Signal::SIGINT).unwrap();
    let output = load.wait_with_output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let arrived =
        |key: &str| report["arrived"][key].as_u64().unwrap_or_else(|| panic!("{key} is missing: {report}"));
    let reported = proxy.stats();
    assert_eq!(
        (arrived("duplicated"), arrived("misplaced"), arrived("names_misplaced")),
        (0, 0, 0),
        "{report}"
    );
    // A reported loss was caused by the machine: a full buffer while the process had no CPU.
    let excused = dropped(&proxy) + arrived("dropped_at_sinks");
    assert!(
        arrived("lost") <= excused,
        "{} lost, {excused} of them reported: {report}\n{reported:?}",
        arrived("lost")
    );
    assert!(arrived("unique") > 500 * RESTARTS as u64, "{report}");
    assert_eq!(proxy.first_exit_code(), 0);
    let log = proxy.log();
    assert_eq!(log.matches("has taken over; process").count(), RESTARTS, "{log}");
    assert!(log.contains("2 data sockets") && log.contains("1 admin socket"), "{log}");
}

#[test]
fn worker_count_may_change_at_restart_under_traffic() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"workers": 1})));
    let traffic: Vec<Traffic> = (0..8).map(|_| Traffic::start(&proxy, "flow")).collect();
    wait_until("traffic has started", || proxy.stat("metrics_received") > 500);
    for (workers, spread) in [(3, "flow"), (2, "datagram"), (3, "datagram"), (1, "flow")] {
        proxy.config.json["workers"] = workers.into();
        proxy.config.json["spread"] = spread.into();
        proxy.config.write();
        proxy.restart();
        assert!(proxy.ask("status").contains(&format!("workers: {workers}\nspread: {spread}\n")));
        wait_until("traffic continues", || proxy.stat("metrics_received") > 500);
        if workers > 1 {
            let stats = proxy.stats();
            assert!(
                spread == "flow" || stats["worker_skew"] < workers,
                "one worker received everything: {}",
                proxy.ask("stats")
            );
        }
    }
    let sent: u64 = traffic.into_iter().map(Traffic::end).sum();
    wait_until("every metric has arrived or was counted as dropped", || {
        total(&backends) + dropped(&proxy) >= sent
    });
    proxy.settle();
    assert_eq!(total(&backends) + dropped(&proxy), sent);
    wait_until("it is logged", || {
        proxy.logged("newly created: 2 data sockets") && proxy.logged("closed: 2 data sockets")
    });
}

#[test]
fn restart_recreates_only_changed_sockets() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    proxy.send(datagrams(0..50));
    let (old_address, old_admin) = (proxy.address, proxy.admin);
    let (port, admin_port) = proxy::free_ports();
    proxy.config.json["managementPort"] = admin_port.into();
    proxy.config.write();
    proxy.move_admin(admin_port);
    proxy.restart();
    wait_until("it is logged", || {
        proxy.logged("1 data socket (127.0.0.1:") && proxy.logged("0 admin sockets (none); newly created")
    });
    wait_until("the old admin port is closed", || TcpStream::connect(old_admin).is_err());
    proxy.send(datagrams(50..100));
    proxy.config.json["port"] = port.into();
    proxy.config.json["receiveBuffer"] = (1 << 20).into();
    proxy.config.write();
    // In the old socket before the restart: the old process drains it.
    proxy.send_burst(&datagrams(100..150));
    proxy.restart();
    assert!(proxy.ask("status").contains(&format!("listen: 127.0.0.1:{port}\n")));
    let free = UdpSocket::bind(old_address);
    assert!(free.is_ok(), "the old port is closed: {free:?}");
    proxy.address.set_port(port);
    proxy.send(datagrams(150..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
}

#[test]
fn restart_inherits_backend_states() {
    let mut backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"checkInterval": 3_600_000})));
    let (refusing, dead) = (backends[0].name(), backends[1].name());
    proxy.send(datagrams(0..200));
    wait_until("every metric has arrived", || total(&backends) == 600);
    // One is held down for an hour because its data port refuses, which a check of its admin port cannot detect.
    backends[0].kill_data();
    let traffic = Traffic::start(&proxy, "steady");
    proxy.wait_for_state(&refusing, "down");
    traffic.end();
    proxy.settle();
    backends[1].kill();
    proxy.config.json["checkInterval"] = 2_000.into();
    proxy.config.write();
    proxy.ask("reload");
    proxy.wait_for_state(&dead, "down");
    proxy.ask("health down");
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..200));
    wait_until("the third receives every name", || backends[2].total() == 600);
    let falls = proxy.log().matches("is down: ").count();
    proxy.restart();
    assert_eq!(proxy.state(&refusing), "down");
    assert_eq!(proxy.state(&dead), "down");
    assert_eq!(proxy.ask("health"), "health: down\n");
    proxy.send(datagrams(200..400));
    wait_until("the third still receives every name", || backends[2].total() == 1_200);
    assert_eq!(
        proxy.log().matches("is down: ").count(),
        falls,
        "its failure was not detected again: {}",
        proxy.log()
    );
    assert_eq!(proxy.stat("metrics_received"), 600, "the counters start at zero");
    wait_until("the old counters are logged", || proxy.logged("final counters: metrics received"));
    proxy.ask("health up");
    backends[1].restore();
    proxy.wait_for_state(&dead, "up");
}

#[test]
fn drain_survives_a_restart() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({})));
    let drained = backends[0].name();
    let answer = proxy.ask(&format!("backend {drained} drain"));
    assert_eq!(answer, format!("backend {drained}: drain\n"));
    proxy.restart();
    assert_eq!(proxy.state(&drained), "drain");
    proxy.send(datagrams(0..200));
    wait_until("the other backends receive every name", || total(&backends[1..]) == 600);
    assert_eq!(backends[0].total(), 0);
    proxy.ask(&format!("backend {drained} up"));
    assert_eq!(proxy.state(&drained), "up");
}

/// A replaceable copy of the program, in the config's folder.
fn copy(config: &Path) -> PathBuf {
    let path = config.with_file_name("program");
    proxy::copy_program(Path::new(PROGRAM), &path);
    path
}

/// Replaces the program like an installation: another file with the same name.
fn replace(path: &Path, text: &str) {
    let (text_file, new) = (path.with_extension("text"), path.with_extension("new"));
    fs::write(&text_file, text).unwrap();
    fs::set_permissions(&text_file, fs::Permissions::from_mode(0o755)).unwrap();
    proxy::copy_program(&text_file, &new);
    fs::rename(new, path).unwrap();
}

fn start_copy(config: serde_json::Value) -> (Proxy, PathBuf) {
    let proxy = Proxy::start_by(config, |path| {
        let mut command = Command::new(copy(path));
        command.arg("-f").arg(path);
        command
    });
    let program = proxy.config_path().with_file_name("program");
    (proxy, program)
}

/// Requests a restart that fails; `words` state why.
#[track_caller]
fn fail(proxy: &mut Proxy, backends: &[Backend], words: &str) {
    let pid = proxy.pid();
    proxy.signal(Signal::SIGUSR2);
    wait_until(&format!("status shows {words:?}"), || {
        let status = proxy.ask("status");
        status.lines().any(|line| line.starts_with("last_restart: ") && line.contains(words))
    });
    assert!(proxy.ask("status").contains(&format!("pid: {pid}\n")), "the old process continues");
    wait_until("it is logged", || proxy.logged(words));
    backends.iter().for_each(Backend::forget);
    proxy.send(datagrams(0..20));
    wait_until("it still forwards", || total(backends) == 60);
}

#[test]
fn failed_restart_keeps_the_old_process_and_reports_why() {
    let backends = three();
    let config = config(&refs(&backends), json!({"handoverTimeout": 20_000, "shutdownTimeout": 100}));
    let (mut proxy, program) = start_copy(config);
    replace(&program, "#!/bin/sh\nexit 3\n");
    fail(&mut proxy, &backends, "the new process exited with code 3");
    replace(&program, "not an executable");
    fail(&mut proxy, &backends, "cannot start ");
    fs::remove_file(&program).unwrap();
    fail(&mut proxy, &backends, "No such file");
    // A program with another version of the protocol.
    replace(&program, "#!/bin/sh\nprintf 'STATSRNG\\0\\0\\0\\143\\0\\0\\0\\0' >&0\nsleep 1\nexit 71\n");
    fail(&mut proxy, &backends, "found version 99");
    // A program that is not ready in time and ignores SIGTERM.
    replace(&program, "#!/bin/sh\nexec sleep 600\n");
    proxy.config.json["handoverTimeout"] = 200.into();
    proxy.config.write();
    assert!(proxy.ask("reload").contains("handoverTimeout: 20000 -> 200"));
    fail(&mut proxy, &backends, "failed, and process");
    wait_until("it is logged", || proxy.logged("not ready in time (handoverTimeout)"));
    // The same program again, with an invalid config.
    fs::remove_file(&program).unwrap();
    copy(proxy.config_path());
    let good = proxy.config.json.clone();
    proxy.config.json["handoverTimeout"] = 20_000.into();
    proxy.config.write();
    proxy.ask("reload");
    proxy.config.write_text(r#"{"nodes": [], "queu": 5}"#);
    fail(&mut proxy, &backends, "queu: unknown key");
    // A port that is in use.
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    proxy.config.json["port"] = taken.local_addr().unwrap().port().into();
    proxy.config.write();
    fail(&mut proxy, &backends, "is in use by");
    proxy.config.json = good;
    proxy.config.json["handoverTimeout"] = 20_000.into();
    proxy.config.write();
    proxy.restart();
    proxy.send(datagrams(0..20));
}

/// The PID of the last started process, from the log.
fn started(proxy: &Proxy) -> Option<i32> {
    proxy.started().last().copied()
}

fn is_sleeping(pid: i32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().starts_with(b"sleep")
}

#[test]
fn late_restart_is_reported_at_the_timeout() {
    let backends = three();
    // The new process may take ten minutes to exit.
    let config = config(&refs(&backends), json!({"handoverTimeout": 300, "shutdownTimeout": 600_000}));
    let (mut proxy, program) = start_copy(config);
    replace(&program, "#!/bin/sh\nexec sleep 600\n");
    fail(&mut proxy, &backends, "not ready in time (handoverTimeout)");
    let late = started(&proxy).unwrap();
    assert!(is_sleeping(late), "reported before the new process has exited");
    fs::remove_file(&program).unwrap();
    copy(proxy.config_path());
    proxy.config.json["handoverTimeout"] = 20_000.into();
    proxy.config.write();
    proxy.ask("reload");
    let before = proxy.pid();
    proxy.signal(Signal::SIGUSR2);
    wait_until("the restart is accepted", || {
        proxy.logged("restart: deferred until the process of the last restart")
    });
    assert!(is_sleeping(late));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(late), Signal::SIGKILL).unwrap();
    proxy.wait_for_successor(before);
}

#[test]
fn failing_test_leaves_no_process_during_a_restart() {
    let backends = three();
    let (proxy, program) = start_copy(config(&refs(&backends), json!({})));
    replace(&program, "#!/bin/sh\nexec sleep 600\n");
    proxy.signal(Signal::SIGUSR2);
    wait_until("the new process is started", || started(&proxy).is_some_and(is_sleeping));
    let new = started(&proxy).unwrap();
    drop(proxy);
    wait_until("it has exited with the proxy", || !is_sleeping(new));
}

#[test]
fn reload_during_a_restart_remains_in_effect() {
    let backends = three();
    let (mut proxy, program) = start_copy(config(&refs(&backends), json!({})));
    // The new process has read the config when the old one reloads: the gate is in a copy of the config.
    let (gate, early) = (program.with_extension("gate"), program.with_extension("early"));
    let old_config = proxy.config_path().display().to_string();
    let script = format!(
        "#!/bin/sh\n[ -e '{0}' ] && exec '{PROGRAM}' -f '{old_config}'\ncp '{old_config}' '{1}'\ntouch '{0}'\n\
         while [ ! -e '{0}.open' ]; do sleep 0.02; done\nexec '{PROGRAM}' -f '{1}'\n",
        gate.display(),
        early.display()
    );
    replace(&program, &script);
    let before = proxy.pid();
    proxy.signal(Signal::SIGUSR2);
    wait_until("the new process has read the config", || gate.exists());
    proxy.config.json["flushInterval"] = 77.into();
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("flushInterval: 5 -> 77"), "{answer}");
    fs::write(format!("{}.open", gate.display()), "").unwrap();
    proxy.wait_for_successor(before);
    assert!(proxy.ask("config").contains("\"flushInterval\": 77"), "{}", proxy.ask("config"));
    assert!(proxy.logged("the config was reloaded while it was starting"), "{}", proxy.log());
}

/// Whether an old process has sent its offer and waits for the reply.
fn waits_for_answer(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let read = |task: &Path, file: &str| fs::read_to_string(task.join(file)).unwrap_or_default();
    tasks.map(|task| task.unwrap().path()).any(|task| {
        read(&task, "comm").trim() == "successor"
            && read(&task, "syscall").starts_with(&format!("{} ", libc::SYS_recvmsg))
    })
}

#[test]
fn reload_before_the_new_process_serves_is_deferred() {
    let backends = three();
    let (mut proxy, program) = start_copy(config(&refs(&backends), json!({})));
    let gate = program.with_extension("gate");
    let wait = format!("while [ ! -e '{}' ]; do sleep 0.02; done", gate.display());
    replace(&program, &format!("#!/bin/sh\n{wait}\nexec '{PROGRAM}' \"$@\"\n"));
    proxy.signal(Signal::SIGUSR2);
    wait_until("the new process is started", || started(&proxy).is_some());
    let new = started(&proxy).unwrap();
    // The old process is stopped between its offer and its reply.
    wait_until("the offer is made", || waits_for_answer(proxy.pid()));
    proxy.signal(Signal::SIGSTOP);
    let stat = || fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
    wait_until("the old process is stopped", || stat().contains(") T "));
    fs::write(&gate, "").unwrap();
    wait_until("the new process is ready", || proxy.logged("ready to take over from process "));
    proxy.config.json["flushInterval"] = 77.into();
    proxy.config.write();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(new), Signal::SIGHUP).unwrap();
    wait_until("the reload is deferred", || proxy.logged("reload: deferred until this process serves"));
    let before = proxy.pid();
    proxy.signal(Signal::SIGCONT);
    proxy.wait_for_successor(before);
    wait_until("the reload is carried out", || proxy.ask("config").contains("\"flushInterval\": 77"));
}

#[test]
fn blocked_config_read_does_not_delay_later_reloads_and_restarts() {
    let backends = three();
    let (mut proxy, _) = start_copy(config(&refs(&backends), json!({})));
    let path = proxy.config_path().to_owned();
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    proxy.signal(Signal::SIGHUP);
    let reads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap();
        tasks
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .filter(|name| name.trim() == "reload")
            .count()
    };
    wait_until("a read is blocked", || reads() == 1);
    // Another file with the same name, like an editor or a deployment creates it.
    let mut good = proxy.config.json.clone();
    good["flushInterval"] = 77.into();
    let new = path.with_extension("new");
    fs::write(&new, good.to_string()).unwrap();
    let blocked = path.with_extension("blocked");
    fs::hard_link(&path, &blocked).unwrap();
    fs::rename(&new, &path).unwrap();
    assert!(proxy.ask("reload").contains("flushInterval: 5 -> 77"));
    // A listing of threads may leave some out while others exit.
    wait_until("the first read is still blocked", || reads() == 1);
    wait_until("the first reload is refused", || proxy.logged("was not read within 10 s"));
    // The result of the first read is outdated.
    fs::OpenOptions::new().write(true).open(&blocked).unwrap().write_all(b"{}").unwrap();
    wait_until("it has exited", || reads() == 0);
    proxy.restart();
    assert!(proxy.ask("config").contains("\"flushInterval\": 77"));
}

#[test]
fn second_restart_is_refused_and_stop_cancels_the_first() {
    let backends = three();
    let config = config(&refs(&backends), json!({"shutdownTimeout": 100}));
    let (mut proxy, program) = start_copy(config);
    replace(&program, "#!/bin/sh\necho \"new process $$\" >&2\nexec sleep 600\n");
    proxy.signal(Signal::SIGUSR2);
    wait_until("the new process runs", || proxy.logged("new process "));
    proxy.signal(Signal::SIGUSR2);
    wait_until("the second restart is refused", || proxy.logged("refused: a restart is already in progress"));
    assert!(proxy.ask("status").contains("started process"), "status shows the first restart");
    proxy.send(datagrams(0..20));
    proxy.signal(Signal::SIGTERM);
    assert_eq!(proxy.exit_code(), 0, "{}", proxy.log());
    assert_eq!(total(&backends), 60);
    let log = proxy.log();
    let new: i32 = log.lines().find_map(|line| line.strip_prefix("new process ")).unwrap().parse().unwrap();
    let cmdline = fs::read(format!("/proc/{new}/cmdline")).unwrap_or_default();
    assert!(!cmdline.starts_with(b"sleep"), "the new process was not killed");
}

#[test]
fn stop_of_the_new_process_during_hand_over_loses_nothing() {
    let backends = three();
    let (mut proxy, program) = start_copy(config(&refs(&backends), json!({})));
    // The new process starts when the gate opens, and the old one cannot reply then.
    let gate = program.with_extension("gate");
    let waits = format!("while [ ! -e '{}' ]; do sleep 0.02; done", gate.display());
    replace(&program, &format!("#!/bin/sh\n{waits}\nexec '{PROGRAM}' \"$@\"\n"));
    proxy.signal(Signal::SIGUSR2);
    wait_until("the new process is started", || proxy.logged("restart: started process "));
    proxy.signal(Signal::SIGSTOP);
    fs::write(&gate, "").unwrap();
    wait_until("the new process is ready", || proxy.logged("ready to take over from process "));
    let log = proxy.log();
    let words = log.lines().find(|line| line.contains("restart: started process ")).unwrap();
    let new = words.split("process ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(new), Signal::SIGTERM).unwrap();
    wait_until("it waits for the reply", || proxy.logged("stop requested; waiting for process "));
    let sender = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    for datagram in datagrams(0..20) {
        sender.send_to(datagram.as_bytes(), proxy.address).unwrap();
    }
    proxy.signal(Signal::SIGCONT);
    assert_eq!(proxy.exit_code(), 0, "{}", proxy.log());
    wait_until("both have logged their final counters", || {
        proxy.log().matches("final counters: ").count() == 2
    });
    assert_eq!(total(&backends), 60, "{}", proxy.log());
    assert!(!proxy.logged("the old one continues"), "{}", proxy.log());
}

#[test]
fn restart_during_a_stop_is_refused() {
    let backends = three();
    let config = config(&refs(&backends), json!({"shutdownDelay": PATIENCE.as_millis() as u64}));
    let mut proxy = Proxy::start(config);
    proxy.signal(Signal::SIGTERM);
    wait_until("it is draining", || proxy.logged("; draining"));
    proxy.signal(Signal::SIGUSR2);
    wait_until("the restart is refused", || proxy.logged("restart: refused: stopping"));
    proxy.signal(Signal::SIGTERM);
    proxy.wait_for_end();
}

#[test]
fn restart_as_pid_1_is_refused() {
    let backends = three();
    let can_unshare =
        Command::new("unshare").args(["--pid", "--fork", "true"]).stderr(Stdio::null()).status();
    if !can_unshare.is_ok_and(|status| status.success()) {
        return skip_unprivileged("cannot create a PID namespace");
    }
    let mut proxy = Proxy::start_by(config(&refs(&backends), json!({})), |path| {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", PROGRAM, "-f"]).arg(path);
        command
    });
    let outside = proxy.pid();
    let children = fs::read_to_string(format!("/proc/{outside}/task/{outside}/children")).unwrap();
    let inside = nix::unistd::Pid::from_raw(children.trim().parse().unwrap());
    nix::sys::signal::kill(inside, Signal::SIGUSR2).unwrap();
    wait_until("it is logged", || proxy.logged("restart: refused: this is process 1"));
    assert!(proxy.ask("status").contains("last_restart: "));
    nix::sys::signal::kill(inside, Signal::SIGTERM).unwrap();
    assert_eq!(proxy.exit_code(), 0);
}

#[test]
fn restart_aborted_before_the_offer_is_reported_as_aborted() {
    let config = ConfigFile::new(config(&[], json!({"nodes": [{"host": "127.0.0.1", "port": 9}]})));
    let (mut old, new) = std::os::unix::net::UnixStream::pair().unwrap();
    let word = br#"{"Abort":"stopping"}"#;
    let frame = [b"STATSRNG".as_slice(), &1u32.to_be_bytes(), &(word.len() as u32).to_be_bytes(), word];
    old.write_all(&frame.concat()).unwrap();
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg(&config.path).env("STATSRING_HANDOVER", "1");
    let output = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(new))).output().unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_ne!(output.status.code(), Some(0), "{words}");
    assert!(words.contains("the old process has aborted the restart"), "{words}");
}

/// In a network without IPv6: starts, restarts, stops. Arguments: the program and the config; prints the log.
const WITHOUT_IPV6: &str = r#"
    ip link set lo up && echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6 || exit 77
    cd "$(dirname "$2")"
    await() { for _ in $(seq 300); do grep -q "$1" log && return; sleep 0.1; done; cat log; exit 1; }
    "$1" -f "$2" 2>log & old=$!
    await 'ready: '
    kill -USR2 "$old"
    await 'restart: complete'
    new=$(sed -n 's/.*restart: started process \([0-9]*\):.*/\1/p' log)
    kill -TERM "$new"
    await 'final counters: .*'
    for _ in $(seq 100); do [ -e "/proc/$new" ] || break; sleep 0.1; done
    cat log
"#;

#[test]
fn restart_and_stop_work_without_ipv6() {
    let mut config =
        json!({"port": 8125, "managementPort": 8126, "nodes": [{"host": "127.0.0.1", "port": 9}]});
    if proxy::is_portable() {
        config["engine"] = "portable".into();
    }
    let config = ConfigFile::new(config);
    let mut command = Command::new("unshare");
    command.args(["--net", "bash", "-c", WITHOUT_IPV6, "bash", PROGRAM]).arg(&config.path);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let log = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(77) || errors.contains("unshare failed") {
        return skip_unprivileged(format_args!("cannot create a network namespace: {errors}"));
    }
    assert_eq!(output.status.code(), Some(0), "{log}");
    assert!(log.contains(" skipped: ") && log.contains("restart: complete"), "{log}");
    assert!(!log.contains("cannot fence") && !log.contains("ERROR"), "{log}");
}

#[test]
fn stray_hand_over_variable_is_reported() {
    let config = ConfigFile::new(config(&[], json!({"nodes": [{"host": "127.0.0.1", "port": 9}]})));
    let output = Command::new(PROGRAM)
        .arg("-f")
        .arg(&config.path)
        .env("STATSRING_HANDOVER", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{words}");
    assert!(words.contains("STATSRING_HANDOVER"), "{words}");
}
