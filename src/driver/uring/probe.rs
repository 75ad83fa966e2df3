//! Probes whether io_uring provides everything that a worker needs, before the engine is chosen.
//!
//! In: the number of workers, and their bounds. Out: success, or the refusal as a message for the operator. Next:
//! `control/lifecycle/engine.rs`, which chooses.
//!
//! Creating one ring is not enough: the kernel may lack an operation, a seccomp profile may allow one of the three system
//! calls, and the locked memory may suffice for one ring only.

use super::IoUringKernel;
use super::refusal::{Host, refusal};
use crate::driver::{Driver, DriverError, DriverLimits, Events, Flow, Stamp, Wait, Waker};
use crate::packet::{Packet, SendOutcome};
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

/// Attempts to receive a datagram; each waits a little.
const ROUNDS: u32 = 100;
const ROUND_US: u64 = 10_000;

/// Creates the rings of all workers at once, and runs one through a worker's operations: receive, sleep, wake.
///
/// # Errors
/// io_uring is refused, or lacks a feature; the message gives the cause and the remedy.
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

/// Counts events.
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
