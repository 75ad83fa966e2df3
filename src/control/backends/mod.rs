//! The backends: where each is, whether it is up, and the table by which the workers route.
//!
//! In: names and health checks of the config, what workers and checks report. Out: published route tables. Next: `relay/`.
//!
//! ```text
//! backend_set.rs     the backends of the config in force      backend.rs (one of them)
//! health_checker.rs  one backend's checks and look-ups        check_schedule.rs, check.rs, probe.rs, health.rs
//! locate.rs          where the backends are                   resolve.rs, addresses.rs, own.rs, source.rs
//! table.rs           the route table for the workers          send_error_log.rs (errors of sends, in the log)
//! ```

pub mod addresses;
pub mod backend;
pub mod backend_set;
pub(in crate::control) mod check;
pub mod check_schedule;
pub mod health;
pub(in crate::control) mod health_checker;
pub(in crate::control) mod locate;
pub(in crate::control) mod own;
pub mod probe;
pub(in crate::control) mod resolve;
pub(in crate::control) mod send_error_log;
pub(in crate::control) mod source;
pub mod table;
