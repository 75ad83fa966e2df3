//! Sockets to backends when addresses and routes change, and when pods behind service addresses are replaced.

use super::backend::Backend;
use super::lab::{Lab, Namespace, with_each_engine};
use super::patience::wait_until;
use super::proxy::{Proxy, config};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Short, for a quick test.
const CHECK_INTERVAL_MS: u64 = 300;

/// A proxy with one backend at port 8125, with health checks on port 8126 if `is_checked`.
fn start(extra: &Value, host: &str, is_checked: bool, more: Value) -> Proxy {
    let mut node = json!({"host": host, "port": 8125});
    if is_checked {
        node["adminport"] = json!(8126);
    }
    let mut config = config(&[], extra.clone());
    config["nodes"] = json!([node]);
    config["checkInterval"] = json!(CHECK_INTERVAL_MS);
    config["checkTimeout"] = json!(CHECK_INTERVAL_MS);
    // Delays of a busy machine are not outages.
    config["checkFall"] = json!(100);
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    Proxy::start_with(config, &["-d"])
}

fn send(proxy: &mut Proxy, phase: &str, count: usize) {
    proxy.send((0..count).map(|number| format!("{phase}.{number}:1|c\n")));
}

/// The source addresses seen by a backend.
fn sources(backend: &Backend) -> BTreeSet<IpAddr> {
    backend.sources().into_iter().map(|source| source.ip()).collect()
}

/// Sends until the backend has received a metric from `source`.
#[track_caller]
fn wait_for_source(proxy: &mut Proxy, backend: &Backend, source: &str) {
    let source: IpAddr = source.parse().unwrap();
    wait_until(&format!("the backend has received something from {source}"), || {
        send(proxy, "more", 1);
        sources(backend).contains(&source)
    });
}

/// A host joined to the proxy, each with an address and prefix length.
fn neighbor(lab: &Lab, here: &str, there: &str) -> Namespace {
    let host = lab.host("backend");
    lab.join((&lab.proxy(), "uplink", here), (&host, "uplink", there));
    host
}

#[test]
fn address_change_of_this_host_loses_nothing() {
    with_each_engine(|lab, extra| {
        let host = neighbor(lab, "10.77.0.1/24", "10.77.0.9/24");
        let ip: IpAddr = "10.77.0.9".parse().unwrap();
        let backend = host.within(|| Backend::start_at(ip, 8125, 8126));
        for is_checked in [true, false] {
            let mut proxy = start(&extra, "10.77.0.9", is_checked, json!({}));
            send(&mut proxy, "before", 50);
            wait_until("every metric has arrived", || backend.total() == 50);
            // The first failed check takes a backend down, so wait for a good one.
            let asked = backend.asked();
            wait_until("a check has succeeded", || !is_checked || backend.asked() >= asked + 2);
            lab.proxy().ip("address delete 10.77.0.1/24 dev uplink");
            lab.proxy().ip("address add 10.77.0.2/24 dev uplink");
            send(&mut proxy, "after", 50);
            wait_until("all metrics have arrived", || backend.total() == 100);
            let stats = proxy.settle();
            assert_eq!((stats["metrics_sent"], stats["metrics_received"]), (100, 100), "{stats:?}");
            assert_eq!(sources(&backend).len(), 2);
            assert!(
                stats["sockets_reopened"] >= 1 && proxy.column("10.77.0.9:8125", "sockets_reopened") != "0"
            );
            backend.forget();
            lab.proxy().ip("address delete 10.77.0.2/24 dev uplink");
            lab.proxy().ip("address add 10.77.0.1/24 dev uplink");
        }
    });
}

#[test]
fn ipv6_source_address_follows_a_change() {
    with_each_engine(|lab, extra| {
        let host = neighbor(lab, "fd77::1/64", "fd77::9/64");
        let ip: IpAddr = "fd77::9".parse().unwrap();
        let backend = host.within(|| Backend::start_at(ip, 8125, 8126));
        let mut proxy = start(&extra, "fd77::9", false, json!({}));
        wait_for_source(&mut proxy, &backend, "fd77::1");
        // The kernel continues to send from a removed address.
        lab.proxy().ip("address add fd77::2/64 dev uplink nodad");
        lab.proxy().ip("address delete fd77::1/64 dev uplink");
        wait_for_source(&mut proxy, &backend, "fd77::2");
    });
}

#[test]
fn metrics_follow_a_route_change() {
    with_each_engine(|lab, extra| {
        let host = neighbor(lab, "10.77.0.1/24", "10.77.0.9/24");
        lab.join((&lab.proxy(), "second", "10.78.0.1/24"), (&host, "second", "10.78.0.9/24"));
        host.ip("address add 10.99.0.9/32 dev lo");
        // Strict reverse path filtering drops packets that arrive on another interface than the reply would use.
        host.shell("for name in all uplink second; do echo 1 >/proc/sys/net/ipv4/conf/$name/rp_filter; done");
        lab.proxy().ip("route add 10.99.0.9 via 10.77.0.9");
        let ip: IpAddr = "10.99.0.9".parse().unwrap();
        let backend = host.within(|| Backend::start_at(ip, 8125, 8126));
        for is_checked in [true, false] {
            let mut proxy = start(&extra, "10.99.0.9", is_checked, json!({}));
            wait_for_source(&mut proxy, &backend, "10.77.0.1");
            lab.proxy().ip("route replace 10.99.0.9 via 10.78.0.9");
            wait_for_source(&mut proxy, &backend, "10.78.0.1");
            proxy.settle();
            lab.proxy().ip("route replace 10.99.0.9 via 10.77.0.9");
            backend.forget();
        }
    });
}

/// Two pods, of which the first serves 10.96.0.1.
fn pods(lab: &Lab) -> (super::lab::Service, [Backend; 2]) {
    let host = neighbor(lab, "10.77.0.1/24", "10.77.0.9/24");
    host.ip("address add 10.77.0.10/24 dev uplink");
    let pods = ["10.77.0.9", "10.77.0.10"].map(|ip| {
        let ip: IpAddr = ip.parse().unwrap();
        host.within(|| Backend::start_at(ip, 8125, 8126))
    });
    let service = lab.service("10.96.0.1");
    service.lead_to("10.77.0.9");
    (service, pods)
}

#[test]
fn replacement_pod_of_a_service_gets_metrics() {
    with_each_engine(|lab, extra| {
        let (service, pods) = pods(lab);
        let mut proxy = start(&extra, "10.96.0.1", true, json!({"reopenInterval": 0}));
        send(&mut proxy, "before", 10);
        wait_until("the first pod has received them", || pods[0].total() == 10);
        service.lead_to("10.77.0.10");
        // The flow keeps its pod as long as the socket is the same.
        send(&mut proxy, "stale", 10);
        wait_until("the first pod has received these, too", || pods[0].total() == 20);
        proxy.config.json["reopenInterval"] = json!(1000);
        proxy.config.write();
        let answer = proxy.ask("reload");
        assert!(answer.contains("reopenInterval: 0 -> 1000"), "{answer}");
        wait_until("the second pod gets metrics", || {
            send(&mut proxy, "after", 1);
            pods[1].total() > 0
        });
        assert_eq!(proxy.state("10.96.0.1:8125"), "up", "each check opens a new connection");
        assert!(proxy.logged("backend 10.96.0.1:8125: socket reopened: reopenInterval"), "{}", proxy.log());
    });
}

#[test]
fn refusing_pod_is_replaced_at_once() {
    with_each_engine(|lab, extra| {
        let (service, mut pods) = pods(lab);
        let mut proxy = start(&extra, "10.96.0.1", true, json!({"reopenInterval": 0}));
        send(&mut proxy, "before", 10);
        wait_until("the first pod has received them", || pods[0].total() == 10);
        service.lead_to("10.77.0.10");
        pods[0].kill();
        wait_until("the second pod gets metrics", || {
            send(&mut proxy, "after", 1);
            pods[1].total() > 0
        });
    });
}

#[test]
fn recovered_backend_gets_a_new_socket() {
    with_each_engine(|lab, extra| {
        let (service, mut pods) = pods(lab);
        let mut proxy = start(&extra, "10.96.0.1", true, json!({"reopenInterval": 0, "checkFall": 2}));
        send(&mut proxy, "before", 10);
        wait_until("the first pod has received them", || pods[0].total() == 10);
        pods[0].kill_admin();
        proxy.wait_for_state("10.96.0.1:8125", "down");
        service.lead_to("10.77.0.10");
        proxy.wait_for_state("10.96.0.1:8125", "up");
        send(&mut proxy, "after", 10);
        wait_until("the second pod has received them", || pods[1].total() == 10);
    });
}
