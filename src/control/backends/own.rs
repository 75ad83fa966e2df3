//! Which addresses are this proxy's own: metrics sent there would loop.
//!
//! In: the listening addresses, this host's routes. Out: whether metrics sent to an address would loop. Next: `state.rs`.
//!
//! A loop through another proxy, or through address translation, cannot be detected here.

use crate::config::{Config, Node};
use crate::control::backends::resolve::literal;
use crate::stats::host;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Where this proxy listens.
#[derive(Clone, Debug, Default)]
pub struct OwnAddresses {
    listening: Vec<Listening>,
}

#[derive(Clone, Copy, Debug)]
struct Listening {
    address: SocketAddr,
    /// An IPv6 socket that takes IPv4 too, as systemd makes them.
    takes_ipv4: bool,
}

impl OwnAddresses {
    /// Those of one worker's listening sockets, bound or to be bound at `listen`.
    pub fn new(listen: &[SocketAddr], sockets: &[UdpSocket]) -> OwnAddresses {
        let takes_ipv4 = |socket: &UdpSocket| !socket2::SockRef::from(socket).only_v6().unwrap_or(true);
        let listening = listen.iter().zip(sockets).map(|(address, socket)| Listening {
            address: *address,
            takes_ipv4: address.is_ipv6() && takes_ipv4(socket),
        });
        OwnAddresses { listening: listening.collect() }
    }

    /// Whether it listens at this port, so that [`OwnAddresses::has`] may change with the addresses of this host.
    pub fn has_port(&self, port: u16) -> bool {
        self.listening.iter().any(|own| own.address.port() == port)
    }

    /// Whether packets to `target` arrive at one of its own sockets.
    ///
    /// # Errors
    /// The kernel could not be queried, e.g. without a free descriptor.
    pub fn has(&self, target: SocketAddr) -> io::Result<bool> {
        let same_port = self.listening.iter().filter(|own| own.address.port() == target.port());
        let ip = target.ip().to_canonical();
        let mut may_be_local = false;
        for own in same_port {
            let own_ip = own.address.ip().to_canonical();
            let same_family = own_ip.is_ipv4() == ip.is_ipv4() || (own.takes_ipv4 && ip.is_ipv4());
            match () {
                _ if own_ip == ip => return Ok(true),
                _ if !same_family => {}
                // The kernel delivers packets for the unspecified address to this host.
                _ if ip.is_unspecified() => {
                    if own_ip.is_unspecified() || own_ip.is_loopback() {
                        return Ok(true);
                    }
                }
                _ => may_be_local |= own_ip.is_unspecified(),
            }
        }
        if may_be_local { is_local(ip) } else { Ok(false) }
    }
}

/// The backends of `config` at which the proxy itself would listen on this host, one message each. Names are not looked up.
pub fn own_nodes(config: &Config) -> Vec<String> {
    let listening = config.listen.iter().map(|address| Listening { address: *address, takes_ipv4: false });
    let own = OwnAddresses { listening: listening.collect() };
    let has = |ip: IpAddr, node: &Node| own.has(SocketAddr::new(ip, node.port)).unwrap_or(false);
    let is_own = |node: &Node| !node.disabled && literal(&node.host).is_some_and(|ip| has(ip, node));
    let nodes = config.nodes.iter().enumerate().filter(|(_, node)| is_own(node));
    nodes.map(|(index, _)| loop_message(config, index, &[])).collect()
}

/// Why the backend of this index is refused. `resolved`: what its name resolves to, if it is one.
pub(in crate::control) fn loop_message(config: &Config, index: usize, resolved: &[SocketAddr]) -> String {
    let node = &config.nodes[index];
    let place = config.shards.iter().position(|shard| usize::from(*shard) == index).unwrap_or(index);
    let resolved: Vec<String> = resolved.iter().map(SocketAddr::to_string).collect();
    let resolves = if resolved.is_empty() {
        String::new()
    } else {
        format!(" resolves to {}, which", resolved.join(", "))
    };
    format!(
        "nodes[{place}]: {}{resolves} is this proxy's own address (an address of this host, port {}): metrics would loop; \
         set the address and port of the StatsD server, or another `port` for the proxy",
        node.name, node.port,
    )
}

/// Whether packets to `ip` are delivered on this host.
fn is_local(ip: IpAddr) -> io::Result<bool> {
    Ok(host::is_on_this_host(ip)? && !is_only_on_idle_interfaces(ip)?)
}

/// Whether the interfaces that have `ip` are all down: so kube-proxy (IPVS) marks the addresses of services, whose packets
/// it sends on.
fn is_only_on_idle_interfaces(ip: IpAddr) -> io::Result<bool> {
    let all = getifaddrs()?;
    let has_it = |address: &nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let v6 = address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip()));
        v4.or(v6) == Some(ip)
    };
    let mut states = all
        .filter(|interface| interface.address.as_ref().is_some_and(has_it))
        .map(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .peekable();
    Ok(states.peek().is_some() && !states.any(|is_up| is_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(listen: &[(&str, bool)]) -> OwnAddresses {
        let listening = listen.iter().map(|(address, takes_ipv4)| Listening {
            address: address.parse().unwrap(),
            takes_ipv4: *takes_ipv4,
        });
        OwnAddresses { listening: listening.collect() }
    }

    fn has(listen: &[(&str, bool)], target: &str) -> bool {
        own(listen).has(target.parse().unwrap()).unwrap()
    }

    #[test]
    fn every_address_of_this_host_is_own_where_it_listens_at_all() {
        let every = [("0.0.0.0:8125", false), ("[::]:8125", false)];
        for target in ["127.0.0.1:8125", "127.9.9.9:8125", "[::1]:8125", "0.0.0.0:8125", "[::]:8125"] {
            assert!(has(&every, target), "{target}");
        }
        assert!(has(&every, "[::ffff:127.0.0.1]:8125"));
        for target in ["127.0.0.1:8126", "192.0.2.1:8125", "[2001:db8::1]:8125"] {
            assert!(!has(&every, target), "{target}");
        }
        assert!(own(&every).has_port(8125) && !own(&every).has_port(8126));
    }

    #[test]
    fn only_its_own_address_is_own_where_it_listens_at_one() {
        let one = [("127.0.0.1:8125", false)];
        assert!(has(&one, "127.0.0.1:8125") && has(&one, "0.0.0.0:8125"));
        assert!(!has(&one, "127.0.0.2:8125") && !has(&one, "[::1]:8125"));
        let elsewhere = [("192.0.2.7:8125", false)];
        assert!(has(&elsewhere, "192.0.2.7:8125") && !has(&elsewhere, "0.0.0.0:8125"));
    }

    #[test]
    fn the_other_family_is_own_only_if_the_socket_accepts_it() {
        assert!(!has(&[("[::]:8125", false)], "127.0.0.1:8125"));
        assert!(has(&[("[::]:8125", true)], "127.0.0.1:8125"));
        assert!(!has(&[("0.0.0.0:8125", false)], "[::1]:8125"));
    }

    #[test]
    fn the_families_of_a_socket_are_read_from_it() {
        let dual = UdpSocket::bind("[::]:0").unwrap();
        let single = UdpSocket::bind("0.0.0.0:0").unwrap();
        let listen = [dual.local_addr().unwrap(), single.local_addr().unwrap()];
        let own = OwnAddresses::new(&listen, &[dual, single]);
        assert!(own.has(SocketAddr::new("127.0.0.1".parse().unwrap(), listen[0].port())).unwrap());
        assert!(!own.has(SocketAddr::new("::1".parse().unwrap(), listen[1].port())).unwrap());
    }
}
