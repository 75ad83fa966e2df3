//! Exhausted local ports and unavailable source addresses: the first is a shortage of this host, the second makes a backend
//! unreachable.

use crate::backend::Backend;
use crate::lab::{in_lab, with_each_engine};
use crate::patience::wait_until;
use crate::proxy::{Proxy, config};
use serde_json::json;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// Outside of the local port range set below.
const PORT: u16 = 9_125;
const ADMIN_PORT: u16 = 9_126;

fn sysctl(name: &str, value: &str) {
    std::fs::write(format!("/proc/sys/net/{name}"), value).unwrap();
}

/// Uses up all local ports for connections to the backend's admin port.
fn take_ports() -> Vec<TcpStream> {
    let mut taken = Vec::new();
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, ADMIN_PORT)) {
            Ok(stream) => taken.push(stream),
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => return taken,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn no_free_local_port_takes_no_backend_down() {
    with_each_engine(|_, mut extra| {
        let backend = Backend::start_at(Ipv4Addr::LOCALHOST, PORT, ADMIN_PORT);
        (extra["checkInterval"], extra["checkTimeout"]) = (json!(500), json!(500));
        let mut proxy = Proxy::start(config(&[&backend], extra));
        wait_until("it is checked twice", || backend.asked() > 1);
        sysctl("ipv4/ip_local_port_range", "50000 50099");
        let ports = take_ports();
        let message = "health checks: EADDRNOTAVAIL: Cannot assign requested address; ";
        wait_until("the shortage is reported", || proxy.logged(message));
        // More than needed to take it down.
        wait_until("several checks failed for lack of a port", || {
            // Each query uses one of the few ports.
            std::thread::sleep(Duration::from_millis(500));
            proxy.stat("shortages_check") > 5
        });
        assert!(proxy.ask("status").contains(&format!("\ndegraded: {message}")));
        assert_eq!(proxy.state(&backend.name()), "up");
        proxy.send((0..50).map(|number| format!("name.{number}:1|c\n")));
        wait_until("every metric has arrived", || backend.total() == 50);
        drop(ports);
        let asked = backend.asked();
        wait_until("it is checked again", || backend.asked() > asked + 2);
        assert!(!proxy.logged("is down"), "{}", proxy.log());
    });
}

#[test]
fn unreachable_backend_is_down() {
    in_lab(|_| {
        sysctl("ipv6/conf/lo/disable_ipv6", "1");
        let mut config = config(&[], json!({}));
        config["nodes"] = json!([{"host": "::1", "port": PORT, "adminport": ADMIN_PORT}]);
        let proxy = Proxy::start(config);
        let name = format!("[::1]:{PORT}");
        proxy.wait_for_state(&name, "down");
        assert!(proxy.logged("cannot assign requested address"), "{}", proxy.log());
        assert_eq!(proxy.stat("shortages_check"), 0);
    });
}
