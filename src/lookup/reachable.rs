//! Whether this host could send to an address.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Whether this host has a route, and an address of its own, for this one; no packet is sent.
pub(super) fn is_reachable(address: SocketAddr) -> bool {
    let own: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Port 0 cannot be connected to; any other will do.
    let mut there = address;
    there.set_port(53);
    UdpSocket::bind(own).and_then(|socket| socket.connect(there)).is_ok()
}
