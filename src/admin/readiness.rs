//! Whether the proxy is ready for metrics, with the reason: `/readyz`, `check-ready`.
//!
//! In: what `control/` knows. Out: text. Next: `http/` and `json.rs`.

/// Whether the proxy is ready for metrics: like `health`, with the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readiness {
    /// All workers are receiving, and no other state applies.
    Ready,
    /// Not every worker's receive is armed yet.
    #[default]
    Starting,
    /// Stopping.
    Stopping,
    /// The operator has set `health` to down.
    HealthDown,
    /// No backend is up, and `readyWithoutBackends` is false.
    NoBackend,
}

impl Readiness {
    /// The readiness; stopping takes precedence over its consequences.
    pub fn of(is_stopping: bool, is_receiving: bool, health_wanted: bool, has_backends: bool) -> Readiness {
        match () {
            _ if is_stopping => Readiness::Stopping,
            _ if !is_receiving => Readiness::Starting,
            _ if !health_wanted => Readiness::HealthDown,
            _ if !has_backends => Readiness::NoBackend,
            _ => Readiness::Ready,
        }
    }

    /// Whether it is ready.
    pub fn is_ready(self) -> bool {
        self == Readiness::Ready
    }

    /// As text.
    pub fn message(self) -> &'static str {
        match self {
            Readiness::Ready => "ready: all workers are receiving",
            Readiness::Starting => "not ready: starting, not all workers are receiving",
            Readiness::Stopping => "not ready: stopping",
            Readiness::HealthDown => {
                "not ready: health was set to down; the admin command health up reverts it"
            }
            Readiness::NoBackend => "not ready: no backend is up (readyWithoutBackends is false)",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_is_reported_although_nothing_is_received() {
        assert_eq!(Readiness::of(true, false, true, false), Readiness::Stopping);
        assert_eq!(Readiness::of(true, true, false, true), Readiness::Stopping);
        assert_eq!(Readiness::of(false, false, false, false), Readiness::Starting);
        assert_eq!(Readiness::of(false, true, false, false), Readiness::HealthDown);
        assert_eq!(Readiness::of(false, true, true, false), Readiness::NoBackend);
        assert!(Readiness::of(false, true, true, true).is_ready());
    }
}
