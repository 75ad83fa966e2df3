//! Whether a host is reachable, determined without sending it anything that could be a metric.
//!
//! Starts a TCP connection to the number of a UDP port; a refusal is an answer, too. An unreachable host is reported by this
//! host, which queries its neighbor for three seconds, or by a router; a firewall's rejection has the same errno, and the error
//! queue distinguishes it.
//!
//! In: an address. Out: [`Reach`]. Next: `control/`, which waits for the socket.

use super::options;
use crate::packet::SendError;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// The result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The host answered, if only by refusing.
    Answered,
    /// It cannot be reached.
    Unreachable,
    /// Unknown: no answer, or a firewall rejects such packets.
    Unknown,
}

/// A nonblocking socket connecting to `address`.
pub fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    options::report_errors(&socket, address.is_ipv6())?;
    Ok(socket)
}

/// The result of such a socket's connect, once it has ended.
pub fn outcome(socket: &Socket, error: &io::Error) -> Reach {
    let is_rejected = std::iter::from_fn(|| options::take_error(socket)).any(|taken| taken.is_prohibited);
    if is_rejected { Reach::Unknown } else { of_error(error) }
}

/// The meaning of an error of a connect.
fn of_error(error: &io::Error) -> Reach {
    let kind = error.raw_os_error().map(SendError::of);
    match kind {
        Some(SendError::Refused) => Reach::Answered,
        Some(kind) if kind.is_unreachable() => Reach::Unreachable,
        _ if error.kind() == io::ErrorKind::AddrNotAvailable => Reach::Unreachable,
        _ if error.kind() == io::ErrorKind::ConnectionReset => Reach::Answered,
        _ => Reach::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_any_kind_is_one_and_a_shortage_says_nothing() {
        let of = |errno| of_error(&io::Error::from_raw_os_error(errno));
        assert_eq!([libc::ECONNREFUSED, libc::ECONNRESET].map(of), [Reach::Answered; 2]);
        assert_eq!(
            [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EADDRNOTAVAIL].map(of),
            [Reach::Unreachable; 3]
        );
        assert_eq!([libc::EACCES, libc::ETIMEDOUT, libc::EMFILE].map(of), [Reach::Unknown; 3]);
    }
}
