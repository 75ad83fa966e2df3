//! The admin port's listeners and connections, and what they may request from the control thread.
//!
//! In: connections. Out: answers, by `admin/`; changes to `state.rs`.
//!
//! ```text
//! admin_listeners.rs  listens, leaves, closes      accept.rs (connections, within the budget), spares.rs
//! admin_service.rs    views and actions            observe.rs (`tap`, `-d`)
//! ```

pub(in crate::control) mod accept;
pub(in crate::control) mod admin_listeners;
pub(in crate::control) mod admin_service;
pub(in crate::control) mod observe;
pub(in crate::control) mod spares;
