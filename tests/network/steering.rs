//! `spread` `"cpu"`: what counts is the CPU on which a datagram arrives, as the network device chooses it, not its sender's.

use crate::lab::with_each_engine;
use crate::patience::wait_until;
use crate::proxy::{Proxy, config};
use crate::skip::skip;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use std::net::UdpSocket;

const SENT: u64 = 40;
/// Where the kernel takes the CPUs of a device's first queue (RPS).
const RPS: &str = "/sys/class/net/eth0/queues/rx-0/rps_cpus";

/// Sends from a thread on this CPU, each datagram by another socket.
fn send_from(cpu: usize, port: u16) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
    for number in 0..SENT {
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.send_to(format!("steered.{number}:1|c").as_bytes(), ("192.0.2.1", port)).unwrap();
    }
}

#[test]
fn the_cpu_chosen_for_a_devices_queue_decides() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    // The mask of a queue is written as words of 32 CPUs: the first one suffices here.
    let cpus: Vec<usize> = (0..32).filter(|cpu| allowed.is_set(*cpu).unwrap()).take(2).collect();
    let &[one, other] = &cpus[..] else {
        return skip("spread by CPU needs two CPUs, and this process may use only one");
    };
    with_each_engine(|lab, engine| {
        let client = lab.host("client");
        lab.join((&lab.proxy(), "eth0", "192.0.2.1/24"), (&client, "eth0", "192.0.2.2/24"));
        if lab.proxy().shell(&format!("[ -e {RPS} ] || echo absent")).contains("absent") {
            return skip("the kernel has no RPS");
        }
        let extra = json!({"host": "192.0.2.1", "workers": 2, "pinWorkers": [other, one], "spread": "cpu",
                           "engine": engine["engine"], "nodes": [{"host": "127.0.0.1", "port": 9}]});
        let proxy = Proxy::start(config(&[], extra));
        assert_eq!(proxy.status("spread"), "cpu");
        let by_worker = || [0, 1].map(|worker| proxy.stat(&format!("worker_{worker}_datagrams_received")));
        for (arrival, sender, expected) in [
            (one, other, [0, SENT]),
            (other, one, [SENT, 0]),
            (one, one, [0, SENT]),
            (other, other, [SENT, 0]),
        ] {
            lab.proxy().shell(&format!("echo {:x} >{RPS}", 1u32 << arrival));
            let before = by_worker();
            client.within(|| send_from(sender, proxy.address.port()));
            wait_until("every datagram is received", || {
                by_worker().iter().sum::<u64>() >= before.iter().sum::<u64>() + SENT
            });
            let after = by_worker();
            let received = [after[0] - before[0], after[1] - before[1]];
            assert_eq!(received, expected, "sent on CPU {sender}, arriving on CPU {arrival}");
        }
    });
}
