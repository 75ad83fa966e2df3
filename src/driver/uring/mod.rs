//! io_uring: multishot receive into a registered buffer ring, sends in batches, one enter for both.
//!
//! In: datagrams from the kernel, packets from the worker. Out: both to the other side. `engine.rs` keeps the rules, on
//! any `ring.rs`; `kernel.rs` is the real one, with `buffers.rs` and `restrict.rs`; `classify.rs` and `header.rs` read
//! what comes back; `refusal.rs` says why io_uring is not to be had, `probe.rs` finds that out before it counts. Next: `worker/`.

mod buffers;
pub mod classify;
pub mod engine;
pub mod header;
mod kernel;
pub mod refusal;
pub mod restrict;
mod retry;
pub mod ring;
mod multishot;
mod probe;

pub use kernel::KernelRing;
pub use probe::probe;
pub use retry::retry_on_enomem;

use super::{DriverError, DriverLimits, Waker};
use engine::RingDriver;
use std::net::UdpSocket;
use std::sync::Arc;

/// A driver on the real ring, made in the thread that will use it.
pub fn open(
    listeners: Vec<UdpSocket>,
    waker: Arc<Waker>,
    limits: &DriverLimits,
) -> Result<RingDriver<KernelRing>, DriverError> {
    Ok(RingDriver::new(KernelRing::new(listeners, waker, limits)?))
}
