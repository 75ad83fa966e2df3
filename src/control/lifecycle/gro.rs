//! `gro`: whether the listening sockets join datagrams (UDP_GRO).
//!
//! In: the config, the sockets, and which of them an old process reads as well. Out: whether any of them joins, and what differs
//! from the config. Next: `sockets.rs`.
//!
//! A socket joins for everyone who reads it, and a process that does not read the lengths of the segments runs them together. So
//! an old process's socket stays as it is, and the new process follows it. It is never disabled: joined datagrams may be queued.

use crate::driver::socket;
use crate::relay::Left;
use crate::text::count;
use std::io;
use std::net::UdpSocket;

/// Enables it if `is_configured`, except at `inherited` sockets, which an old process reads too. Whether any socket joins now, and
/// messages for the operator.
pub fn enable(is_configured: bool, workers: &[Vec<UdpSocket>], inherited: Left) -> (bool, Vec<String>) {
    let (mut joining, mut kept_off, mut refused) = (0, 0, None);
    for (worker, sockets) in workers.iter().enumerate() {
        for (listener, socket) in sockets.iter().enumerate() {
            match socket::joins_datagrams(socket) {
                Ok(true) => joining += 1,
                Ok(false) if !is_configured => {}
                Ok(false) if inherited.has(worker, listener) => kept_off += 1,
                Ok(false) => {
                    match socket::join_datagrams(socket).and_then(|()| socket::joins_datagrams(socket)) {
                        Ok(true) => joining += 1,
                        Ok(false) => refused = Some(io::Error::other("accepted without effect")),
                        Err(error) => refused = Some(error),
                    }
                }
                // Linux before 5.12 permits setting the option and not reading it: the next process could not follow the socket.
                Err(error) if is_configured => refused = Some(error),
                Err(_) => {}
            }
        }
    }
    let mut degraded = Vec::new();
    if let Some(error) = refused {
        degraded.push(format!(
            "gro: refused by the kernel (UDP_GRO: {error}); datagrams are received one by one: permit that socket option in the \
             sandbox, or set gro to false"
        ));
    }
    if kept_off > 0 {
        degraded.push(format!(
            "gro: true has no effect at {}, which the old process read without it; stop statsring and start it again",
            count(kept_off, "inherited data socket"),
        ));
    }
    if !is_configured && joining > 0 {
        degraded.push(format!(
            "gro: false has no effect at {} with UDP_GRO enabled, where joined datagrams may be queued; stop statsring, and its \
             socket unit if it has one, and start it again",
            count(joining, "passed data socket"),
        ));
    }
    (joining > 0, degraded)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sockets of two workers.
    fn sockets() -> Vec<Vec<UdpSocket>> {
        (0..2).map(|_| vec![UdpSocket::bind("127.0.0.1:0").unwrap()]).collect()
    }

    fn joining(workers: &[Vec<UdpSocket>]) -> Vec<bool> {
        workers.iter().flatten().map(|socket| socket::joins_datagrams(socket).unwrap()).collect()
    }

    #[test]
    fn own_sockets_follow_the_config() {
        let workers = sockets();
        assert_eq!(enable(false, &workers, Left::NONE), (false, vec![]));
        assert_eq!(joining(&workers), [false, false]);
        assert_eq!(enable(true, &workers, Left::NONE), (true, vec![]));
        assert_eq!(joining(&workers), [true, true]);
    }

    #[test]
    fn inherited_sockets_stay_as_they_are_and_the_process_follows_them() {
        let workers = sockets();
        let (is_on, degraded) = enable(true, &workers, Left::ALL);
        assert_eq!((is_on, joining(&workers)), (false, vec![false, false]));
        assert!(
            degraded[0].starts_with("gro: true has no effect at 2 inherited data sockets,"),
            "{degraded:?}"
        );
        // The second worker is new.
        let (is_on, degraded) = enable(true, &workers, Left { workers: 1, listeners: 1 });
        assert_eq!((is_on, joining(&workers)), (true, vec![false, true]));
        assert!(
            degraded[0].starts_with("gro: true has no effect at 1 inherited data socket,"),
            "{degraded:?}"
        );
        let (is_on, degraded) = enable(false, &workers, Left::ALL);
        assert_eq!((is_on, joining(&workers)), (true, vec![false, true]));
        assert!(
            degraded[0].starts_with("gro: false has no effect at 1 passed data socket with"),
            "{degraded:?}"
        );
        assert_eq!(degraded.len(), 1);
    }
}
