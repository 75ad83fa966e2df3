//! Backends with several addresses of which one is unresponsive, and addresses that move to this host.

use crate::backend::Backend;
use crate::descriptors::{give_back, take_all};
use crate::lab::{Lab, Namespace, in_lab, with_each_engine};
use crate::patience::wait_until;
use crate::proxy::{ConfigFile, PROGRAM, Proxy, config, free_ports};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::Duration;

const ALIVE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 9);
/// Another address of that host.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 10);

/// A host at [`ALIVE`] and [`OTHER`].
fn host(lab: &Lab) -> Namespace {
    let host = lab.host("backend");
    lab.join((&lab.proxy(), "uplink", "10.77.0.1/24"), (&host, "uplink", "10.77.0.9/24"));
    host.ip("address add 10.77.0.10/24 dev uplink");
    host
}

/// Makes `host` silently drop packets to `ip`.
fn drop_silently(host: &Namespace, ip: Ipv4Addr) {
    host.shell("nft add table ip filter");
    host.shell("nft 'add chain ip filter input { type filter hook input priority 0; }'");
    host.shell(&format!("nft add rule ip filter input ip daddr {ip} drop"));
}

/// A config with the backend `two.test`.
fn two(extra: Value, adminport: Option<u16>) -> Value {
    let mut config = config(&[], extra);
    config["nodes"] = json!([{"host": "two.test", "port": 8125, "adminport": adminport}]);
    config
}

#[test]
fn unresponsive_address_is_replaced_by_one_that_answers_checks() {
    with_each_engine(|lab, mut extra| {
        let host = host(lab);
        let backend = host.within(|| Backend::start_at(Ipv4Addr::UNSPECIFIED, 8125, 8126));
        drop_silently(&host, ALIVE);
        let files = lab.file("hosts", &format!("{ALIVE} two.test\n{OTHER} two.test\n"));
        extra["checkTimeout"] = 2_000.into();
        let mut proxy = lab.start_with_files(two(extra, Some(8126)), &[(&files, "/etc/hosts")]);
        wait_until("the responding address is used", || {
            proxy.column("two.test:8125", "address") == format!("{OTHER}:8125")
        });
        let message = format!("switched to {OTHER}:8125: it answers the checks, {ALIVE}:8125 does not");
        wait_until("it is logged", || proxy.logged(&message));
        assert_eq!(proxy.state("two.test:8125"), "up");
        assert!(!proxy.logged("is down"), "one check covers both addresses: {}", proxy.log());
        proxy.send((0..200).map(|number| format!("name.{number}:1|c\n")));
        wait_until("every metric has arrived", || backend.total() == 200);
    });
}

#[test]
fn address_that_stops_answering_is_replaced_after_check_fall() {
    in_lab(|lab| {
        let host = host(lab);
        let backend = host.within(|| Backend::start_at(Ipv4Addr::UNSPECIFIED, 8125, 8126));
        let files = lab.file("hosts", &format!("{ALIVE} two.test\n{OTHER} two.test\n"));
        let quick = json!({"checkInterval": 500, "checkTimeout": 500, "checkFast": 100});
        let mut proxy = lab.start_with_files(two(quick, Some(8126)), &[(&files, "/etc/hosts")]);
        wait_until("it is checked twice", || backend.asked() > 1);
        assert_eq!(proxy.column("two.test:8125", "address"), format!("{ALIVE}:8125"));
        drop_silently(&host, ALIVE);
        wait_until("the other address is used", || {
            proxy.column("two.test:8125", "address") == format!("{OTHER}:8125")
        });
        assert!(!proxy.logged("is down"), "{}", proxy.log());
        proxy.send((0..200).map(|number| format!("name.{number}:1|c\n")));
        wait_until("every metric has arrived", || backend.total() == 200);
    });
}

/// A proxy that listens on all addresses, with a backend at `ip` and its own port.
fn start_with_own_port(ip: IpAddr) -> Proxy {
    let (port, admin_port) = free_ports();
    let mut json = config(&[], json!({"host": "*", "port": port, "managementPort": admin_port}));
    json["nodes"] = json!([{"host": ip.to_string(), "port": port}]);
    let config = ConfigFile::new(json);
    let mut command = Command::new(PROGRAM);
    command.arg("-f").arg(&config.path);
    Proxy::spawn(config, port, admin_port, command)
}

#[test]
fn backend_at_an_address_of_this_host_is_refused_at_start() {
    in_lab(|lab| {
        lab.proxy().ip("address add 10.9.9.9/32 dev lo");
        lab.proxy().ip("address add 2001:db8::9/128 dev lo");
        for ip in ["10.9.9.9", "2001:db8::9"] {
            let mut proxy = start_with_own_port(ip.parse().unwrap());
            assert_eq!(proxy.exit_code(), 64, "{}", proxy.log());
            assert!(proxy.logged("metrics would loop"), "{}", proxy.log());
            let check =
                Command::new(PROGRAM).arg("--check").arg("-f").arg(proxy.config_path()).output().unwrap();
            let notices = String::from_utf8_lossy(&check.stderr);
            let notice = "would not start on this host: nodes[0]: ";
            assert!(check.status.success() && notices.contains(notice), "{notices}");
        }
        // On a device that is down, like kube-proxy's service addresses, which lead elsewhere.
        lab.proxy().ip("link add services type veth peer name pods");
        lab.proxy().ip("address add 10.96.0.10/32 dev services");
        let mut proxy = start_with_own_port("10.96.0.10".parse().unwrap());
        assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
    });
}

#[test]
fn backend_address_moving_to_this_host_does_not_loop() {
    in_lab(|lab| {
        let host = host(lab);
        let mut proxy = start_with_own_port(ALIVE.into());
        assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
        let port = proxy.address.port();
        let backend = host.within(|| Backend::start_at(ALIVE, port, 0));
        proxy.send(["before:1|c"]);
        wait_until("the metric arrives", || backend.total() == 1);
        // Like keepalived moving it here.
        host.ip("address del 10.77.0.9/24 dev uplink");
        lab.proxy().ip("address add 10.77.0.9/32 dev uplink");
        let name = format!("{ALIVE}:{port}");
        proxy.wait_for_state(&name, "own_address");
        let before = proxy.stat("metrics_received");
        proxy.send((0..100).map(|number| format!("name.{number}:1|c")));
        assert_eq!(proxy.settle()["metrics_received"] - before, 100, "metrics looped");
        // Own addresses are polled every ten seconds; a poll without a descriptor changes nothing.
        let limit = take_all(proxy.pid());
        std::thread::sleep(Duration::from_secs(12));
        give_back(proxy.pid(), limit);
        assert_eq!(proxy.state(&name), "own_address");
        // And back.
        lab.proxy().ip("address del 10.77.0.9/32 dev uplink");
        host.ip("address add 10.77.0.9/24 dev uplink");
        proxy.wait_for_state(&name, "up");
        proxy.send(["after:1|c"]);
        wait_until("the metric arrives", || backend.total() == 2);
    });
}
