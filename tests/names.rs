//! Backends by name: with several addresses, with a name server that does not answer, with addresses of this host. The
//! process from outside, with files in `/etc` of the test's own.
//!
//! Everything waits for conditions, and everything stays on loopback, at ports that were free.

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
use proxy::{Proxy, config};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, UdpSocket};

/// Names that are asked of a name server that does not answer.
const SILENT_NAMES: usize = 24;

/// A name server that takes questions and never answers.
struct SilentServer {
    _socket: UdpSocket,
    address: String,
}

impl SilentServer {
    /// `None` where port 53 is not allowed.
    fn start() -> Option<SilentServer> {
        let tried = (1..255).map(|last| Ipv4Addr::new(127, 53, 53, last));
        let bound = tried.map(|ip| UdpSocket::bind((ip, 53)).map(|socket| (socket, ip)));
        let mut refused = None;
        for result in bound {
            match result {
                Ok((socket, ip)) => return Some(SilentServer { _socket: socket, address: ip.to_string() }),
                Err(error) => refused = Some(error),
            }
        }
        skip::skip_unprivileged(format_args!("no name server can be started here: {refused:?}"));
        None
    }
}

/// `/etc/hosts` as most hosts have it.
const LOCALHOST: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// A config file in this program's form or in that of `proxy.js`.
#[derive(Clone, Copy, Debug)]
enum Form {
    Json,
    ProxyJs,
}

/// Starts the proxy in front of one node, which is a JSON object; quick checks.
fn start(etc: &Etc, form: Form, node: &Value) -> Proxy {
    let quick = json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50, "nodes": [node]});
    match form {
        Form::Json => Proxy::start_by(config(&[], quick), |path| etc.proxy(path)),
        // The key `log` makes it a config of proxy.js.
        Form::ProxyJs => {
            let more = json!({"log": {}, "hashing": "hashring-3"});
            let mut wanted = config(&[], quick);
            wanted.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            wanted["address"] = wanted["host"].clone();
            Proxy::start_by(wanted, |path| etc.proxy(path))
        }
    }
}

/// Sends 200 metrics, of which none may be lost.
#[track_caller]
fn every_metric_arrives(proxy: &mut Proxy, backend: &Backend, prefix: &str) {
    let before = backend.total();
    proxy.send((0..200).map(|number| format!("{prefix}.{number}:1|c")));
    wait_until("every metric arrives", || backend.total() == before + 200);
    proxy.settle();
}

/// The forms of a config and of a node for `backend` at `host`: with and without `adminport`.
fn variants(host: &str, backend: &Backend) -> impl Iterator<Item = (Form, Value)> {
    let bare = json!({"host": host, "port": backend.port});
    let checked = json!({"host": host, "port": backend.port, "adminport": backend.adminport});
    [Form::Json, Form::ProxyJs]
        .into_iter()
        .flat_map(move |form| [(form, bare.clone()), (form, checked.clone())])
}

#[test]
fn a_server_at_ipv4_only_is_found_by_the_name_localhost() {
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
fn of_two_addresses_the_one_that_answers_is_used() {
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
fn names_that_nobody_answers_for_hold_up_no_other_name() {
    let Some(silent) = SilentServer::start() else { return };
    let mut here = Backend::start();
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let mut there = Backend::start_at(other, here.port, here.adminport);
    there.kill();
    let hosts = |ip: &str| format!("127.0.0.1 localhost\n{ip} known.statsring.test\n");
    let Some(etc) = Etc::new(&hosts("127.0.0.1")) else { return };
    etc.set_name_server(&silent.address);
    let mut wanted = config(&[&here], json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50}));
    let mut nodes: Vec<_> = (0..SILENT_NAMES)
        .map(|number| json!({"host": format!("silent{number}.statsring.test"), "port": 9}))
        .collect();
    nodes.push(json!({"host": "known.statsring.test", "port": here.port, "adminport": here.adminport}));
    wanted["nodes"] = nodes.into();
    let mut proxy = Proxy::start_by(wanted, |path| etc.proxy(path));
    let name = format!("known.statsring.test:{}", here.port);
    // A silent look-up takes longer than this waits: the name would not be known if it had to wait for one.
    proxy.wait_for_state(&name, "up");
    proxy.send((0..100).map(|number| format!("silent.{number}:1|c")));
    wait_until("every metric arrives", || here.total() == 100);
    // And it is followed when its address moves.
    there.restore();
    etc.set_hosts(&hosts(&other.to_string()));
    here.kill();
    wait_until("it is followed", || proxy.logged(&format!("backend {name} is at {other}:{}", here.port)));
    proxy.wait_for_state(&name, "up");
    proxy.send((0..100).map(|number| format!("moved.{number}:1|c")));
    wait_until("every metric arrives at the new address", || there.total() == 100);
    assert_eq!(proxy.state("silent0.statsring.test:9"), "unresolved");
    let stats = proxy.settle();
    assert_eq!(stats["metrics_sent"], 200, "{stats:?}");
}

#[test]
fn a_name_that_moves_is_followed_and_one_that_stops_resolving_keeps_its_address() {
    let hosts = |ip: &str| format!("127.0.0.1 localhost\n{ip} moving.statsring.test\n");
    let Some(etc) = Etc::new(&hosts("127.0.0.1")) else { return };
    let mut here = Backend::start();
    let node = json!({"host": "moving.statsring.test", "port": here.port, "adminport": here.adminport});
    let mut wanted = config(&[&here], json!({"checkInterval": 300, "checkTimeout": 300, "checkFast": 50}));
    wanted["nodes"] = json!([node]);
    let mut proxy = Proxy::start_by(wanted, |path| etc.proxy(path));
    let name = format!("moving.statsring.test:{}", here.port);
    proxy.wait_for_state(&name, "up");
    proxy.send(["first:1|c"]);
    wait_until("it arrives here", || here.total() == 1);

    let mut there = Backend::start_at(Ipv4Addr::new(127, 0, 0, 2), here.port, here.adminport);
    etc.set_hosts(&hosts("127.0.0.2"));
    here.kill();
    wait_until("it is followed", || proxy.logged(&format!("backend {name} is at 127.0.0.2:{}", there.port)));
    proxy.wait_for_state(&name, "up");
    proxy.send(["second:1|c"]);
    wait_until("it arrives there", || there.total() == 1);

    etc.set_hosts("127.0.0.1 localhost\n");
    there.kill();
    proxy.wait_for_state(&name, "down");
    wait_until("it is told", || proxy.logged("does not resolve") && proxy.logged("its last address is kept"));
    there.restore();
    proxy.wait_for_state(&name, "up");
    proxy.send(["third:1|c"]);
    wait_until("it arrives there", || there.total() == 2);
    proxy.settle();
}
