//! When a measurement is over: everything has arrived, or nothing arrives any more. Pure.
//!
//! In: what has come, how long it has been quiet. Out: whether to end. Next: the loops of `mod.rs` and of `load`.

/// Duplicates may follow the last metric for so long, µs.
const DUPLICATES_US: u64 = 300_000;
/// After the load's end nobody waits longer than this, however much comes, µs.
const WAIT_US_MAX: u64 = 60_000_000;

/// The state, some time after the load has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Metrics that were sent.
    pub sent: u64,
    /// Metrics that have arrived.
    pub arrived: u64,
    /// How long nothing has come, or since the load's end, whichever is shorter, µs.
    pub quiet_us: u64,
    /// Since the load's end, µs.
    pub waited_us: u64,
}

/// Whether to end; what has not come by `patience_us` of silence is lost.
pub fn is_over(standing: &Standing, patience_us: u64) -> bool {
    let is_complete = standing.arrived >= standing.sent;
    let enough_us = if is_complete { DUPLICATES_US.min(patience_us) } else { patience_us };
    standing.quiet_us >= enough_us || standing.waited_us >= WAIT_US_MAX.max(patience_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_soon_if_all_is_there_and_always_comes() {
        let standing = Standing { sent: 10, arrived: 10, quiet_us: 299_999, waited_us: 400_000 };
        assert!(!is_over(&standing, 2_000_000));
        assert!(is_over(&Standing { quiet_us: 300_000, ..standing }, 2_000_000));
        let missing = Standing { arrived: 9, quiet_us: 300_000, ..standing };
        assert!(!is_over(&missing, 2_000_000));
        assert!(is_over(&Standing { quiet_us: 2_000_000, ..missing }, 2_000_000));
        assert!(is_over(&Standing { waited_us: WAIT_US_MAX, quiet_us: 0, ..missing }, 2_000_000));
        assert!(!is_over(&Standing { waited_us: WAIT_US_MAX, quiet_us: 0, ..missing }, 2 * WAIT_US_MAX));
    }
}
