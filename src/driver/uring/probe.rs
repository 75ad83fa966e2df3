//! Probes whether io_uring provides everything that a worker needs, before the engine is chosen.
//!
//! In: how many workers there will be, and their bounds. Out: yes, or the refusal in the operator's words. Next:
//! `control/lifecycle/engine.rs`, which chooses.
//!
//! It is not enough that a ring can be made: a kernel may lack one operation, a profile may allow one system call of the
//! three, and the locked memory may do for one ring only.

use super::IoUringKernel;
use super::refusal::{Host, refusal};
use crate::driver::{Driver, DriverError, DriverLimits, Events, Flow, Stamp, Wait, Waker};
use crate::packet::{Packet, SendOutcome};
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// Rounds in which a datagram has to come; each waits a little.
const ROUNDS: u32 = 100;
const ROUND_US: u64 = 10_000;

/// Makes the rings of all workers at once, and lets one of them do what a worker's does: receive, sleep, be woken.
///
/// # Errors
/// io_uring is refused, or lacks something; in words.
pub fn probe(workers: usize, limits: &DriverLimits) -> Result<(), DriverError> {
    let unusable =
        |source| DriverError::System { operation: "creating a socket pair to probe io_uring", source };
    // A pair of unix sockets: it needs no network, and io_uring treats it like any other socket.
    let (listener, sender) = UnixDatagram::pair().map_err(unusable)?;
    let waker = Arc::new(Waker::new().map_err(unusable)?);
    let others: Result<Vec<IoUringKernel>, DriverError> =
        (1..workers).map(|_| IoUringKernel::new(Vec::new(), Arc::clone(&waker), limits)).collect();
    let listener = UdpSocket::from(OwnedFd::from(listener));
    let ring = IoUringKernel::new(vec![listener], Arc::clone(&waker), limits)?;
    let worked = work(Driver::new(ring), &waker, &sender);
    drop(others?);
    worked.map_err(|error| match error {
        DriverError::System { operation, source } => {
            refusal(operation, source, limits.rings_bytes, &Host::read())
        }
        refused => refused,
    })
}

/// Counts what comes.
struct Count(usize);

impl Events for Count {
    fn datagram(&mut self, _bytes: &[u8], _datagram_bytes: usize, _stamp: Stamp) -> Flow {
        self.0 += 1;
        Flow::More
    }

    fn sent(&mut self, _packet: Packet, _outcome: SendOutcome) {}
}

fn work(mut driver: Driver<IoUringKernel>, waker: &Waker, sender: &UnixDatagram) -> Result<(), DriverError> {
    let failed = |operation, source| DriverError::System { operation, source };
    let mut count = Count(0);
    for round in 0..ROUNDS {
        let deadline_us = driver.now_us() + ROUND_US;
        driver.enter(if round == 0 { Wait::Poll } else { Wait::EventUntil { deadline_us } })?;
        driver.deliver(&mut count);
        if round == 0 {
            waker.wake();
            sender.send(b"x").map_err(|error| failed("sending a datagram to probe io_uring", error))?;
        }
        if count.0 > 0 {
            return Ok(());
        }
    }
    Err(failed("receiving with io_uring", io::ErrorKind::TimedOut.into()))
}
