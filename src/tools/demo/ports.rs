//! The ports of the demo: the usual ones, or free ones where those are in use.
//!
//! In: nothing. Out: ports for the proxy, a note for each port that is not the usual one. Everything is on loopback: the demo
//! serves nobody else. Next: the config in `mod.rs`.

use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Where the proxy usually takes metrics.
const PROXY_PORT: u16 = 8125;
/// Its usual admin port.
const ADMIN_PORT: u16 = 8126;
/// How often another port is tried when the one that one family got is taken in the other.
const ATTEMPTS_MAX: usize = 16;

/// The ports of the proxy. Free a moment ago: the proxy binds them itself.
pub struct Ports {
    /// The host of both as the config has it.
    pub host: &'static str,
    /// Where the proxy takes metrics.
    pub proxy: u16,
    /// Its admin port.
    pub admin: u16,
}

impl Ports {
    /// One sentence for each port that is not the usual one.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        note(PROXY_PORT, self.proxy, "the proxy").into_iter().chain(note(
            ADMIN_PORT,
            self.admin,
            "the admin port",
        ))
    }
}

/// A sentence if `who` does not listen on the usual port.
pub fn note(usual: u16, found: u16, who: &str) -> Option<String> {
    (usual != found).then(|| format!("port {usual} is in use: {who} listens on {found}"))
}

/// Finds ports for the proxy. Fails only if loopback has none left.
pub fn choose() -> io::Result<Ports> {
    // "localhost" may mean either family to a client, so both are served where there are two.
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let (host, addresses) = if has_ipv6 { ("localhost", &both[..]) } else { ("127.0.0.1", &both[..1]) };
    let free = |usual, kind| {
        (0..ATTEMPTS_MAX).fold(bind_all(addresses, usual, kind), |found, _| {
            found.or_else(|_| bind_all(addresses, 0, kind))
        })
    };
    Ok(Ports { host, proxy: free(PROXY_PORT, Type::DGRAM)?, admin: free(ADMIN_PORT, Type::STREAM)? })
}

/// Binds a port at every address and lets go; where any will do, the first address chooses.
fn bind_all(addresses: &[IpAddr], mut port: u16, kind: Type) -> io::Result<u16> {
    let mut held = Vec::with_capacity(addresses.len());
    for ip in addresses {
        let address = SocketAddr::new(*ip, port);
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        // As the proxy does: connections that have just ended do not take the port.
        socket.set_reuse_address(kind == Type::STREAM)?;
        socket.bind(&address.into())?;
        port = socket.local_addr()?.as_socket().map_or(port, |bound| bound.port());
        held.push(socket);
    }
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_port_in_use_is_not_chosen_and_the_one_chosen_instead_is_noted() {
        let here = [IpAddr::V4(Ipv4Addr::LOCALHOST)];
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(bind_all(&here, udp.local_addr().unwrap().port(), Type::DGRAM).is_err());
        assert!(bind_all(&here, tcp.local_addr().unwrap().port(), Type::STREAM).is_err());
        assert!(bind_all(&here, 0, Type::DGRAM).is_ok_and(|port| port > 0));
        let ports = Ports { host: "localhost", proxy: 40_000, admin: ADMIN_PORT };
        assert_eq!(ports.notes().collect::<Vec<_>>(), ["port 8125 is in use: the proxy listens on 40000"]);
    }
}
