//! The life of the process: start, phases, stop, and a restart without loss.
//!
//! In: a valid config, signals, sockets from the service manager or an older process. Out: an exit code.
//!
//! ```text
//! start.rs    sockets, engine, workers → ready        engine.rs, failure.rs (why not)
//! phase.rs    what follows from each event in each phase   event_loop.rs (carries it out), process.rs (workers, events)
//! stop.rs     drain, last account
//! restart.rs  a new process takes over, or this one did   handover/
//! sockets.rs  everything that listens                 bind.rs, activation.rs, descriptors.rs, gro.rs
//! signals.rs, systemd.rs, handle.rs   to and from the outside
//! ```

pub(in crate::control) mod activation;
pub(in crate::control) mod bind;
pub(in crate::control) mod descriptors;
pub(in crate::control) mod engine;
pub(in crate::control) mod event_loop;
pub(in crate::control) mod failure;
pub(in crate::control) mod gro;
pub(in crate::control) mod handle;
pub mod handover;
pub mod phase;
pub(in crate::control) mod process;
pub(in crate::control) mod restart;
pub(in crate::control) mod signals;
pub(in crate::control) mod sockets;
pub(in crate::control) mod start;
pub(in crate::control) mod stop;
pub(in crate::control) mod systemd;
