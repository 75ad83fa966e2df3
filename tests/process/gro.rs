//! `gro`: a proxy that receives from another one, whose GSO batches arrive joined. Nothing is lost or changed, also while the
//! key changes at restarts, and passed sockets keep the option.

use super::proxy::{self, PROGRAM};
use super::service::activated;
use super::*;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

/// Metrics of a GSO batch at most: 16 packets of 1,432 bytes.
const BATCH_METRICS_MAX: u64 = 16 * 1_432 / 10;

/// A load through two proxies to three sinks, which account for every metric.
struct Chain {
    first: Proxy,
    second: Proxy,
    load: Load,
}

/// A `statsring load`, which does not outlive a test that fails.
struct Load(Option<Child>);

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Chain {
    /// The second proxy has these keys, besides three sinks as backends.
    fn start(keys: Value) -> Chain {
        let sinks: Vec<u16> = (0..3).map(|_| proxy::free_ports().0).collect();
        let nodes: Value = sinks.iter().map(|port| json!({"host": "127.0.0.1", "port": port})).collect();
        let mut extra = json!({"nodes": nodes, "workers": 2});
        extra.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        let second = Proxy::start(config(&[], extra));
        // Its packets for the only backend are long enough for batches, and padded to one length.
        let node = json!({"host": "127.0.0.1", "port": second.address.port(), "gso": "padded"});
        let first = Proxy::start(config(&[], json!({"nodes": [node], "flushInterval": 20})));
        let sinks: Vec<String> = sinks.iter().map(u16::to_string).collect();
        let load = Command::new(PROGRAM)
            .args(["load", "--to", &first.address.to_string(), "--sink", &sinks.join(",")])
            .args(["--rate", "4000", "--metrics", "10", "--flows", "4", "--names", "5000"])
            .args(["--seconds", "600", "--json", "--quiet"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let chain = Chain { first, second, load: Load(Some(load)) };
        chain.run();
        chain
    }

    /// Waits until the second proxy has forwarded some more.
    fn run(&self) {
        let before = self.second.stat("metrics_sent");
        wait_until("metrics pass both proxies", || self.second.stat("metrics_sent") > before + 20_000);
    }

    /// Whether datagrams arrive joined at the second proxy.
    fn joins(&self) -> bool {
        let before = self.second.stats();
        self.run();
        let after = self.second.stats();
        let more = |name: &str| after[name] - before[name];
        assert!(more("datagrams_gro") <= more("datagrams_received"));
        // Only full packets are sent together.
        more("datagrams_gro") * 2 > more("datagrams_received")
    }

    /// Restarts the second proxy with another value of the key.
    fn restart(&mut self, gro: bool) {
        self.second.config.json["gro"] = json!(gro);
        self.second.config.write();
        self.second.restart();
    }

    /// Ends the load, and checks its account.
    fn end(mut self) {
        let load = self.load.0.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(load.id() as i32);
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        let output = load.wait_with_output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let arrived = |key: &str| {
            report["arrived"][key].as_u64().unwrap_or_else(|| panic!("{key} is missing: {report}"))
        };
        for fault in ["duplicated", "misplaced", "names_misplaced", "foreign"] {
            assert_eq!(arrived(fault), 0, "{fault}: {report}");
        }
        // What runs into one another is cut or malformed.
        for proxy in [&self.first, &self.second] {
            let stats = proxy.stats();
            assert_eq!(
                (stats["metrics_dropped_malformed"], stats["datagrams_truncated"]),
                (0, 0),
                "{stats:?}"
            );
        }
        // A reported loss was caused by the machine: a full buffer while a process had no CPU. Each drop at the second proxy may
        // be that of a batch.
        let dropped = handover::dropped(&self.first) + handover::dropped(&self.second) * BATCH_METRICS_MAX;
        let excused = dropped + arrived("dropped_at_sinks");
        assert!(arrived("lost") <= excused, "{} lost, {excused} excused: {report}", arrived("lost"));
        assert!(arrived("unique") > 10_000, "{report}");
    }
}

#[test]
fn chain_of_proxies_loses_and_changes_nothing() {
    let chain = Chain::start(json!({"gro": true, "timestamps": true}));
    assert!(chain.joins());
    let stats = chain.second.stats();
    assert_eq!((stats["timestamps_missing"], stats["timestamps_invalid"]), (0, 0));
    let status = chain.second.status("gro");
    assert!(status.starts_with("on: ") && status.ends_with(" datagrams received with others"), "{status}");
    assert_eq!(chain.first.status("gro"), "off");
    assert!(!chain.second.ask("status").contains("degraded: gro"));
    chain.end();
}

#[test]
fn restarts_keep_joining_as_it_is_lose_nothing_and_change_nothing() {
    for gro in [false, true] {
        let mut chain = Chain::start(json!({"gro": gro}));
        assert_eq!(chain.joins(), gro);
        for configured in [gro, !gro, gro, !gro] {
            chain.restart(configured);
            assert_eq!(chain.joins(), gro, "{gro}, then {configured}");
            let status = chain.second.ask("status");
            let expected = format!("degraded: gro: {configured} has no effect at 2 ");
            assert_eq!(status.contains(&expected), configured != gro, "{status}");
            assert_eq!(status.contains("\ngro: on: "), gro, "{status}");
            // Each process has counters of its own.
            let stats = chain.second.stats();
            assert_eq!(
                (stats["metrics_dropped_malformed"], stats["datagrams_truncated"]),
                (0, 0),
                "{stats:?}"
            );
        }
        chain.end();
    }
}

#[test]
fn sockets_that_a_restart_adds_follow_the_config() {
    let mut chain = Chain::start(json!({"gro": false, "workers": 1}));
    let answer = |chain: &Chain| chain.second.ask("status");
    chain.second.config.json["workers"] = json!(3);
    chain.restart(true);
    let status = answer(&chain);
    assert!(status.contains("degraded: gro: true has no effect at 1 inherited data socket,"), "{status}");
    assert!(status.contains("\ngro: on: "), "{status}");
    chain.run();
    chain.restart(false);
    let status = answer(&chain);
    assert!(status.contains("degraded: gro: false has no effect at 2 passed data sockets with"), "{status}");
    chain.run();
    chain.end();
}

#[test]
fn reload_refuses_to_change_it() {
    let backends = three();
    let mut proxy = Proxy::start(config(&refs(&backends), json!({"gro": true})));
    proxy.config.json["gro"] = json!(false);
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("a restart is needed to change gro"), "{answer}");
}

#[test]
fn sockets_of_a_service_manager_join_after_a_start_and_are_followed_then() {
    let backends = three();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    for (gro, is_degraded) in [(true, false), (false, true)] {
        let (_, admin_port) = proxy::free_ports();
        let keys = json!({"port": port, "managementPort": admin_port, "gro": gro});
        let file = ConfigFile::new(config(&refs(&backends), keys));
        let command = activated(&file.path, vec![OwnedFd::from(socket.try_clone().unwrap())]);
        let mut proxy = Proxy::spawn(file, port, admin_port, command);
        assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
        assert!(proxy.status("gro").starts_with("on: "));
        let status = proxy.ask("status");
        assert_eq!(
            status.contains("degraded: gro: false has no effect at 1 passed"),
            is_degraded,
            "{status}"
        );
        proxy.signal(Signal::SIGTERM);
        proxy.wait_for_end();
    }
}

/// Where a call for the option is refused, it is off; `refused`: the call.
fn is_off_and_reported_where(refused: libc::c_long) {
    let backends = three();
    let mut proxy = Proxy::start_by(config(&refs(&backends), json!({"gro": true})), |path| {
        let mut command = Command::new(PROGRAM);
        command.arg("-f").arg(path);
        // The option's number is that of no other option that the proxy sets or reads.
        seccomp::refuse_argument(&mut command, refused, (2, libc::UDP_GRO as u32), libc::EPERM);
        command
    });
    assert_eq!(proxy.status("gro"), "off");
    let status = proxy.ask("status");
    assert!(
        status.contains("degraded: gro: refused by the kernel (UDP_GRO: Operation not permitted"),
        "{status}"
    );
    proxy.send(datagrams(0..50));
    proxy.settle();
}

#[test]
fn refused_option_is_reported_and_datagrams_are_received_one_by_one() {
    is_off_and_reported_where(libc::SYS_setsockopt);
}

#[test]
fn option_that_cannot_be_read_is_not_enabled() {
    is_off_and_reported_where(libc::SYS_getsockopt);
}
