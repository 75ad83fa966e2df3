//! The other commands of the program, one file each, with their options; `config_file.rs` reads the config for those that have one.
//!
//! In: parsed arguments. Out: an exit code. The process ends with it.

pub mod check_ready;
pub mod config_file;
pub mod demo;
pub mod load;
mod names;
pub mod plan;
mod running;
pub mod sink;
pub mod where_name;
