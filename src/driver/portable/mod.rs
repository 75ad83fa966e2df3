//! Where io_uring is refused: recvmmsg, sendmmsg and ppoll, which every Linux has and no seccomp profile forbids.
//!
//! In: datagrams from the kernel, packets from the worker. Out: both to the other side. `engine.rs` keeps the rules, on any
//! `calls.rs`; `kernel.rs` makes the system calls. Next: `worker/`.
//!
//! Why ppoll, and no epoll: a worker sleeps on two or three descriptors, which ppoll takes with each call, so that nothing
//! is registered that a hand-over could leave behind, and on another set (the wake alone) while datagrams gather. Its timeout
//! is in nanoseconds in every kernel; epoll's is in milliseconds before 5.11.

pub mod calls;
pub mod engine;
mod kernel;

pub use kernel::SystemCalls;

use super::{DriverError, DriverLimits, Waker};
use engine::PortableDriver;
use std::net::UdpSocket;
use std::sync::Arc;

/// A driver on the real kernel, made in the thread that will use it.
pub fn open(
    listeners: Vec<UdpSocket>,
    waker: Arc<Waker>,
    limits: &DriverLimits,
) -> Result<PortableDriver<SystemCalls>, DriverError> {
    Ok(PortableDriver::new(SystemCalls::new(listeners, waker, limits)?))
}

/// Bytes of the receive buffers of a driver made with these bounds.
pub fn buffer_bytes(limits: &DriverLimits) -> usize {
    kernel::BATCH * kernel::stride_bytes(limits)
}
