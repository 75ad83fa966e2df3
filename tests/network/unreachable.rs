//! Failed sends: errors from the kernel and ICMP are shown with their errno, and take down unreachable backends without an admin
//! port.

use super::backend::Backend;
use super::lab::{Lab, Namespace, with_each_engine};
use super::patience::wait_until;
use super::proxy::{Proxy, config};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};

const HERE: &str = "10.77.0.9:8125";
const ABSENT: &str = "10.77.0.50:8125";
/// Enough names for each backend to own some.
const NAMES: u64 = 60;

/// A host at 10.77.0.9 and fd77::9, joined to the proxy, which is at .1.
fn host(lab: &Lab) -> Namespace {
    let host = lab.host("backend");
    lab.join((&lab.proxy(), "uplink", "10.77.0.1/24"), (&host, "uplink", "10.77.0.9/24"));
    lab.proxy().ip("address add fd77::1/64 dev uplink nodad");
    host.ip("address add fd77::9/64 dev uplink nodad");
    host
}

fn backend(host: &Namespace, ip: &str) -> Backend {
    let ip: IpAddr = ip.parse().unwrap();
    host.within(|| Backend::start_at(ip, 8125, 8126))
}

/// A proxy with backends without admin port, with the settings of the example config.
fn start(nodes: &[&str], extra: Value) -> Proxy {
    let mut config = config(&[], extra);
    config["checkInterval"] = 1_000.into();
    config["checkFast"] = 1_000.into();
    config["checkTimeout"] = 1_000.into();
    let node = |name: &&str| {
        let (host, port) = name.rsplit_once(':').unwrap();
        json!({"host": host.trim_matches(['[', ']']), "port": port.parse::<u16>().unwrap()})
    };
    config["nodes"] = nodes.iter().map(node).collect();
    Proxy::start(config)
}

fn metrics(prefix: &str) -> Vec<String> {
    (0..NAMES).map(|number| format!("{prefix}.{number}:1|c")).collect()
}

fn sent_to(proxy: &Proxy, name: &str) -> u64 {
    proxy.column(name, "sent").parse().unwrap()
}

/// An HTTP page of the admin port.
fn page(proxy: &Proxy, path: &str) -> String {
    let mut stream = TcpStream::connect(proxy.admin).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Checks that all names are diverted to `backend`, none is lost, and the counters balance.
#[track_caller]
fn is_diverted(proxy: &mut Proxy, backend: &Backend, prefix: &str) {
    let before = backend.total();
    proxy.send(metrics(prefix));
    wait_until("every metric has arrived", || backend.total() == before + NAMES);
    let stats = proxy.settle();
    assert!(stats["metrics_diverted"] > 0, "{stats:?}");
}

#[test]
fn absent_host_is_down_until_it_answers() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let here = backend(&host, "10.77.0.9");
        let mut proxy = start(&[HERE, ABSENT], extra);
        assert_eq!(proxy.state(ABSENT), "up", "no error is known yet");
        proxy.send(metrics("first"));
        // The error arrives although nothing more is sent.
        proxy.wait_for_state(ABSENT, "down");
        wait_until("it is logged", || {
            proxy.logged("10.77.0.50:8125 is down: its host is unreachable (EHOSTUNREACH")
        });
        is_diverted(&mut proxy, &here, "second");
        // It is probed repeatedly, without metrics.
        let sent = sent_to(&proxy, ABSENT);
        assert!(sent > 0 && sent < NAMES, "{sent}");
        wait_until("it was probed several times", || {
            proxy.column(ABSENT, "since").parse::<u64>().unwrap() >= 8
        });
        is_diverted(&mut proxy, &here, "third");
        assert_eq!((sent_to(&proxy, ABSENT), proxy.state(ABSENT)), (sent, "down".to_owned()));
        host.ip("address add 10.77.0.50/24 dev uplink");
        let returned = backend(&host, "10.77.0.50");
        proxy.wait_for_state(ABSENT, "up");
        proxy.send(metrics("fourth"));
        wait_until("it receives metrics", || returned.total() > 0);
        proxy.settle();
    });
}

#[test]
fn absent_ipv6_host_is_down() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let here = backend(&host, "fd77::9");
        let mut proxy = start(&["[fd77::9]:8125", "[fd77::50]:8125"], extra);
        proxy.send(metrics("first"));
        proxy.wait_for_state("[fd77::50]:8125", "down");
        is_diverted(&mut proxy, &here, "second");
    });
}

#[test]
fn backend_without_route_is_down_until_the_route_exists() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let here = backend(&host, "10.77.0.9");
        let far = "10.99.0.9:8125";
        let mut proxy = start(&[HERE, far], extra);
        proxy.wait_for_state(far, "down");
        assert!(
            proxy.logged("10.99.0.9:8125 is down: its host is unreachable (ENETUNREACH"),
            "{}",
            proxy.log()
        );
        is_diverted(&mut proxy, &here, "first");
        assert_eq!(proxy.stat("metrics_dropped_send_failed"), 0);
        host.ip("address add 10.99.0.9/32 dev lo");
        let returned = backend(&host, "10.99.0.9");
        lab.proxy().ip("route add 10.99.0.9 via 10.77.0.9");
        proxy.wait_for_state(far, "up");
        proxy.send(metrics("second"));
        wait_until("it receives metrics", || returned.total() > 0);
        proxy.settle();
    });
}

#[test]
fn backend_whose_firewall_rejects_metrics_is_down() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let here = backend(&host, "10.77.0.9");
        host.ip("address add 10.77.0.50/24 dev uplink");
        let behind = backend(&host, "10.77.0.50");
        host.shell("nft add table ip filter");
        host.shell("nft 'add chain ip filter input { type filter hook input priority 0; }'");
        host.shell("nft add rule ip filter input ip daddr 10.77.0.50 reject with icmp type host-prohibited");
        let mut proxy = start(&[HERE, ABSENT], extra);
        let mut round = 0;
        wait_until("it is down", || {
            round += 1;
            proxy.send(metrics(&format!("round{round}")));
            proxy.state(ABSENT) == "down"
        });
        wait_until("the cause is logged", || {
            proxy.logged("a firewall on the path or at its host rejects packets")
        });
        host.shell("nft flush ruleset");
        wait_until("it receives metrics again", || {
            round += 1;
            proxy.send(metrics(&format!("round{round}")));
            behind.total() > 0
        });
        assert!(here.total() > 0);
        proxy.settle();
    });
}

#[test]
fn local_firewall_rejection_is_reported_with_remedy_and_logged_once() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let here = backend(&host, "10.77.0.9");
        let mut proxy = start(&[HERE], extra);
        assert_eq!(proxy.column(HERE, "last_error"), "-");
        lab.proxy().shell("nft add table ip filter");
        lab.proxy().shell("nft 'add chain ip filter output { type filter hook output priority 0; }'");
        lab.proxy().shell("nft add rule ip filter output ip daddr 10.77.0.9 udp dport 8125 drop");
        for round in 0..10 {
            proxy.send(metrics(&format!("round{round}")));
        }
        let dropped = proxy.settle()["metrics_dropped_send_denied"];
        assert_eq!(dropped, 10 * NAMES);
        let words = format!(
            "EPERM: a firewall rule of this host rejects packets, or its conntrack table is full \
             ({dropped} metrics dropped as send_denied); check nft list ruleset"
        );
        let status = proxy.ask("status");
        assert!(status.contains(&format!("\ndegraded: backend {HERE}: {words}")), "{status}");
        assert!(
            status.contains(&format!("\nlast_error: backend {HERE}: ")) && status.contains(&words),
            "{status}"
        );
        assert_eq!(proxy.column(HERE, "last_error"), "EPERM");
        assert!(proxy.column(HERE, "error").contains("nft list ruleset"));
        wait_until("it is logged", || proxy.logged(&format!("backend {HERE}: sends fail: EPERM: ")));
        assert_eq!(proxy.log().matches("sends fail").count(), 1, "{}", proxy.log());
        assert_eq!(
            (proxy.state(HERE), here.total()),
            ("up".to_owned(), 0),
            "a local firewall rule takes no backend down"
        );
        assert!(!proxy.logged("refuses"), "{}", proxy.log());
        lab.proxy().shell("nft flush ruleset");
        proxy.send(metrics("last"));
        wait_until("every metric has arrived", || here.total() == NAMES);
        proxy.settle();
    });
}

#[test]
fn only_econnrefused_counts_as_refused() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let mut here = backend(&host, "10.77.0.9");
        let mut proxy = start(&[HERE, ABSENT], extra);
        here.kill_data();
        let mut round = 0;
        wait_until("both are down", || {
            round += 1;
            proxy.send(metrics(&format!("round{round}")));
            [HERE, ABSENT].into_iter().all(|name| proxy.state(name) == "down")
        });
        for (name, words) in [
            (HERE, "its metrics port refuses packets (ECONNREFUSED)"),
            (
                ABSENT,
                "its host is unreachable (EHOSTUNREACH: its host, or the router to it, does not answer ARP",
            ),
        ] {
            assert!(proxy.logged(&format!("backend {name} is down: {words}")), "{}", proxy.log());
        }
        assert!(!proxy.logged(&format!("backend {ABSENT} is down: its port")), "{}", proxy.log());
        let count = |name: &str, column: &str| proxy.column(name, column).parse::<u64>().unwrap();
        assert!(count(HERE, "refused") > 0 && count(HERE, "unreachable") == 0);
        assert!(count(ABSENT, "refused") == 0 && count(ABSENT, "undelivered") > 0);
        assert_eq!(
            [HERE, ABSENT].map(|name| proxy.column(name, "last_error")),
            ["ECONNREFUSED", "EHOSTUNREACH"]
        );
        // Metrics counted as sent remain so.
        proxy.settle();
        let json: Value = serde_json::from_str(&page(&proxy, "/stats.json")).unwrap();
        assert_eq!(json["backends"][1]["errors"][0]["cause"], "no_neighbor", "{json}");
        let text = page(&proxy, "/metrics");
        let labels = format!("{{backend=\"{HERE}\",errno=\"ECONNREFUSED\",cause=\"refused\"}}");
        assert!(text.contains(&format!("statsring_backend_send_errors_total{labels} ")), "{text}");
    });
}
