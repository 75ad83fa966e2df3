//! Hostnames → addresses.
//!
//! In: a host as the config or an option has it, and a port. Out: its addresses in the order in which they should be tried,
//! or why there are none. Next: whoever asked: `config/`, `control/backends/resolve.rs`, `tools/`.
//!
//! The system's resolver (getaddrinfo) answers, so that a host is found as every other program here finds it. A static
//! build cannot use it, since glibc's loads the host's own libraries at run time: it uses its own resolver ([`dns`]).
//!
//! A lookup blocks, for seconds if name servers are silent, and must not run on a thread with a tokio runtime.

#[cfg(any(test, target_feature = "crt-static"))]
mod dns;
mod reachable;

use reachable::is_reachable;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;

/// The addresses of `host`, the preferred one first; never an empty list.
pub fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = ask(host, port)?;
    if found.is_empty() {
        return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

/// Addresses of one name in the order in which a sender of metrics should try them: those first to which this host has a
/// route, and of these IPv4 first, since a StatsD server listens at IPv4 unless it is configured otherwise. Otherwise they keep
/// their order.
pub fn in_order_for_metrics(mut found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    found.sort_by_cached_key(|address| (!is_reachable(*address), address.is_ipv6()));
    found
}

/// The addresses that a text means which holds a port too: `statsd:8125`, `192.0.2.7:8125`, `[::1]:8125`.
pub fn endpoint(text: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = text.parse() {
        return Ok(vec![address]);
    }
    let refused = |what: &str| io::Error::new(ErrorKind::InvalidInput, what.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(|| refused("expected HOST:PORT"))?;
    let port = port.parse().map_err(|_| refused("expected a port from 0 to 65535"))?;
    addresses(host, port)
}

#[cfg(target_feature = "crt-static")]
use dns::addresses as ask;

#[cfg(not(target_feature = "crt-static"))]
fn ask(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(std::net::ToSocketAddrs::to_socket_addrs(&(host, port))?.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_go_to_ipv4_first_and_to_what_cannot_be_reached_last() {
        // No interface has that index.
        let texts = ["[fe80::1%4000000]:9", "[::1]:9", "127.0.0.2:9", "127.0.0.1:9"];
        let given: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
        let order = in_order_for_metrics(given.clone());
        assert_eq!(order[..2], given[2..]);
        assert_eq!(order.last(), if is_reachable(given[1]) { given.first() } else { given.get(1) });
        let names = in_order_for_metrics(addresses("localhost", 9).unwrap());
        assert!(names.iter().all(|address| address.ip().is_loopback()));
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        let only = |text: &str| endpoint(text).map(|found| found[0].to_string()).map_err(|e| e.to_string());
        assert_eq!(only("192.0.2.7:8125").unwrap(), "192.0.2.7:8125");
        assert_eq!(only("[::1]:8125").unwrap(), "[::1]:8125");
        assert!(endpoint("localhost:8125").unwrap().iter().all(|address| address.ip().is_loopback()));
        assert!(only("localhost").unwrap_err().contains("HOST:PORT"));
        assert!(only("localhost:http").unwrap_err().contains("port"));
        assert!(only("localhost:65536").unwrap_err().contains("65535"));
    }
}
