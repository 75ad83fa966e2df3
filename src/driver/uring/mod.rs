//! io_uring: multishot receives without waiting into registered buffers, sends in batches, one enter for each.
//!
//! In: what the driver asks. Out: the kernel's answers. `kernel.rs` is the ring, `buffers.rs` its receive buffers, `cqe.rs`
//! reads what comes back, `restrict.rs` gives up what a worker does not need, `probe.rs` finds out whether io_uring works here
//! before the engine is chosen, `refusal.rs` says why not. Next: `engine.rs`.

mod buffers;
pub mod cqe;
mod kernel;
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
