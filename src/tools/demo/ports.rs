//! The ports of the demo: the usual ones, or free ones where those are taken.
//!
//! In: nothing. Out: bound sockets of the backends, ports for the proxy, a note for each that is not the usual one. Everything is on loopback: the demo serves nobody else. Next: `backends.rs`, and the config in `mod.rs`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// Where the proxy usually takes metrics.
const PROXY_PORT: u16 = 8125;
/// Its usual admin port.
const ADMIN_PORT: u16 = 8126;
/// The backends' usual ports: metrics, health.
const BACKEND_PORTS: [(u16, u16); 3] = [(8127, 8128), (8129, 8130), (8131, 8132)];
/// How often another port is tried when the one that one family got is taken in the other.
const ATTEMPTS_MAX: usize = 16;

/// One backend's sockets.
pub struct BackendSockets {
    /// Where metrics come in.
    pub metrics: UdpSocket,
    /// Where it is asked for its health.
    pub health: TcpListener,
}

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
    pub fn notes(&self) -> Vec<String> {
        [note(PROXY_PORT, self.proxy, "the proxy"), note(ADMIN_PORT, self.admin, "the admin port")]
            .into_iter()
            .flatten()
            .collect()
    }
}

fn note(usual: u16, found: u16, who: &str) -> Option<String> {
    (usual != found).then(|| format!("port {usual} is in use: {who} listens on {found}"))
}

/// Binds the backends' ports; one sentence for each that is not the usual one. Fails only if loopback has none left.
pub fn bind_backends() -> io::Result<(Vec<BackendSockets>, Vec<String>)> {
    let (mut backends, mut notes) = (Vec::with_capacity(BACKEND_PORTS.len()), Vec::new());
    for (index, (metrics_port, health_port)) in BACKEND_PORTS.into_iter().enumerate() {
        let metrics = bind_or_any(metrics_port, UdpSocket::bind)?;
        let health = bind_or_any(health_port, TcpListener::bind)?;
        let number = index + 1;
        notes.extend(note(metrics_port, metrics.local_port()?, &format!("backend {number}")));
        notes.extend(note(health_port, health.local_port()?, &format!("the health of backend {number}")));
        backends.push(BackendSockets { metrics, health });
    }
    Ok((backends, notes))
}

/// Finds ports for the proxy. Fails only if loopback has none left.
pub fn choose() -> io::Result<Ports> {
    // "localhost" may mean either family to a client, so both are served where there are two.
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let (host, addresses) = if has_ipv6 { ("localhost", &both[..]) } else { ("127.0.0.1", &both[..1]) };
    Ok(Ports {
        host,
        proxy: free_port(addresses, PROXY_PORT, UdpSocket::bind::<SocketAddr>)?,
        admin: free_port(addresses, ADMIN_PORT, TcpListener::bind::<SocketAddr>)?,
    })
}

/// Binds the usual port, or a free one.
fn bind_or_any<S>(usual: u16, bind: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(at(usual)).or_else(|_| bind(at(0)))
}

/// The usual port if it is free at every address, else one that is.
fn free_port<S>(
    addresses: &[IpAddr],
    usual: u16,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> io::Result<u16>
where
    S: LocalPort,
{
    let mut result = bind_all(addresses, usual, &bind);
    for _ in 0..ATTEMPTS_MAX {
        if result.is_ok() {
            break;
        }
        result = bind_all(addresses, 0, &bind);
    }
    result
}

/// Binds a port at every address and lets go; where any will do, the first address chooses.
fn bind_all<S>(
    addresses: &[IpAddr],
    port: u16,
    bind: &impl Fn(SocketAddr) -> io::Result<S>,
) -> io::Result<u16>
where
    S: LocalPort,
{
    let mut port = port;
    let mut held = Vec::with_capacity(addresses.len());
    for address in addresses {
        let socket = bind(SocketAddr::new(*address, port))?;
        port = socket.local_port()?;
        held.push(socket);
    }
    Ok(port)
}

/// A bound socket's port.
trait LocalPort {
    fn local_port(&self) -> io::Result<u16>;
}

impl LocalPort for UdpSocket {
    fn local_port(&self) -> io::Result<u16> {
        Ok(self.local_addr()?.port())
    }
}

impl LocalPort for TcpListener {
    fn local_port(&self) -> io::Result<u16> {
        Ok(self.local_addr()?.port())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

    #[test]
    fn a_taken_port_gives_way_to_a_free_one() {
        let held = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = held.local_addr().unwrap().port();
        let found = free_port(&HERE, taken, UdpSocket::bind::<SocketAddr>).unwrap();
        assert_ne!(found, taken);
        let other = bind_or_any(taken, UdpSocket::bind).unwrap();
        assert_ne!(other.local_port().unwrap(), taken);
    }

    #[test]
    fn every_port_that_is_not_the_usual_one_is_noted() {
        let (backends, notes) = bind_backends().unwrap();
        let moved = backends.iter().zip(BACKEND_PORTS).map(|(sockets, (metrics, health))| {
            usize::from(sockets.metrics.local_port().unwrap() != metrics)
                + usize::from(sockets.health.local_port().unwrap() != health)
        });
        assert_eq!(notes.len(), moved.sum::<usize>(), "{notes:?}");
        let ports = Ports { host: "localhost", proxy: 40_000, admin: ADMIN_PORT };
        assert_eq!(ports.notes(), ["port 8125 is in use: the proxy listens on 40000"]);
    }
}
