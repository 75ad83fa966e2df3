//! (being written)
#![allow(missing_docs)]
pub mod health;
pub mod net;
pub mod probe;
