//! Backends by name: several addresses, unresponsive name servers, addresses of this host. Process tests with private `/etc`
//! files.
//!
//! All tests wait for conditions and use free loopback ports.

#[path = "process/backend.rs"]
#[allow(dead_code, reason = "shared with tests/backends.rs, which uses more of it")]
mod backend;
#[path = "process/etc.rs"]
mod etc;
#[path = "process/patience.rs"]
mod patience;
#[path = "process/proxy.rs"]
#[allow(dead_code, reason = "shared with tests/process.rs, which uses more of it")]
mod proxy;
#[path = "process/skip.rs"]
mod skip;

use backend::Backend;
use etc::Etc;
use patience::wait_until;
use proxy::{ConfigFile, Proxy, config, free_ports};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

/// Names that are resolved by an unresponsive name server.
const SILENT_NAMES: usize = 24;

/// A name server on a loopback address.
struct NameServer {
    socket: UdpSocket,
    address: String,
}

impl NameServer {
    /// A server that never answers. `None` where port 53 cannot be bound; the test is skipped then.
    fn silent() -> Option<NameServer> {
        let mut refused = None;
        for ip in (1..255).map(|last| Ipv4Addr::new(127, 53, 53, last)) {
            match UdpSocket::bind((ip, 53)) {
                Ok(socket) => return Some(NameServer { socket, address: ip.to_string() }),
                Err(error) => refused = Some(error),
            }
        }
        skip::skip_unprivileged(format_args!("cannot start a name server: {refused:?}"));
        None
    }

    /// Answers every query with this address from now on.
    fn answer(&self, ip: Ipv4Addr) {
        let socket = self.socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut room = [0; 512];
            while let Ok((length, client)) = socket.recv_from(&mut room) {
                let _ = socket.send_to(&answered(&room[..length], ip), client);
            }
        });
    }
}

/// The response to a query: this address, or none for another family (RFC 1035, section 4).
fn answered(question: &[u8], ip: Ipv4Addr) -> Vec<u8> {
    // The header has 12 bytes; the name ends with an empty label; type and class follow.
    let name_bytes = question[12..].iter().position(|byte| *byte == 0).unwrap_or(0) + 1;
    let end = 12 + name_bytes + 4;
    let is_ipv4 = question[end - 3] == 1;
    let mut answer = question[..end].to_vec();
    // A response with recursion: one question, the number of answers, nothing more.
    answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
    if is_ipv4 {
        // Name at offset 12, type A, class IN, TTL 60 s, four bytes.
        answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend_from_slice(&ip.octets());
    }
    answer
}

/// `/etc/hosts` of most hosts.
const LOCALHOST: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// A config file in statsring's or `proxy.js`'s format.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    ProxyJs,
}

/// Starts the proxy with one node, a JSON object, and short check intervals.
fn start(etc: &Etc, form: Form, node: &Value) -> Proxy {
    let quick = json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50, "nodes": [node]});
    match form {
        Form::Json => Proxy::start_by(config(&[], quick), |path| etc.proxy(path)),
        // The key `log` makes it a proxy.js config.
        Form::ProxyJs => {
            let more = json!({"log": {}, "hashing": "hashring-3"});
            let mut json = config(&[], quick);
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json["address"] = json["host"].clone();
            Proxy::start_by(json, |path| etc.proxy(path))
        }
    }
}

/// Sends 200 metrics whose names begin with `prefix`; none may be lost.
#[track_caller]
fn every_metric_arrives(proxy: &mut Proxy, backend: &Backend, prefix: &str) {
    let arrived = || {
        let lines = backend.lines();
        let of_prefix = lines.iter().filter(|(line, _)| line.starts_with(&format!("{prefix}.")));
        of_prefix.map(|(_, times)| times).sum::<u64>()
    };
    let before = arrived();
    proxy.send((0..200).map(|number| format!("{prefix}.{number}:1|c")));
    wait_until("every metric arrives", || arrived() == before + 200);
    proxy.settle();
}

/// Combinations of config format and node for `backend` at `host`: with and without `adminport`.
fn variants(host: &str, backend: &Backend) -> impl Iterator<Item = (Form, Value)> {
    let bare = json!({"host": host, "port": backend.port});
    let checked = json!({"host": host, "port": backend.port, "adminport": backend.adminport});
    [Form::Json, Form::ProxyJs]
        .into_iter()
        .flat_map(move |form| [(form, bare.clone()), (form, checked.clone())])
}

#[test]
fn localhost_finds_an_ipv4_only_server() {
    let Some(etc) = Etc::new(LOCALHOST) else { return };
    let backend = Backend::start();
    for (form, node) in variants("localhost", &backend) {
        let mut proxy = start(&etc, form, &node);
        every_metric_arrives(&mut proxy, &backend, "localhost");
        let name = format!("localhost:{}", backend.port);
        assert_eq!(proxy.state(&name), "up", "{form:?} {node}");
    }
}

#[test]
fn the_answering_address_of_two_is_used() {
    let dead = Ipv4Addr::new(127, 0, 0, 2);
    let alive = Ipv4Addr::new(127, 0, 0, 3);
    let Some(etc) = Etc::new(&format!("{dead} two.statsring.test\n{alive} two.statsring.test\n")) else {
        return;
    };
    let backend = Backend::start_at(alive, 0, 0);
    for (form, node) in variants("two.statsring.test", &backend) {
        let mut proxy = start(&etc, form, &node);
        every_metric_arrives(&mut proxy, &backend, "two");
        let name = format!("two.statsring.test:{}", backend.port);
        assert_eq!(proxy.column(&name, "address"), format!("{alive}:{}", backend.port), "{form:?} {node}");
    }
}

#[test]
fn unanswered_lookups_do_not_delay_other_names() {
    let Some(silent) = NameServer::silent() else { return };
    let mut here = Backend::start();
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let mut there = Backend::start_at(other, here.port, here.adminport);
    there.kill();
    let hosts = |ip: &str| format!("127.0.0.1 localhost\n{ip} known.statsring.test\n");
    let Some(etc) = Etc::new(&hosts("127.0.0.1")) else { return };
    etc.set_name_server(&silent.address);
    let mut json = config(&[&here], json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50}));
    let mut nodes: Vec<_> = (0..SILENT_NAMES)
        .map(|number| json!({"host": format!("silent{number}.statsring.test"), "port": 9}))
        .collect();
    nodes.push(json!({"host": "known.statsring.test", "port": here.port, "adminport": here.adminport}));
    json["nodes"] = nodes.into();
    let mut proxy = Proxy::start_by(json, |path| etc.proxy(path));
    let name = format!("known.statsring.test:{}", here.port);
    // An unanswered lookup takes longer than this wait: names must not wait for each other.
    proxy.wait_for_state(&name, "up");
    proxy.send((0..100).map(|number| format!("silent.{number}:1|c")));
    wait_until("every metric arrives", || here.total() == 100);
    // Address changes are followed as well.
    there.restore();
    etc.set_hosts(&hosts(&other.to_string()));
    here.kill();
    wait_until("the address change is followed", || {
        proxy.logged(&format!("backend {name} is at {other}:{}", here.port))
    });
    proxy.wait_for_state(&name, "up");
    proxy.send((0..100).map(|number| format!("moved.{number}:1|c")));
    wait_until("every metric arrives at the new address", || there.total() == 100);
    assert_eq!(proxy.state("silent0.statsring.test:9"), "unresolved");
    let stats = proxy.settle();
    assert_eq!(stats["metrics_sent"], 200, "{stats:?}");
}

#[test]
fn address_changes_are_followed_and_failed_lookups_keep_the_last() {
    let hosts = |ip: &str| format!("127.0.0.1 localhost\n{ip} moving.statsring.test\n");
    let Some(etc) = Etc::new(&hosts("127.0.0.1")) else { return };
    let mut here = Backend::start();
    let node = json!({"host": "moving.statsring.test", "port": here.port, "adminport": here.adminport});
    let mut json = config(&[&here], json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50}));
    json["nodes"] = json!([node]);
    let mut proxy = Proxy::start_by(json, |path| etc.proxy(path));
    let name = format!("moving.statsring.test:{}", here.port);
    proxy.wait_for_state(&name, "up");
    proxy.send(["first:1|c"]);
    wait_until("the metric arrives at the first address", || here.total() == 1);

    let mut there = Backend::start_at(Ipv4Addr::new(127, 0, 0, 2), here.port, here.adminport);
    etc.set_hosts(&hosts("127.0.0.2"));
    here.kill();
    wait_until("the address change is followed", || {
        proxy.logged(&format!("backend {name} is at 127.0.0.2:{}", there.port))
    });
    proxy.wait_for_state(&name, "up");
    proxy.send(["second:1|c"]);
    wait_until("the metric arrives at the second address", || there.total() == 1);

    etc.set_hosts("127.0.0.1 localhost\n");
    there.kill();
    proxy.wait_for_state(&name, "down");
    wait_until("the failed lookup is logged", || {
        proxy.logged("does not resolve") && proxy.logged("keeping its last address")
    });
    there.restore();
    proxy.wait_for_state(&name, "up");
    proxy.send(["third:1|c"]);
    wait_until("the metric arrives at the second address", || there.total() == 2);
    proxy.settle();
}

#[test]
fn name_resolved_after_start_is_served() {
    let Some(server) = NameServer::silent() else { return };
    let Some(etc) = Etc::new(LOCALHOST) else { return };
    // The lookup is repeated after a second.
    etc.set_resolver(&format!("nameserver {}\noptions timeout:1 attempts:5\n", server.address));
    let backend = Backend::start();
    let node = json!({"host": "late.statsring.test", "port": backend.port, "adminport": backend.adminport});
    let mut proxy = start(&etc, Form::Json, &node);
    let name = format!("late.statsring.test:{}", backend.port);
    assert_eq!(proxy.state(&name), "unresolved");
    server.answer(Ipv4Addr::LOCALHOST);
    proxy.wait_for_state(&name, "up");
    every_metric_arrives(&mut proxy, &backend, "late");
}

#[test]
fn failed_address_is_replaced_by_the_next_and_reported() {
    let (one, two) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let hosts = format!("{one} two.statsring.test\n{two} two.statsring.test\n");
    let Some(etc) = Etc::new(&hosts) else { return };
    for (has_adminport, engine) in [(false, "auto"), (false, "portable"), (true, "auto")] {
        let mut first = Backend::start_at(one, 0, 0);
        let second = Backend::start_at(two, first.port, first.adminport);
        let mut node = json!({"host": "two.statsring.test", "port": first.port});
        if has_adminport {
            node["adminport"] = first.adminport.into();
        }
        let quick = json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50});
        let mut json = config(&[], quick);
        (json["nodes"], json["engine"]) = (json!([node]), engine.into());
        let mut proxy = Proxy::start_by(json, |path| etc.proxy(path));
        let name = format!("two.statsring.test:{}", first.port);
        let (from, to) = (format!("{one}:{}", first.port), format!("{two}:{}", first.port));
        every_metric_arrives(&mut proxy, &first, "before");
        first.kill();
        let before = proxy.stat("metrics_sent");
        proxy.send((0..200).map(|number| format!("after.{number}:1|c")));
        wait_until("the second address is in use", || proxy.column(&name, "address") == to);
        wait_until("it is logged", || proxy.logged(&format!("backend {name}: switched to {to}: {from}")));
        let stats = proxy.settle();
        assert_eq!(stats["metrics_sent"] - before, 200, "metrics were dropped: {stats:?}");
        assert_eq!(proxy.state(&name), "up");
        assert!(!proxy.logged("is down"), "{}", proxy.log());
        let status = proxy.status("backend");
        assert!(status.starts_with(&format!("{name} metrics sent to {to}")), "{status}");
        // The address persists over a reload and a restart.
        proxy.config.json["flushInterval"] = 7.into();
        proxy.config.write();
        assert!(proxy.ask("reload").starts_with("reloaded: "));
        every_metric_arrives(&mut proxy, &second, "reloaded");
        proxy.restart();
        assert_eq!(proxy.column(&name, "address"), to);
        every_metric_arrives(&mut proxy, &second, "restarted");
        // When the server returns to the first address, metrics follow.
        first.restore();
        drop(second);
        proxy.send((0..200).map(|number| format!("back.{number}:1|c")));
        wait_until("the first address is in use", || proxy.column(&name, "address") == from);
        every_metric_arrives(&mut proxy, &first, "home");
    }
}

#[test]
fn metrics_and_checks_may_use_different_address_families() {
    let Some(etc) = Etc::new(LOCALHOST) else { return };
    let mut backend = Backend::start();
    backend.move_admin(Ipv6Addr::LOCALHOST);
    let node = json!({"host": "localhost", "port": backend.port, "adminport": backend.adminport});
    let name = format!("localhost:{}", backend.port);
    let four = format!("127.0.0.1:{}", backend.port);
    for form in [Form::Json, Form::ProxyJs] {
        let mut proxy = start(&etc, form, &node);
        let asked = backend.asked();
        wait_until("it is checked twice", || backend.asked() > asked + 2);
        // The address that answers checks may be tried for metrics once, and is left when it refuses.
        wait_until("metrics go to IPv4", || {
            proxy.send(["probe:1|c"]);
            proxy.column(&name, "address") == four
        });
        let asked = backend.asked();
        wait_until("it is checked again", || backend.asked() > asked + 2);
        every_metric_arrives(&mut proxy, &backend, "mixed");
        assert_eq!(proxy.column(&name, "address"), four);
        assert_eq!(proxy.column(&name, "health"), "up", "{form:?}");
    }
}

#[test]
fn address_family_key_is_respected() {
    let hosts = "127.0.0.1 both.statsring.test\n::1 both.statsring.test six.statsring.test\n";
    let Some(etc) = Etc::new(hosts) else { return };
    let backend = Backend::start();
    let starts = |host: &str, more: Value| {
        let mut json = config(&[], json!({"nodes": [{"host": host, "port": backend.port}]}));
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Proxy::start_by(json, |path| etc.proxy(path))
    };
    let address = |proxy: &Proxy, host: &str| proxy.column(&format!("{host}:{}", backend.port), "address");
    let six = format!("[::1]:{}", backend.port);
    let proxy_js = |ipv6: bool| {
        let words = "statsring";
        json!({"log": {}, "hashing": "hashring-3", "address_ipv6": ipv6, "address": "127.0.0.1", "managementDialect": words})
    };
    let both = "both.statsring.test";
    assert_eq!(address(&starts(both, json!({"addressFamily": "ipv6"})), both), six);
    assert_eq!(address(&starts(both, proxy_js(true)), both), six);
    let only_six = "six.statsring.test";
    for more in [json!({"addressFamily": "ipv4"}), proxy_js(false)] {
        let mut proxy = starts(only_six, more);
        assert_eq!(proxy.state(&format!("{only_six}:{}", backend.port)), "unresolved");
        let why = "resolves only to ::1, but addressFamily is ipv4: it is considered down";
        wait_until("the cause is logged", || proxy.logged(why));
        // A reload lifts the restriction.
        proxy.config.json["addressFamily"] = "any".into();
        proxy.config.write();
        assert!(proxy.ask("reload").contains(r#"addressFamily: "ipv4" -> "any""#));
        assert_eq!(address(&proxy, only_six), six);
    }
}

/// A config that listens on all addresses.
fn listening_everywhere(nodes: Value) -> Value {
    config(&[], json!({"host": "0.0.0.0", "nodes": nodes}))
}

/// Starts a proxy that must refuse to start; returns exit code and message. `node` is called with the proxy's port.
fn refused_start(etc: &Etc, node: impl Fn(u16) -> Value) -> (i32, String) {
    let (port, admin_port) = free_ports();
    let mut json = listening_everywhere(json!([node(port)]));
    (json["port"], json["managementPort"]) = (port.into(), admin_port.into());
    let config = ConfigFile::new(json);
    let command = etc.proxy(&config.path);
    let mut proxy = Proxy::spawn(config, port, admin_port, command);
    (proxy.exit_code(), proxy.log())
}

#[test]
fn backend_at_own_address_is_refused_at_start() {
    let hosts = "127.0.1.1 own.statsring.test alias.statsring.test\n127.0.0.1 localhost\n";
    let Some(etc) = Etc::new(hosts) else { return };
    let disabled = |host: &str, port: u16| json!({"host": host, "port": port, "disabled": true});
    for (host, code, message) in [
        ("127.0.0.9", 64, "127.0.0.9:PORT is this proxy's own address"),
        ("::ffff:127.0.0.9", 64, "is this proxy's own address"),
        (
            "own.statsring.test",
            71,
            "own.statsring.test:PORT resolves to 127.0.1.1:PORT, which is this proxy's own address",
        ),
        ("alias.statsring.test", 71, "alias.statsring.test:PORT resolves to 127.0.1.1:PORT"),
    ] {
        let port = std::cell::Cell::new(0);
        let (found, log) = refused_start(&etc, |own| {
            port.set(own);
            json!({"host": host, "port": own})
        });
        let message = message.replace("PORT", &port.get().to_string());
        assert!(
            found == code && log.contains("nodes[0]: ") && log.contains(&message),
            "{host}: {found} {log}"
        );
        assert!(log.contains("metrics would loop"), "{log}");
    }
    // A disabled backend and another port of this host are accepted.
    let backend = Backend::start();
    let nodes = json!([disabled("127.0.0.9", backend.port), {"host": "own.statsring.test", "port": 9}]);
    let proxy = Proxy::start_by(listening_everywhere(nodes), |path| etc.proxy(path));
    assert_eq!(proxy.state("own.statsring.test:9"), "up");
}

#[test]
fn reloads_and_lookups_to_own_address_do_not_loop() {
    let hosts = |ips: &[&str]| {
        let lines: String = ips.iter().map(|ip| format!("{ip} moving.statsring.test\n")).collect();
        format!("127.0.0.1 localhost\n{lines}")
    };
    let Some(etc) = Etc::new(&hosts(&["127.0.0.2"])) else { return };
    let backend = Backend::start();
    // It listens on one address only; another address of this host has a server at the same port.
    let (port, admin_port) = free_ports();
    let there = Backend::start_at(Ipv4Addr::new(127, 0, 0, 2), port, 0);
    let adminport = there.adminport;
    let nodes = json!([
        {"host": "127.0.0.1", "port": backend.port},
        {"host": "moving.statsring.test", "port": port, "adminport": adminport},
    ]);
    let quick = json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50, "nodes": nodes});
    let mut json = config(&[], quick);
    (json["port"], json["managementPort"]) = (port.into(), admin_port.into());
    let config = ConfigFile::new(json);
    let command = etc.proxy(&config.path);
    let mut proxy = Proxy::spawn(config, port, admin_port, command);
    assert_eq!(proxy.wait_until_ready(), None, "{}", proxy.log());
    let name = format!("moving.statsring.test:{port}");
    proxy.wait_for_state(&name, "up");
    // A reload that adds the proxy's own address is refused entirely.
    let good = proxy.config.json["nodes"].clone();
    proxy.config.json["nodes"].as_array_mut().unwrap().push(json!({"host": "localhost", "port": port}));
    proxy.config.json["flushInterval"] = 7.into();
    proxy.config.write();
    let answer = proxy.ask("reload");
    assert!(answer.contains("localhost") && answer.contains("this proxy's own address"), "{answer}");
    proxy.config.json["nodes"] = good;
    proxy.config.write();
    assert!(proxy.ask("reload").contains("flushInterval: 5 -> 7"));
    // The name now resolves to the proxy: it is not used, and its names go to the other backend.
    etc.set_hosts(&hosts(&["127.0.0.1"]));
    drop(there);
    proxy.wait_for_state(&name, "own_address");
    let message = format!("backend {name}: 127.0.0.1:{port} is this proxy's own address");
    wait_until("it is logged", || proxy.logged(&message));
    assert!(proxy.status("degraded").contains("this proxy's own address"));
    let before = proxy.stat("metrics_received");
    every_metric_arrives(&mut proxy, &backend, "diverted");
    assert_eq!(proxy.stat("metrics_received") - before, 200, "metrics looped");
    // Another address of the same name is used.
    let there = Backend::start_at(Ipv4Addr::new(127, 0, 0, 3), port, adminport);
    etc.set_hosts(&hosts(&["127.0.0.1", "127.0.0.3"]));
    proxy.wait_for_state(&name, "up");
    assert_eq!(proxy.column(&name, "address"), format!("127.0.0.3:{port}"));
    proxy.send((0..200).map(|number| format!("both.{number}:1|c")));
    wait_until("every metric arrives", || backend.total() + there.total() == 400);
    assert!(there.total() > 0);
    let own = format!("own address: 127.0.0.1:{port}");
    assert!(proxy.status("backend").contains(&own), "{}", proxy.ask("status"));
}
