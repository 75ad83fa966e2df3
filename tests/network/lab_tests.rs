//! Tests of the lab: metrics reach a backend in another namespace, and nothing remains afterwards.

use super::backend::Backend;
use super::lab::{Lab, Namespace, in_lab, with_each_engine};
use super::patience::{PATIENCE, wait_until};
use super::proxy::{Proxy, config};
use serde_json::json;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;

const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);

/// A host at 10.77.0.9, joined to the proxy at 10.77.0.1.
fn host(lab: &Lab) -> Namespace {
    let host = lab.host("backend");
    lab.join((&lab.proxy(), "uplink", "10.77.0.1/24"), (&host, "uplink", "10.77.0.9/24"));
    host
}

#[test]
fn metrics_and_checks_reach_a_backend_in_another_namespace() {
    with_each_engine(|lab, extra| {
        let host = host(lab);
        let backend = host.within(|| Backend::start_at(BACKEND, 8125, 8126));
        let mut config = config(&[], extra);
        config["nodes"] = json!([{"host": "10.77.0.9", "port": 8125, "adminport": 8126}]);
        let mut proxy = Proxy::start(config);
        proxy.send((0..100).map(|number| format!("name.{number}:1|c\n")));
        wait_until("every metric has arrived", || backend.total() == 100);
        assert!(backend.sources().iter().all(|source| source.ip() == Ipv4Addr::new(10, 77, 0, 1)));
        wait_until("a health check was made", || backend.asked() > 0);
        assert_eq!(proxy.settle()["metrics_sent"], 100);
    });
}

#[test]
fn proxy_can_have_its_own_etc_hosts() {
    in_lab(|lab| {
        let host = host(lab);
        let backend = host.within(|| Backend::start_at(BACKEND, 8125, 8126));
        let hosts = lab.file("hosts", "10.77.0.9 metrics.test\n");
        let mut config = config(&[], json!({}));
        config["nodes"] = json!([{"host": "metrics.test", "port": 8125, "adminport": 8126}]);
        let mut proxy = lab.start_with_files(config, &[(&hosts, "/etc/hosts")]);
        proxy.wait_for_state("metrics.test:8125", "up");
        proxy.send(["name:1|c\n"]);
        wait_until("the metric has arrived", || backend.total() == 1);
    });
}

#[test]
fn lab_is_removed_even_if_the_test_panics() {
    let mut names = Vec::new();
    for is_failing in [false, true] {
        let mut seen = None;
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            in_lab(|lab| {
                seen = Some(host(lab).name);
                assert!(!is_failing, "as planned");
            });
        }));
        assert_eq!(ended.is_err(), is_failing && seen.is_some());
        names.extend(seen);
    }
    for name in names {
        assert!(!Path::new("/run/netns").join(&name).exists(), "{name} still exists");
    }
}

#[test]
fn flow_to_a_service_address_keeps_its_pod() {
    in_lab(|lab| {
        let host = host(lab);
        host.ip("address add 10.77.0.10/24 dev uplink");
        let pods = [9, 10].map(|last| {
            let socket = host.within(|| UdpSocket::bind((Ipv4Addr::new(10, 77, 0, last), 8125)).unwrap());
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        let received = |pod: &UdpSocket| {
            let mut buffer = [0; 64];
            let length = pod.recv(&mut buffer).unwrap();
            buffer[..length].to_vec()
        };
        let service = lab.service("10.96.0.1");
        service.lead_to("10.77.0.9");
        let connect = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.96.0.1:8125").unwrap();
            socket
        };
        let old = connect();
        old.send(b"first").unwrap();
        assert_eq!(received(&pods[0]), b"first");
        service.lead_to("10.77.0.10");
        old.send(b"second").unwrap();
        connect().send(b"third").unwrap();
        assert_eq!((received(&pods[0]), received(&pods[1])), (b"second".to_vec(), b"third".to_vec()));
    });
}
