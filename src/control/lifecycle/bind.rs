//! The admin port's listening sockets.
//!
//! In: addresses from the config. Out: one listening socket each, or the operator's message. Next: `admin_service.rs`.

use crate::driver::socket::{allow_missing, is_missing, with_port};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// An admin address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum AdminBindError {
    /// In use.
    #[error(
        "{0} (TCP, the admin port) is in use: stop the process that uses it, or set another `managementPort`"
    )]
    Taken(SocketAddr),
    /// The host does not have the address.
    #[error(
        "cannot listen on {0} (TCP, the admin port): this host does not have that address; set `managementHost` to an address of \
         this host, or \"freebind\": true if the address is added later, e.g. by keepalived"
    )]
    NotHere(SocketAddr),
    /// Anything else.
    #[error(
        "cannot listen on {address} (TCP, the admin port): {source}; set `managementHost` to an address of this host, \
         and a `managementPort` it may use"
    )]
    System {
        /// The address requested.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
    },
}

/// Listens on each address. One that the host does not have is skipped if another one is served, possibly already
/// (`has_others`); `freebind` listens on it regardless.
pub fn bind_admin(
    addresses: &[SocketAddr],
    has_others: bool,
    freebind: bool,
) -> Result<Vec<TcpListener>, AdminBindError> {
    let mut listeners: Vec<TcpListener> = Vec::with_capacity(addresses.len());
    let mut missing = None;
    for address in addresses {
        match listen(same_port(*address, &listeners), freebind) {
            Ok(listener) => listeners.push(listener),
            Err(error) if is_missing(&error) => {
                tracing::warn!("admin port: {address} skipped: {error}");
                missing = Some(*address);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(AdminBindError::Taken(*address));
            }
            Err(source) => return Err(AdminBindError::System { address: *address, source }),
        }
    }
    match missing.filter(|_| listeners.is_empty() && !has_others) {
        Some(address) => Err(AdminBindError::NotHere(address)),
        None => Ok(listeners),
    }
}

/// With port 0, both families get the same port.
fn same_port(asked: SocketAddr, bound: &[TcpListener]) -> SocketAddr {
    let first = bound.first().and_then(|listener| listener.local_addr().ok());
    match first {
        Some(first) if asked.port() == 0 => with_port(asked, first.port()),
        _ => asked,
    }
}

fn listen(address: SocketAddr, freebind: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for connections of the last instance in TIME_WAIT.
    socket.set_reuse_address(true)?;
    allow_missing(&socket, address, freebind)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let occupied = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = occupied.local_addr().unwrap();
        let error = bind_admin(&[address], false, false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{address} (TCP, the admin port) is in use: stop the process that uses it, or set another `managementPort`"
            )
        );
    }

    #[test]
    fn a_foreign_address_is_an_error_with_its_cause() {
        // An address for documentation, which no host has.
        let address = "192.0.2.1:0".parse().unwrap();
        let error = bind_admin(&[address], false, false).unwrap_err();
        assert!(matches!(error, AdminBindError::NotHere(_)), "{error}");
        assert!(error.to_string().contains("192.0.2.1") && error.to_string().contains("freebind"), "{error}");
        assert_eq!(bind_admin(&[address], false, true).unwrap()[0].local_addr().unwrap().ip(), address.ip());
    }

    #[test]
    fn an_address_that_this_host_lacks_is_left_out_only_beside_others() {
        // An address for documentation, which no host has.
        let missing = ["[2001:db8::1]:0".parse().unwrap(), "[2001:db8::2]:0".parse().unwrap()];
        assert!(bind_admin(&missing, false, false).is_err());
        assert_eq!(bind_admin(&missing, true, false).unwrap().len(), 0);
        let beside = [missing[0], "127.0.0.1:0".parse().unwrap()];
        assert_eq!(bind_admin(&beside, false, false).unwrap().len(), 1);
        let beside = ["192.0.2.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()];
        assert_eq!(bind_admin(&beside, false, false).unwrap().len(), 1, "IPv4 may be missing as well");
    }

    #[test]
    fn both_families_get_the_same_free_port() {
        let listeners =
            bind_admin(&["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()], false, false).unwrap();
        let ports: Vec<u16> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        assert!(ports.iter().all(|port| *port == ports[0] && *port > 0), "{ports:?}");
    }
}
