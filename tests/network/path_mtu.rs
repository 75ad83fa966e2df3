//! The MTU of the path to a backend changes while metrics are sent, at this host's interface or behind a router.

use super::backend::Backend;
use super::lab::{Lab, Namespace, with_each_engine};
use super::patience::wait_until;
use super::proxy::{Proxy, config};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const BACKEND: &str = "10.77.0.9:8125";
/// Headers of IPv4 and UDP.
const HEADERS: u64 = 28;
/// Metrics in a datagram, and datagrams that arrive together: some packets, which are sent together.
const LINES: usize = 20;
const DATAGRAMS: usize = 12;
/// Pause between those: 2,400 datagrams a second.
const PAUSE: Duration = Duration::from_millis(5);

/// A host at 10.77.0.9, joined to the proxy.
fn host(lab: &Lab) -> Namespace {
    let host = lab.host("backend");
    lab.join((&lab.proxy(), "uplink", "10.77.0.1/24"), (&host, "uplink", "10.77.0.9/24"));
    host
}

fn backend(host: &Namespace, ip: &str) -> Backend {
    let ip: IpAddr = ip.parse().unwrap();
    host.within(|| Backend::start_at(ip, 8125, 8126))
}

fn start(host: &str, extra: Value, packet_size: Value) -> Proxy {
    let mut config = config(&[], extra);
    config["nodes"] = json!([{"host": host, "port": 8125, "gso": "padded"}]);
    config["maxPacketSize"] = packet_size;
    Proxy::start(config)
}

fn set_mtu(host: &Namespace, device: &str, mtu: u64) {
    host.ip(&format!("link set {device} mtu {mtu}"));
}

/// Packets that this namespace's kernel fragmented, and the fragments it made.
fn fragmented() -> (u64, u64) {
    // Of this thread, which is in the proxy's namespace, unlike the process.
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let value = |name: &str| {
        let index = names.split(' ').position(|one| one == name).unwrap();
        values.split(' ').nth(index).unwrap().parse().unwrap()
    };
    (value("FragOKs"), value("FragCreates"))
}

/// Sends metrics to the proxy until it is ended.
struct Load {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Load {
    fn start(to: SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                let mut datagrams = 0;
                while !stop.load(Ordering::Relaxed) {
                    for _ in 0..DATAGRAMS {
                        let line = |number| format!("load.{datagrams}.{number}.{}:1|c\n", "x".repeat(20));
                        socket.send_to((0..LINES).map(line).collect::<String>().as_bytes(), to).unwrap();
                        datagrams += 1;
                    }
                    std::thread::sleep(PAUSE);
                }
                datagrams
            }
        });
        Load { stop, thread }
    }

    /// Metrics sent.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap() * LINES as u64
    }
}

/// Waits until so many more packets were sent in GSO batches.
#[track_caller]
fn wait_for_gso(proxy: &Proxy) {
    let before = proxy.stat("datagrams_gso");
    wait_until("packets are batched", || proxy.stat("datagrams_gso") >= before + 100);
}

#[track_caller]
fn wait_for_packet_size(proxy: &Proxy, bytes: u64) {
    wait_until(&format!("packets have up to {bytes} bytes"), || {
        proxy.column(BACKEND, "packet_bytes") == bytes.to_string()
    });
}

/// Ends the load: every metric was forwarded and has arrived.
#[track_caller]
fn nothing_is_lost(proxy: &Proxy, load: Load, backend: &Backend) {
    let metrics = load.end();
    wait_until("every metric is received", || proxy.stat("metrics_received") == metrics);
    assert_eq!(proxy.settle()["metrics_sent"], metrics);
    wait_until("every metric has arrived", || backend.total() == metrics);
}

#[test]
fn auto_follows_a_path_mtu_that_shrinks_and_grows() {
    with_each_engine(|lab, extra| {
        let backend = backend(&host(lab), "10.77.0.9");
        let proxy = start("10.77.0.9", extra, json!("auto"));
        let load = Load::start(proxy.address);
        for mtu in [1_500, 1_400, 900, 1_500] {
            set_mtu(&lab.proxy(), "uplink", mtu);
            wait_for_packet_size(&proxy, mtu - HEADERS);
            wait_for_gso(&proxy);
        }
        nothing_is_lost(&proxy, load, &backend);
        let (packets, fragments) = fragmented();
        let counted = proxy.stat("packets_fragmented");
        println!("auto: {packets} packets in {fragments} fragments, {counted} counted");
        assert!(counted <= packets && fragments < 300, "{counted}, {packets}, {fragments}");
        assert_eq!(proxy.column(BACKEND, "gso_refused"), "0");
        assert!(!proxy.ask("status").contains("degraded: backend"), "{}", proxy.ask("status"));
        assert!(!proxy.logged(" WARN "), "{}", proxy.log());
    });
}

#[test]
fn auto_follows_the_path_mtu_of_ipv6() {
    with_each_engine(|lab, extra| {
        let host = lab.host("backend");
        lab.join((&lab.proxy(), "uplink", "fd77::1/64"), (&host, "uplink", "fd77::9/64"));
        let backend = backend(&host, "fd77::9");
        let proxy = start("fd77::9", extra, json!("auto"));
        let load = Load::start(proxy.address);
        for mtu in [1_500, 1_280, 1_500] {
            set_mtu(&lab.proxy(), "uplink", mtu);
            let bytes = (mtu - 48).to_string();
            wait_until("packets have that size", || proxy.column("[fd77::9]:8125", "packet_bytes") == bytes);
            wait_for_gso(&proxy);
        }
        nothing_is_lost(&proxy, load, &backend);
        assert!(proxy.stat("packets_fragmented") < 150, "{}", proxy.stat("packets_fragmented"));
        assert_eq!(proxy.column("[fd77::9]:8125", "path_bytes"), "1452");
    });
}

/// The interface of this host keeps its MTU; the router reports by ICMP a smaller MTU of the path beyond it. The kernel
/// forgets that after a while.
#[test]
fn auto_follows_a_path_mtu_that_a_router_reports() {
    with_each_engine(|lab, extra| {
        let (router, host) = (lab.host("router"), lab.host("backend"));
        lab.join((&lab.proxy(), "uplink", "10.77.0.1/24"), (&router, "uplink", "10.77.0.2/24"));
        lab.join((&router, "far", "10.78.0.2/24"), (&host, "far", "10.78.0.9/24"));
        router.shell("echo 1 >/proc/sys/net/ipv4/ip_forward");
        lab.proxy().ip("route add 10.78.0.0/24 via 10.77.0.2");
        host.ip("route add 10.77.0.0/24 via 10.78.0.2");
        lab.proxy().shell("echo 3 >/proc/sys/net/ipv4/route/mtu_expires");
        let backend = backend(&host, "10.78.0.9");
        let name = "10.78.0.9:8125";
        let proxy = start("10.78.0.9", extra, json!("auto"));
        let load = Load::start(proxy.address);
        wait_until("packets are as long as the interface permits", || {
            proxy.column(name, "packet_bytes") == "1472"
        });
        wait_for_gso(&proxy);
        set_mtu(&router, "far", 1_400);
        wait_until("packets follow", || proxy.column(name, "packet_bytes") == "1372");
        wait_for_gso(&proxy);
        set_mtu(&router, "far", 1_500);
        wait_until("packets follow again", || proxy.column(name, "packet_bytes") == "1472");
        wait_for_gso(&proxy);
        let metrics = load.end();
        wait_until("every metric is received", || proxy.stat("metrics_received") == metrics);
        // The router has dropped what was under way, and says so; the proxy has dropped nothing.
        assert_eq!(proxy.settle()["metrics_sent"], metrics, "{:?}", proxy.stats());
        wait_until("no metric is under way", || {
            let before = backend.total();
            std::thread::sleep(Duration::from_millis(50));
            backend.total() == before && before > metrics / 2
        });
        let lost = metrics - backend.total();
        println!(
            "router: {metrics} metrics, {lost} lost on the way, {} packets undelivered, {} fragmented",
            proxy.column(name, "undelivered"),
            proxy.stat("packets_fragmented")
        );
        assert!(lost > 0 && lost < metrics / 10, "{lost} of {metrics}");
        assert_eq!(proxy.column(name, "last_error"), "EMSGSIZE");
        assert_eq!(proxy.column(name, "gso_refused"), "0");
    });
}

#[test]
fn fixed_packet_size_above_the_path_mtu_is_counted_and_reported_until_it_fits() {
    with_each_engine(|lab, extra| {
        let backend = backend(&host(lab), "10.77.0.9");
        let proxy = start("10.77.0.9", extra, json!(1_432));
        let load = Load::start(proxy.address);
        wait_for_gso(&proxy);
        assert_eq!((proxy.stat("packets_fragmented"), fragmented().0), (0, 0));
        for mtu in [1_400, 900] {
            set_mtu(&lab.proxy(), "uplink", mtu);
            let degraded = format!(
                "\ndegraded: backend {BACKEND}: packets of up to 1432 bytes exceed the path MTU, which permits {}",
                mtu - HEADERS
            );
            wait_until("it is reported", || proxy.ask("status").contains(&degraded));
            let before = (fragmented().0, proxy.stat("packets_fragmented"));
            wait_until("fragmented packets are counted", || {
                proxy.stat("packets_fragmented") >= before.1 + 500
            });
            let counted = proxy.stat("packets_fragmented") - before.1;
            let packets = fragmented().0 - before.0;
            // Both change between the two reads.
            assert!(packets.abs_diff(counted) < 250, "{counted} counted, {packets} fragmented");
        }
        assert!(proxy.ask("status").contains("maxPacketSize"), "the remedy: {}", proxy.ask("status"));
        set_mtu(&lab.proxy(), "uplink", 1_500);
        wait_until("it is no longer reported", || !proxy.ask("status").contains("degraded: backend"));
        wait_for_gso(&proxy);
        let before = proxy.stat("packets_fragmented");
        wait_for_gso(&proxy);
        let counted = proxy.stat("packets_fragmented");
        assert_eq!(counted, before, "packets fit again");
        nothing_is_lost(&proxy, load, &backend);
        let (packets, fragments) = fragmented();
        println!("fixed: {packets} packets in {fragments} fragments, {counted} counted");
        assert_eq!(proxy.column(BACKEND, "packets_fragmented"), counted.to_string());
        assert_eq!(proxy.column(BACKEND, "gso_refused"), "0");
        for (level, line) in [(" WARN ", "are sent in IP fragments"), (" INFO ", "fit the path MTU again")] {
            let log = proxy.log();
            let lines: Vec<&str> = log.lines().filter(|logged| logged.contains(line)).collect();
            assert!(lines.len() == 1 && lines[0].contains(level), "{log}");
        }
    });
}
