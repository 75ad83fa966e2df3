//! The fuzz targets: each module's `run` accepts any bytes and panics only on a bug in statsring.
//!
//! In: bytes from the fuzzer or from the seeds in `corpus/`. Out: nothing, or a panic that describes the bug. The targets in
//! `fuzz_targets/` are one line each, so that `cargo test` runs the same code without a fuzzer. Run them with
//! `scripts/fuzz.sh`.

pub mod admin;
pub mod config;
pub mod expand;
pub mod header;
pub mod http;
pub mod naive;
pub mod relay;
pub mod scan;
pub mod session;
