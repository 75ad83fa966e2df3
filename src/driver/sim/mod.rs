//! A seeded fake kernel for tests: the same seed gives the same run, to the microsecond.
//!
//! It is below the driver's own rules, so that a test on it exercises the code that runs on the real kernels. In: a setup and
//! a script. Out: the results of a real kernel, with faults, and a record. Next: `engine.rs` runs on it.

mod backends;
mod faults;
mod handle;
mod kernel;
mod listener;
mod network;
mod random;
mod setup;
mod sockets;
mod state;
mod timestamps;

pub use backends::Accepted;
pub use faults::{Fault, Faults};
pub use handle::SimHandle;
pub use kernel::{SimDriver, SimKernel};
pub use network::SimNetwork;
pub use random::Random;
pub use setup::{ReceivedDatagram, START_US, SimSetup};
pub use timestamps::Stamped;
