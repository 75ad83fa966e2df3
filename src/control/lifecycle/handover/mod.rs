//! A restart that loses nothing: a new process takes the sockets over from the one that started it.
//!
//! In: SIGUSR2. Out: a new process that serves, or this one, which continues. Next: `control/lifecycle/restart.rs` does what is decided.
//!
//! ```text
//! decide.rs       who serves, as two pure state machines
//! inherit.rs      which sockets go over, as a pure comparison
//! message.rs      the protocol between the two processes
//! program.rs      the program to start
//! successor.rs    the new process as the old one sees it
//! predecessor.rs  the old process as the new one sees it
//! ```
//!
//! Both have the same sockets and receive from both at once for a moment; each relays what it receives, so nothing is lost
//! and nothing is duplicated. Metrics of one name may be reordered then.

pub mod decide;
pub mod inherit;
pub mod message;
pub mod predecessor;
pub mod program;
pub mod successor;
