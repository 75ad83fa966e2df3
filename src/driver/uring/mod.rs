//! io_uring: multishot receives without waiting into registered buffers, sends in batches, one enter for each.
//!
//! In: requests of the driver ([`Kernel`](super::kernel::Kernel)). Out: results. `kernel.rs` is the ring, `buffers.rs` its
//! receive buffers, `drain.rs` what one drain brought, `messages.rs` what is sent, `cqe.rs` parses completions, `restrict.rs`
//! disables what a worker does not need, `probe.rs` checks whether io_uring works here before the engine is chosen, `refusal.rs`
//! explains why not. Next: `engine.rs`.

mod buffers;
pub mod cqe;
mod drain;
mod kernel;
mod messages;
mod probe;
pub mod refusal;
pub mod restrict;

pub use kernel::IoUringKernel;
pub use probe::probe;
pub use refusal::retry_on_enomem;

use super::{Driver, DriverError, DriverLimits, Waker};
use std::net::UdpSocket;
use std::sync::Arc;

/// A driver on io_uring, made in the thread that will use it.
///
/// # Errors
/// io_uring is refused here: the cause and the remedy.
pub fn open(
    listeners: Vec<UdpSocket>,
    waker: Arc<Waker>,
    limits: &DriverLimits,
) -> Result<Driver<IoUringKernel>, DriverError> {
    Ok(Driver::new(IoUringKernel::new(listeners, waker, limits)?))
}
