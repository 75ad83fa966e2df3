//! Sockets that a service manager passed at the start: systemd's socket activation, sd_listen_fds(3).
//!
//! In: LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES, and descriptors from 3 on. Out: UDP sockets for the workers, TCP sockets for
//! the admin port, or an error. Next: `sockets.rs`.
//!
//! The service manager keeps them: this process exits without fencing or closing them for others, and datagrams that arrive until
//! the next one starts are queued in them.

use crate::control::lifecycle::failure::Failure;
use crate::driver::{passed, socket};
use crate::exit;
use socket2::{Socket, Type};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

/// The passed sockets.
#[derive(Debug, Default)]
pub struct Activated {
    /// Each worker's sockets, one for each of `data_addresses`; empty if none were passed.
    pub data: Vec<Vec<UdpSocket>>,
    /// Where they are bound.
    pub data_addresses: Vec<SocketAddr>,
    /// The admin port's.
    pub admin: Vec<TcpListener>,
}

/// Takes the sockets passed to this process, if any.
pub fn take() -> Result<Option<Activated>, Failure> {
    let variable = |name: &str| std::env::var(name).ok();
    // Meant for the parent process, e.g. a shell.
    if variable("LISTEN_PID").is_none_or(|pid| pid.parse() != Ok(std::process::id())) {
        return Ok(None);
    }
    let text = variable("LISTEN_FDS").unwrap_or_default();
    let usage = |message: String| Failure { message, code: exit::USAGE };
    let count: usize =
        text.parse().ok().filter(|count| *count <= passed::DESCRIPTORS_MAX).ok_or_else(|| {
            usage(format!(
                "LISTEN_FDS={text}: expected a number of sockets up to {}",
                passed::DESCRIPTORS_MAX
            ))
        })?;
    if count == 0 {
        return Ok(None);
    }
    let descriptors = passed::take_at_start(count)
        .map_err(|error| Failure::system(format!("LISTEN_FDS={count}: {error}")))?;
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    sort(descriptors, &names).map(Some).map_err(usage)
}

/// Most data addresses that can be handed over ([`crate::relay::Left`]).
const ADDRESSES_MAX: usize = 64;

/// Sorts them by kind; an error is for the operator.
fn sort(descriptors: Vec<OwnedFd>, names: &[&str]) -> Result<Activated, String> {
    let mut activated = Activated::default();
    let mut data: Vec<(SocketAddr, Vec<UdpSocket>)> = Vec::new();
    for (index, descriptor) in descriptors.into_iter().enumerate() {
        let name = names.get(index).filter(|name| !name.is_empty());
        let name = name.map_or(String::new(), |name| format!(" ({})", name.escape_default()));
        let wrong = |reason: String| format!("passed socket {}{name}: {reason}", index + 3);
        let socket = Socket::from(descriptor);
        let kind = socket.r#type().map_err(|error| wrong(format!("not a socket: {error}")))?;
        if kind == Type::STREAM {
            activated.admin.push(admin(socket).map_err(wrong)?);
            continue;
        }
        let (socket, address) = socket::adopt(socket.into()).map_err(|reason| {
            wrong(format!("{reason}; expected UDP sockets for metrics and TCP sockets for the admin port"))
        })?;
        match data.iter_mut().find(|(known, _)| *known == address) {
            Some((_, sockets)) => sockets.push(socket),
            None => data.push((address, vec![socket])),
        }
    }
    if data.len() > ADDRESSES_MAX {
        return Err(format!(
            "passed sockets: too many data addresses: expected at most {ADDRESSES_MAX}, found {}",
            data.len()
        ));
    }
    let workers = data.first().map_or(0, |(_, sockets)| sockets.len());
    if let Some((address, sockets)) = data.iter().find(|(_, sockets)| sockets.len() != workers) {
        return Err(format!(
            "passed sockets: {} at {address} and {workers} at {}; each worker needs one at every address",
            sockets.len(),
            data[0].0
        ));
    }
    activated.data = (0..workers).map(|_| Vec::with_capacity(data.len())).collect();
    for (address, sockets) in data {
        activated.data_addresses.push(address);
        activated.data.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    Ok(activated)
}

fn admin(socket: Socket) -> Result<TcpListener, String> {
    let unusable = |error: std::io::Error| format!("not a usable socket: {error}");
    if socket.local_addr().map_err(unusable)?.as_socket().is_none() {
        return Err("expected TCP over IPv4 or IPv6, found another stream socket".to_owned());
    }
    if !socket.is_listener().map_err(unusable)? {
        return Err("TCP socket is not listening (Accept=yes is not supported)".to_owned());
    }
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    fn udp() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").unwrap()
    }

    /// Two sockets at one address.
    fn twins() -> [UdpSocket; 2] {
        let listeners = socket::bind_listeners(
            &["127.0.0.1:0".parse().unwrap()],
            2,
            socket::ListenOptions::here(1 << 16),
        )
        .unwrap();
        let mut sockets = listeners.workers.into_iter().flatten();
        [sockets.next().unwrap(), sockets.next().unwrap()]
    }

    #[test]
    fn udp_sockets_are_workers_and_a_tcp_socket_is_the_admin_port() {
        let [one, two] = twins();
        let admin = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, admin_address) = (one.local_addr().unwrap(), admin.local_addr().unwrap());
        one.set_nonblocking(true).unwrap();
        let activated = sort(vec![one.into(), admin.into(), two.into()], &["metrics"]).unwrap();
        assert_eq!(activated.data.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(activated.data_addresses, [address]);
        assert_eq!(activated.admin[0].local_addr().unwrap(), admin_address);
    }

    #[test]
    fn sockets_of_a_wrong_kind_are_named() {
        let connected = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = std::net::TcpStream::connect(connected.local_addr().unwrap()).unwrap();
        let (pipe, _) = nix::unistd::pipe().unwrap();
        let (unix, _) = UnixDatagram::pair().unwrap();
        let unbound = Socket::new(socket2::Domain::IPV4, Type::DGRAM, None).unwrap();
        let cases: [(OwnedFd, &str); 4] = [
            (stream.into(), "passed socket 3 (metrics): TCP socket is not listening"),
            (pipe, "passed socket 3 (metrics): not a socket"),
            (unix.into(), "passed socket 3 (metrics): expected a UDP socket"),
            (unbound.into(), "passed socket 3 (metrics): not bound"),
        ];
        for (descriptor, expected) in cases {
            let error = sort(vec![descriptor], &["metrics"]).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_worker_without_a_socket_at_an_address_is_an_error() {
        let [one, two] = twins();
        let error = sort(vec![one.into(), two.into(), udp().into()], &[]).unwrap_err();
        assert!(error.contains("each worker needs one at every address"), "{error}");
    }
}
