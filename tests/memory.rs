//! Memory usage of the process: with defaults, with many backends, and under a flood.

#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses all of it")]
mod backend;
#[path = "process/patience.rs"]
mod patience;
#[path = "process/proxy.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses all of it")]
mod proxy;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use patience::wait_until;
use proxy::{Proxy, assert_balanced, config};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

const MIB: u64 = 1 << 20;
/// Ports that are never read: datagrams beyond their buffers are dropped.
const SINKS: usize = 8;

/// Sockets bound to all loopback addresses, and their ports.
fn sinks() -> Vec<(Socket, u16)> {
    let sink = |_| {
        let sink = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        sink.bind_device(Some(b"lo")).unwrap();
        sink.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into()).unwrap();
        let port = sink.local_addr().unwrap().as_socket().unwrap().port();
        (sink, port)
    };
    (0..SINKS).map(sink).collect()
}

/// Backends at different addresses and ports, all of them sinks.
fn nodes(count: usize, sinks: &[(Socket, u16)]) -> Value {
    let node = |index: usize| {
        let host = Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + (index / SINKS) as u32);
        json!({"host": host.to_string(), "port": sinks[index % SINKS].1})
    };
    (0..count).map(node).collect()
}

fn start(count: usize, sinks: &[(Socket, u16)], extra: Value) -> Proxy {
    let mut config = config(&[], extra);
    config["nodes"] = nodes(count, sinks);
    Proxy::start(config)
}

/// A value of `memstats`, in bytes.
fn memstat(proxy: &Proxy, name: &str) -> u64 {
    let answer = proxy.ask("memstats");
    let line = answer.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("{name} is missing in {answer}")).parse().unwrap()
}

/// Sends datagrams of 1 to 300 metrics at full speed from several sockets, the same ones each time. Returns when the proxy has
/// received them or the kernel has dropped them.
fn flood(proxy: &Proxy, datagrams: usize) {
    let senders: Vec<UdpSocket> =
        (0..16).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let before = accounted(proxy);
    let (mut bytes, mut random) = (Vec::new(), 1u64);
    for datagram in 0..datagrams {
        bytes.clear();
        for metric in 0..[1, 1, 1, 5, 30, 300][datagram % 6] {
            // Constants of Knuth's MMIX generator.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let line = format!("flood.{}:{metric}|c\n", (random >> 32) % 100_000);
            bytes.extend_from_slice(line.as_bytes());
        }
        senders[datagram % senders.len()].send_to(&bytes, proxy.address).unwrap();
    }
    wait_until("the flood is accounted for", || accounted(proxy) == before + datagrams as u64);
}

/// Datagrams received, or dropped by the kernel.
fn accounted(proxy: &Proxy) -> u64 {
    let stats = proxy.stats();
    stats["datagrams_received"] + stats["kernel_drops"]
}

#[test]
fn floods_do_not_grow_memory() {
    let sinks = sinks();
    let proxy = start(3, &sinks, json!({}));
    let at_start = memstat(&proxy, "bytes resident");
    flood(&proxy, 300_000);
    let first = memstat(&proxy, "bytes resident");
    let heap = memstat(&proxy, "bytes allocated and in use");
    flood(&proxy, 300_000);
    let second = memstat(&proxy, "bytes resident");
    eprintln!("resident: {at_start} bytes at start, {first} after a flood, {second} after two");
    assert!(second < 20 * MIB, "{second} bytes");
    assert!(second < first + MIB, "it grew from {first} to {second} bytes");
    let heap_again = memstat(&proxy, "bytes allocated and in use");
    assert!(heap_again < heap + MIB / 4, "the heap grew from {heap} to {heap_again} bytes");
    assert_balanced(&proxy.stats());
}

/// Memory replaced by reloads is returned to the system: packets of another size, queues, a fourth backend.
#[test]
fn reloads_do_not_leak_memory() {
    let sinks = sinks();
    let mut proxy = start(3, &sinks, json!({}));
    for number in 0..24 {
        proxy.config.json["maxPacketSize"] = json!([1_432, 512, 8_192, 1_000][number / 2 % 4]);
        proxy.config.json["queue"] = json!([262_144, 1_048_576, 65_536][number / 2 % 3]);
        proxy.config.json["nodes"] = nodes(3 + number % 2, &sinks);
        proxy.config.write();
        let answer = proxy.ask("reload");
        assert!(answer.starts_with("reloaded: "), "{answer}");
        flood(&proxy, 5_000);
    }
    let free = memstat(&proxy, "bytes in idle spans");
    let resident = memstat(&proxy, "bytes resident");
    eprintln!("after 24 reloads: {resident} bytes resident, {free} freed and kept");
    assert!(free < 4 * MIB, "{free} freed bytes were not returned to the system; {resident} are resident");
    assert_balanced(&proxy.stats());
}

#[test]
fn thousand_backends_fit_64_mib_and_the_default_file_limit() {
    // The default soft limit of a login.
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(1_024), hard).unwrap();
    let sinks = sinks();
    let proxy = start(1_000, &sinks, json!({}));
    let at_start = memstat(&proxy, "bytes resident");
    flood(&proxy, 100_000);
    let after = memstat(&proxy, "bytes resident");
    eprintln!("resident with 1,000 backends: {at_start} bytes at start, {after} after a flood");
    assert!(after < 64 * MIB, "{after} bytes");
    let stats = proxy.stats();
    assert_balanced(&stats);
    assert_eq!(stats["metrics_dropped_send_failed"], 0, "every backend has a socket");
    let backends = proxy.ask("backends");
    let up = backends.lines().filter(|row| row.split('\t').nth(1) == Some("up"));
    assert_eq!(up.count(), 1_000);
}
