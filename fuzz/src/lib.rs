//! What the fuzz targets do with their bytes: each module's `run` takes any bytes, and panics only if statsring is wrong.
//!
//! In: bytes, from the fuzzer, or from the seeds in `corpus/`. Out: nothing, or a panic that says what is wrong. The targets in
//! `fuzz_targets/` are one line each, so that the same code runs under `cargo test` without a fuzzer. To run them:
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
