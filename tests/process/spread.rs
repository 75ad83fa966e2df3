//! `spread` `"cpu"`: every datagram reaches the worker that is pinned to the CPU where it arrives, also after restarts, with
//! passed sockets, and not where the kernel refuses it.
//!
//! Over loopback a datagram arrives on the CPU of its sender.

use super::proxy::PROGRAM;
use super::service::{activated, udp_twins};
use super::*;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::Command;

/// SO_ATTACH_REUSEPORT_CBPF of socket(7).
const ATTACH: u32 = 51;
/// Datagrams sent from each CPU.
const SENT: u64 = 40;

/// The first two CPUs that this process may use; skips the test if there is only one.
fn two_cpus() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let mut cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap());
    let found = cpus.next().zip(cpus.next()).map(|(one, other)| [one, other]);
    if found.is_none() {
        skip::skip("spread by CPU needs two CPUs, and this process may use only one");
    }
    found
}

/// Sends from a thread on this CPU, each datagram by another socket.
fn send_from(cpu: usize, address: SocketAddr) {
    let send = move || {
        let mut cpus = CpuSet::new();
        cpus.set(cpu).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        for number in 0..SENT {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(format!("from.{cpu}.{number}:1|c").as_bytes(), address).unwrap();
        }
    };
    std::thread::spawn(send).join().unwrap();
}

/// What each worker receives of datagrams sent from this CPU.
fn received_from(cpu: usize, proxy: &Proxy) -> Vec<u64> {
    let by_worker = |stats: &HashMap<String, u64>| -> Vec<u64> {
        (0..stats["workers"]).map(|worker| stats[&format!("worker_{worker}_datagrams_received")]).collect()
    };
    let before = proxy.stats();
    send_from(cpu, proxy.address);
    let mut after = HashMap::new();
    wait_until("every datagram is received", || {
        after = proxy.stats();
        after["datagrams_received"] >= before["datagrams_received"] + SENT
    });
    by_worker(&after).iter().zip(by_worker(&before)).map(|(after, before)| after - before).collect()
}

#[track_caller]
fn assert_served(proxy: &Proxy, cpus: [usize; 2]) {
    assert_eq!(proxy.status("spread"), "cpu");
    assert_eq!(received_from(cpus[0], proxy), [SENT, 0], "from CPU {}", cpus[0]);
    assert_eq!(received_from(cpus[1], proxy), [0, SENT], "from CPU {}", cpus[1]);
}

#[test]
fn each_cpu_is_served_by_its_worker_and_a_restart_keeps_that() {
    let Some(cpus) = two_cpus() else { return };
    let [one, other] = cpus;
    let backends = three();
    let extra = json!({"workers": 2, "pinWorkers": cpus, "spread": "cpu"});
    let mut proxy = Proxy::start(config(&refs(&backends), extra));
    assert!(!proxy.ask("status").contains("degraded: spread"), "{}", proxy.ask("status"));
    assert_served(&proxy, cpus);
    proxy.restart();
    assert_served(&proxy, cpus);
    proxy.config.json["pinWorkers"] = json!([other, one]);
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("a restart is needed to change pinWorkers"), "{answer}");
    proxy.restart();
    assert_served(&proxy, [other, one]);
    for spread in ["flow", "cpu"] {
        proxy.config.json["spread"] = json!(spread);
        proxy.config.write();
        assert!(proxy.ask("reload").contains("a restart is needed to change ") || spread == "cpu");
        proxy.restart();
        assert_eq!(proxy.status("spread"), spread);
    }
    assert_served(&proxy, [other, one]);
    proxy.settle();
}

#[test]
fn workers_added_and_removed_at_a_restart_are_found_by_cpu() {
    let Some(cpus) = two_cpus() else { return };
    let backends = three();
    let extra = json!({"workers": 1, "pinWorkers": [cpus[0]], "spread": "cpu"});
    let mut proxy = Proxy::start(config(&refs(&backends), extra));
    for _ in 0..2 {
        assert_eq!(received_from(cpus[1], &proxy), [SENT]);
        proxy.config.json["workers"] = json!(2);
        proxy.config.json["pinWorkers"] = json!(cpus);
        proxy.config.write();
        proxy.restart();
        assert_served(&proxy, cpus);
        // More than there are CPUs to pin: by number.
        proxy.config.json["workers"] = json!(3);
        proxy.config.json["pinWorkers"] = json!(false);
        proxy.config.write();
        proxy.restart();
        for cpu in cpus {
            let mut expected = [0; 3];
            expected[cpu % 3] = SENT;
            assert_eq!(received_from(cpu, &proxy), expected, "from CPU {cpu}");
        }
        // The old process fences the third socket, which removes the program.
        proxy.config.json["workers"] = json!(2);
        proxy.config.json["pinWorkers"] = json!([cpus[1], cpus[0]]);
        proxy.config.write();
        proxy.restart();
        assert_served(&proxy, [cpus[1], cpus[0]]);
        proxy.config.json["workers"] = json!(1);
        proxy.config.json["pinWorkers"] = json!(false);
        proxy.config.write();
        proxy.restart();
    }
    proxy.settle();
}

#[test]
fn passed_sockets_are_chosen_by_cpu() {
    let Some(cpus) = two_cpus() else { return };
    let backends = three();
    let (sockets, address) = udp_twins();
    let (port, admin_port) = proxy::free_ports();
    let extra = json!({"port": port, "managementPort": admin_port, "workers": 2, "pinWorkers": [cpus[1], cpus[0]],
                       "spread": "cpu"});
    let config = ConfigFile::new(config(&refs(&backends), extra));
    let command = activated(&config.path, sockets.into_iter().map(OwnedFd::from).collect());
    let mut proxy = Proxy::spawn(config, address.port(), admin_port, command);
    assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
    let status = proxy.ask("status");
    assert!(
        status.contains("degraded: spread: cpu requires that the service manager passes sockets in "),
        "{status}"
    );
    assert_served(&proxy, [cpus[1], cpus[0]]);
    proxy.restart();
    assert_served(&proxy, [cpus[1], cpus[0]]);
}

#[test]
fn refused_spread_is_reported_and_senders_are_distributed_instead() {
    for spread in ["cpu", "datagram"] {
        let backends = three();
        let mut proxy =
            Proxy::start_by(config(&refs(&backends), json!({"workers": 2, "spread": spread})), |path| {
                let mut command = Command::new(PROGRAM);
                command.arg("-f").arg(path);
                seccomp::refuse_argument(&mut command, libc::SYS_setsockopt, (2, ATTACH), libc::EPERM);
                command
            });
        for _ in 0..2 {
            assert_eq!(proxy.status("spread"), "flow");
            let status = proxy.ask("status");
            let expected = format!(
                "degraded: spread: {spread} was refused by the kernel (SO_ATTACH_REUSEPORT_CBPF: Operation not permitted"
            );
            assert!(status.contains(&expected) && status.contains("or set spread to flow"), "{status}");
            assert!(proxy.logged(&expected[10..]), "{}", proxy.log());
            proxy.send(datagrams(0..50));
            proxy.settle();
            proxy.restart();
        }
    }
}
