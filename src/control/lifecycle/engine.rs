//! Which engine this process uses: as configured, and as this host allows. Decided once, at the start.
//!
//! In: a config. Out: the engine, and a warning if it is not the preferred one. Next: `process.rs`.

use crate::config::Config;
use crate::control::lifecycle::failure::Failure;
use crate::control::net;
use crate::driver::uring::{self, IoUringKernel, refusal};
use crate::driver::{DriverError, DriverLimits, Engine};
use crate::exit;
use crate::worker::Limits;
use std::io;

/// The engine, and its requirements.
#[derive(Debug)]
pub struct EngineChoice {
    /// Of the workers and of the control thread.
    pub engine: Engine,
    /// Locked memory that the rings of all of them need; 0 without rings.
    pub rings_bytes: usize,
    /// Why it is not io_uring, if that was permitted.
    pub degraded: Option<String>,
}

impl EngineChoice {
    fn portable(degraded: Option<String>) -> EngineChoice {
        EngineChoice { engine: Engine::Portable, rings_bytes: 0, degraded }
    }
}

/// Chooses for workers with these bounds; `listeners` is the number of sockets that each worker listens on.
///
/// # Errors
/// The config requires io_uring, which is refused here.
pub fn choose(config: &Config, limits: &Limits, listeners: usize) -> Result<EngineChoice, Failure> {
    if config.engine == Some(Engine::Portable) {
        return Ok(EngineChoice::portable(None));
    }
    let limits = limits.driver();
    let rings_bytes = net::RING_BYTES + config.workers * IoUringKernel::bytes(&limits, listeners);
    match (try_io_uring(config, DriverLimits { rings_bytes, ..limits }), config.engine) {
        (Ok(()), _) => Ok(EngineChoice { engine: Engine::IoUring, rings_bytes, degraded: None }),
        (Err(message), Some(_)) => Err(Failure {
            message: format!("{message}. Or use the portable engine: \"engine\": \"auto\""),
            code: exit::NO_ENGINE,
        }),
        (Err(message), None) => Ok(EngineChoice::portable(Some(format!(
            "engine: using the portable engine: {message}; then restart. To use the portable engine without this warning, set \"engine\": \
             \"portable\""
        )))),
    }
}

/// Whether all required rings can be created; else why not.
fn try_io_uring(config: &Config, limits: DriverLimits) -> Result<(), String> {
    net::try_ring().map_err(|error| refused(error, limits.rings_bytes).to_string())?;
    uring::probe(config.workers, &limits).map_err(|error| error.to_string())
}

/// The error that the control thread's ring could not be created.
pub fn refused(error: io::Error, rings_bytes: usize) -> DriverError {
    refusal::refusal("io_uring_setup", error, rings_bytes, &refusal::Host::read())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config_diff::tests::config;

    #[test]
    fn the_portable_engine_is_used_if_configured() {
        let mut config = config(&["127.0.0.1:9"]);
        config.engine = Some(Engine::Portable);
        let chosen = choose(&config, &config.limits(), 1).unwrap();
        assert_eq!((chosen.engine, chosen.rings_bytes, chosen.degraded), (Engine::Portable, 0, None));
    }

    #[test]
    fn where_io_uring_works_it_is_chosen() {
        let config = config(&["127.0.0.1:9"]);
        let chosen = choose(&config, &config.limits(), 2).unwrap();
        if let Some(message) = chosen.degraded {
            assert_eq!(chosen.engine, Engine::Portable);
            eprintln!("skipped: {message}");
            return;
        }
        assert_eq!(chosen.engine, Engine::IoUring);
        assert!(chosen.rings_bytes > net::RING_BYTES);
    }
}
