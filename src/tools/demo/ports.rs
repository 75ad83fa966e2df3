//! The ports of the demo: the usual ones, or free ones where those are taken.
//!
//! In: nothing. Out: bound sockets of the backends, ports for the proxy, a note for each port that is not the usual
//! one. Everything is on loopback: the demo serves nobody else. Next: `backends.rs`, and the config in `mod.rs`.

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

/// The ports of one run.
pub struct Ports {
    /// The host of the proxy's ports as the config has it.
    pub host: &'static str,
    /// Where the proxy takes metrics.
    pub proxy: u16,
    /// Its admin port.
    pub admin: u16,
    /// The backends, bound.
    pub backends: Vec<BackendSockets>,
    /// One sentence for each port that is not the usual one.
    pub notes: Vec<String>,
}

/// Finds the ports. Fails only if loopback has none left.
pub fn choose() -> io::Result<Ports> {
    let mut notes = Vec::new();
    let mut backends = Vec::with_capacity(BACKEND_PORTS.len());
    for (index, (metrics_port, health_port)) in BACKEND_PORTS.into_iter().enumerate() {
        let sockets = BackendSockets {
            metrics: bind_or_any(metrics_port, UdpSocket::bind)?,
            health: bind_or_any(health_port, TcpListener::bind)?,
        };
        let number = index + 1;
        note(&mut notes, metrics_port, sockets.metrics.local_addr()?.port(), &format!("backend {number}"));
        note(
            &mut notes,
            health_port,
            sockets.health.local_addr()?.port(),
            &format!("the health of backend {number}"),
        );
        backends.push(sockets);
    }
    // "localhost" may mean either family to a client, so both are served where there are two.
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let (host, addresses) = if has_ipv6 { ("localhost", &both[..]) } else { ("127.0.0.1", &both[..1]) };
    let proxy = free_port(addresses, PROXY_PORT, UdpSocket::bind::<SocketAddr>)?;
    note(&mut notes, PROXY_PORT, proxy, "the proxy");
    let admin = free_port(addresses, ADMIN_PORT, TcpListener::bind::<SocketAddr>)?;
    note(&mut notes, ADMIN_PORT, admin, "the admin port");
    Ok(Ports { host, proxy, admin, backends, notes })
}

fn note(notes: &mut Vec<String>, usual: u16, found: u16, who: &str) {
    if usual != found {
        notes.push(format!("port {usual} is taken: {who} is at {found}"));
    }
}

/// Binds the usual port, or a free one.
fn bind_or_any<S>(usual: u16, bind: impl Fn(SocketAddr) -> io::Result<S>) -> io::Result<S> {
    let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    bind(at(usual)).or_else(|_| bind(at(0)))
}

/// The usual port if it is free at every address, else one that is. Free a moment ago: the proxy binds it itself.
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
        let ports = choose().unwrap();
        let mut moved = usize::from(ports.proxy != PROXY_PORT) + usize::from(ports.admin != ADMIN_PORT);
        for (sockets, (metrics, health)) in ports.backends.iter().zip(BACKEND_PORTS) {
            moved += usize::from(sockets.metrics.local_port().unwrap() != metrics);
            moved += usize::from(sockets.health.local_port().unwrap() != health);
        }
        assert_eq!(ports.notes.len(), moved, "{:?}", ports.notes);
        let mut notes = Vec::new();
        note(&mut notes, 8126, 8126, "the admin port");
        note(&mut notes, 8125, 40_000, "the proxy");
        assert_eq!(notes, ["port 8125 is taken: the proxy is at 40000"]);
    }
}
